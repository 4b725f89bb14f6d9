"""What the engine asks about owners: who may drive what, and whose transactional ids are whose."""

from collections.abc import Sequence
from typing import Protocol

from coordinator.records import Lease


class Owners(Protocol):
    """Who may drive what. Leases are decided by the database's clock; a takeover bumps the term first."""

    async def register(self) -> Lease:
        """Become an owner under a new id, with a term of 1."""
        ...

    async def renew(self, lease: Lease) -> Lease:
        """Prolong the lease. Raises `Replaced` where another process has bumped the term."""
        ...

    async def resign(self, lease: Lease) -> None:
        """End the lease now, so that others need not wait for it to expire."""
        ...

    async def take_over(self, lease: Lease) -> Sequence[str]:
        """Bump the term of every owner whose lease has expired; return their ids, each to exactly one caller.

        An owner stays listed (to whoever asks, after its taker's own lease has expired) until `buried`.
        """
        ...

    async def buried(self, owner: str) -> None:
        """Everything of *owner* has been finished or adopted: forget it."""
        ...


class TransactionalIds(Protocol):
    """Which process owns which Kafka transactional id. Written when a pool grows, never per transaction."""

    async def claim(self, cluster: str, count: int) -> Sequence[str]:
        """Make *count* new ids, durable as this process' own before they are returned."""
        ...

    async def of(self, owner: str) -> Sequence[tuple[str, str]]:
        """The (cluster, transactional id) pairs that *owner* has, but those that an unfinished record names."""
        ...

    async def release(self, cluster: str, transactional_id: str) -> None:
        """Forget an id (this process' own, or a dead owner's) on which nothing is open and nothing is owed."""
        ...
