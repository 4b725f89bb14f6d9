"""Semantic locks: a saga reserves something for itself from one of its steps to a later one.

A lock is a row, written in the transaction of the step that takes it, and deleted in that of the step or compensation
that lets go. It holds no database lock in between. It only keeps out those who take it as well. Nothing here knows
whether a saga has ended: what it has not let go of stays, and an operator frees it.

Where sagas wait for each other in a circle, the youngest gives way: its step is refused, so that it is undone, and its
compensations let go. All others keep trying.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from coordinator.errors import Conflict, InvalidDefinition, TurnedAway
from coordinator.schema import apply, queries
from participants.barrier.drivers import Asyncpg, Driver

SQL = queries(Path(__file__).with_name("queries.sql"))
ASKS_AGAIN_WITHIN_S = 60.0
"""A saga that has not asked for a lock again for so long waits for it no more: circles with it are not noticed."""
_HELD_MAX = 1000


class _Held(Exception):
    """Others have some of them: rolls the transaction back."""

    def __init__(self, holders: Mapping[str, str]) -> None:
        super().__init__()
        self.holders = holders


@dataclass(frozen=True, slots=True)
class HeldLock:
    """A lock that a saga has."""

    resource: str
    gid: str
    taken_at: datetime


class SemanticLocks:
    """The semantic locks in one database. *driver* is that of the connections: see `Barrier`."""

    def __init__(self, driver: Driver | None = None) -> None:
        self._driver = driver or Asyncpg()

    async def create(self, connection: Any) -> None:
        """Create the tables where they are missing, on an asyncpg connection. Outside of a transaction.

        With another driver: `coordinator schema apply locks`.
        """
        await apply(connection, "locks")

    @asynccontextmanager
    async def taken(self, connection: Any, *resources: str, gid: str) -> AsyncIterator[Callable[..., Awaitable[None]]]:
        """A transaction in which saga *gid* has *resources*, and keeps them when it is committed.

        The block gets a function that takes further ones: behind a barrier, those of a step that may proceed. (A late
        duplicate would take for good what the saga has let go of.) Let pass what it raises.

        Outside of a transaction, since who waits is to be seen by others although the waiter is rolled back. Raises
        `Conflict` where another saga has one of them: nothing happened, and the step is tried again as its policy says.
        Raises `TurnedAway` where the sagas wait in a circle and this is the youngest of it: a refusal of this attempt,
        since an earlier one may have had the lock. Behind its pivot a saga parks then, and keeps what it has. The
        pauses between attempts are below `ASKS_AGAIN_WITHIN_S`, or circles are missed.
        Taking a lock twice is legal.
        """
        if self._driver.is_open(connection):
            raise InvalidDefinition("a semantic lock opens the transaction of its step: take it outside of one")
        try:
            async with self._driver.transaction(connection):
                if not await self._driver.in_transaction(connection):
                    raise InvalidDefinition(
                        "a semantic lock is taken in one transaction: this connection commits by itself"
                    )
                if resources:
                    await self._take(connection, gid, *resources)
                yield partial(self._take, connection, gid)
        except _Held as held:
            await self._wait(connection, held.holders, gid)

    async def release(self, connection: Any, *resources: str, gid: str) -> None:
        """Let go of *resources* (without any: of all that the saga has), on the caller's open transaction.

        Having none of them is no error: a compensation may come although its step never did.
        """
        if not await self._driver.in_transaction(connection):
            raise InvalidDefinition("a semantic lock is let go inside the transaction that makes it needless: open one")
        await self._driver.rows(connection, SQL["free"], gid, list(resources), not resources)
        await self._driver.rows(connection, SQL["stop_waiting"], gid, list(resources), not resources)

    async def held(self, connection: Any, gid: str | None = None) -> list[HeldLock]:
        """The locks that there are, or that saga *gid* has: the oldest thousand. Outside of a transaction."""
        async with self._driver.transaction(connection):
            rows = await self._driver.rows(connection, SQL["held"], gid, _HELD_MAX)
        return [HeldLock(*row) for row in rows]

    async def free(self, connection: Any, gid: str, *resources: str) -> list[str]:
        """Take *resources* (without any: all) from a saga that will not let go; which it had. Outside of a transaction.

        For an operator, of a saga that has ended: for instance after a `skip` of the compensation that would have let
        go. One that is still under way loses what keeps others out of its intermediate state.
        """
        async with self._driver.transaction(connection):
            rows = await self._driver.rows(connection, SQL["free"], gid, list(resources), not resources)
            await self._driver.rows(connection, SQL["stop_waiting"], gid, list(resources), not resources)
        return sorted(row[0] for row in rows)

    async def _take(self, connection: Any, gid: str, *resources: str) -> None:
        rows = await self._driver.rows(connection, SQL["take"], list(resources), gid)
        holders = {row[0]: row[1] for row in rows if row[1] != gid}
        if holders:
            raise _Held(holders)
        await self._driver.rows(connection, SQL["stop_waiting"], gid, list(resources), False)

    async def _wait(self, connection: Any, holders: Mapping[str, str], gid: str) -> None:
        async with self._driver.transaction(connection):
            await self._driver.rows(connection, SQL["wait"], sorted(holders), gid, ASKS_AGAIN_WITHIN_S)
        async with self._driver.transaction(connection):  # Whoever commits last sees the others, so a circle is seen.
            rows = await self._driver.rows(connection, SQL["edges"], ASKS_AGAIN_WITHIN_S)
            refused = gives_way(gid, [(row[0], row[1]) for row in rows])
            if refused:
                await self._driver.rows(connection, SQL["stop_waiting"], gid, sorted(holders), False)
        told = ", ".join(f"{resource!r} is held by saga {holder}" for resource, holder in sorted(holders.items()))
        if refused:
            raise TurnedAway(f"{told}, which waits for {gid} in turn: the youngest gives way", gid=gid)
        raise Conflict(told, gid=gid)


def gives_way(gid: str, edges: Iterable[tuple[str, str]]) -> bool:
    """Whether *gid* is the youngest of a circle in *edges* (who waits for whom). Each circle has one such.

    Ids are in the order of their age, so it is enough to look for a way back that leads over older ones only.
    """
    waits: dict[str, set[str]] = {}
    for waiter, holder in edges:
        waits.setdefault(waiter, set()).add(holder)
    seen: set[str] = set()
    ahead: Collection[str] = waits.get(gid, set())
    while ahead:
        if gid in ahead:
            return True
        seen |= {other for other in ahead if other < gid}
        ahead = {holder for other in ahead if other < gid for holder in waits.get(other, ())} - seen
    return False
