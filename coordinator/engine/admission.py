"""Who may begin a transaction here: nobody for whom there is no room, and nobody at all while this process stops.

A refusal comes before any work was done; it names the bound that was reached, and what to do about it.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from coordinator import limits
from coordinator.errors import Overloaded, Unavailable
from coordinator.protocol.model import Gid, Recipe

Bound = Callable[[], str | None]
"""Why no transaction should begin now: the bound that is reached, and the remedy. None while there is room."""


@runtime_checkable
class Bounded(Protocol):
    """A participant with a bound, at which nothing should begin any more."""

    def crowded(self, recipe: Recipe) -> str | None:
        """Why nothing more should begin: the bound's name, a colon, how it is, the remedy. None while there is room."""
        ...


@dataclass(slots=True, kw_only=True)
class Admission:
    """Counts the blocks that are open in this process, and knows what else must have room for another one."""

    transactions_max: int = limits.TRANSACTIONS_OPEN_MAX
    bounds: Sequence[Bound] = ()
    database: Bounded | None = None
    """The only one there is, so that every transaction needs it. (Of several, the one that is enlisted refuses.)"""
    brokers: Sequence[Bounded] = ()
    """For transactions that cannot do without."""
    stopping: bool = False
    open: set[Gid] = field(default_factory=set)
    """Transactions whose blocks have not ended yet. From then on they are the driver's."""
    refused: Counter[str] = field(default_factory=Counter)
    """How many were refused, by the reason's first words."""

    def check(self, recipe: Recipe, *, driving: int, publishes: bool) -> None:
        """Raise `Unavailable` while stopping, and `Overloaded` where a bound is reached; *driving* are under way.

        *publishes*: it may need a broker, and is rolled back without.
        """
        if self.stopping:
            self.refused["stopping"] += 1
            raise Unavailable("this process is stopping: ask another one, or this one when it is back")
        if len(self.open) + driving >= self.transactions_max:
            self._refuse(
                f"open transactions: {self.transactions_max} are under way in this process; "
                "slow down, or run more processes"
            )
        for bound in self.bounds:
            if (reason := bound()) is not None:
                self._refuse(reason)
        if self.database is not None and (reason := self.database.crowded(recipe)) is not None:
            self._refuse(reason)
        for broker in self.brokers if publishes else ():
            if (reason := broker.crowded(recipe)) is not None:
                self._refuse(reason)

    def entered(self, gid: Gid) -> None:
        """The block of *gid* is open."""
        self.open.add(gid)

    def left(self, gid: Gid) -> None:
        """The block of *gid* has ended. Idempotent."""
        self.open.discard(gid)

    def _refuse(self, reason: str) -> None:
        self.refused[reason.partition(":")[0]] += 1
        raise Overloaded(reason)
