"""This process as an owner: its lease, and what it may believe while it holds it.

The database's clock decides when a lease ends; our own only makes us stop earlier. Losing the term is not an error to
hide: every listener is told, so that nothing of the old owner is used again, and the process begins anew as another.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from coordinator import limits
from coordinator.engine.performer import UNKNOWN
from coordinator.engine.watchdog import Watchdog
from coordinator.errors import Replaced, Unavailable
from coordinator.ports import Clock, Lease, Owners

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Ownership:
    """Holds this process' lease and keeps it renewed."""

    owners: Owners
    clock: Clock
    watchdog: Watchdog
    on_loss: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    losses: int = 0
    _lease: Lease | None = None
    _believed_until_s: float = 0.0
    _renewing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _urgent: asyncio.Task[None] | None = None

    @property
    def lease(self) -> Lease:
        """The lease held now."""
        assert self._lease is not None, "an owner registers before it works"
        return self._lease

    @property
    def holds(self) -> bool:
        """Whether this process may begin something: its lease has a margin left, and it has not stood still since."""
        now_s = self.clock.monotonic_s()
        if now_s >= self._believed_until_s:
            return False
        return now_s <= self.watchdog.steady_until_s or not self.watchdog.stalled_at(now_s)

    async def register(self) -> None:
        """Become an owner."""
        asked_s = self.clock.monotonic_s()
        self._believe(await self.owners.register(), asked_s)

    async def beat(self, next_in_s: float) -> None:
        """Tell the watchdog that the event loop runs; after a standstill, renew at once and beside it."""
        if self.watchdog.beat(next_in_s) and self._lease is not None and not self._renewing.locked():
            self._urgent = asyncio.create_task(self.renew(), name="renew the lease after a standstill")

    async def renew(self) -> None:
        """Prolong the lease; begin anew under another id where this process was replaced."""
        async with self._renewing:
            await self._renew()

    async def _renew(self) -> None:
        _ = self.watchdog.stalled  # Noticed before the question is asked, so that its answer counts.
        asked_s = self.clock.monotonic_s()
        try:
            self._believe(await self.owners.renew(self.lease), asked_s)
        except Replaced:
            self.losses += 1
            logger.warning("owner %s was replaced: another process finishes its transactions", self.lease.owner)
            for tell in self.on_loss:
                await tell()
            await self.register()
        except (Unavailable, *UNKNOWN) as failure:
            logger.warning("the lease of %s is not renewed yet: %r", self.lease.owner, failure)

    async def resign(self) -> None:
        """Let others take over at once. Idempotent."""
        if self._urgent is not None:
            self._urgent.cancel()
        if self._lease is None:
            return
        lease, self._lease, self._believed_until_s = self._lease, None, 0.0
        try:
            await self.owners.resign(lease)
        except (Unavailable, Replaced, *UNKNOWN) as failure:
            logger.warning("owner %s could not resign, its lease has to expire: %r", lease.owner, failure)

    def _believe(self, lease: Lease, asked_s: float) -> None:
        # Counted from before the question: the answer's own way is part of the lease.
        self._lease = lease
        self.watchdog.renewed(asked_s)
        self._believed_until_s = asked_s + lease.seconds * limits.LEASE_BELIEVED_SHARE
