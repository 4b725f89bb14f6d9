"""The rows of one outbox, as its relay reads, deletes and postpones them."""

import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
from asyncpg.pool import PoolAcquireContext

from coordinator import limits
from coordinator.errors import Unavailable
from coordinator.faults.points import boundary
from coordinator.ports import OutboxRow as Row
from coordinator.schema import queries

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
SQL = queries(Path(__file__).with_name("queries.sql"))
LOST = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
IN_ORDER = "".join(f"SET enable_{way} = off;" for way in ("seqscan", "bitmapscan", "sort", "incremental_sort"))
"""The table is empty when it is analysed and full when it matters, so the planner is told: by the index, in order."""
ATTEMPTS_MAX = 6
BACKOFF_S = 0.2
_CONNECTIONS_MAX = 6


class Backlog:
    """One database's outbox, on a pool of the relay's own."""

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self._url, self._options = url, options
        self._pool: asyncpg.Pool[Any] | None = None
        self._kept: dict[str, Any] = {}
        """One for each thing that is done all the time: taking one and giving it back costs twice what a query does."""

    async def open(self) -> None:
        """Connect."""
        # A connection may hear nothing any more without anybody closing it: no statement waits for longer than this.
        options = {"command_timeout": limits.PARTICIPANT_CALL_S, **self._options}
        self._pool = await asyncpg.create_pool(
            self._url, min_size=1, max_size=_CONNECTIONS_MAX, init=_prepare, reset=_keep_as_it_is, **options
        )

    def close(self) -> None:
        """Cut all connections. Idempotent."""
        if self._pool is not None:
            self._pool.terminate()

    def connection(self) -> "PoolAcquireContext[Any]":
        """One of the pool's connections. Raises `Unavailable` before `open`."""
        if self._pool is None:
            raise Unavailable("the relay is not started")
        return self._pool.acquire(timeout=limits.PARTICIPANT_CALL_S)

    async def _on_its_own(self, point: str, call: Callable[[Any], Awaitable[Result]]) -> Result:
        """Run *call*, one at a time for each *point*, on the connection that is kept for it."""
        connection = self._kept.pop(point, None)
        if connection is None or connection.is_closed():
            connection = await self.connection()
        try:
            answer = await boundary(point, lambda: call(connection))
        except BaseException:
            connection.terminate()  # Nobody knows what state it is in; the pool makes another.
            raise
        self._kept[point] = connection
        return answer

    async def select(self, shards: Sequence[int], after: int, count: int) -> Sequence[Row]:
        """The first rows of *shards* behind a position, in their order."""
        return await self._on_its_own(
            "outbox.select", lambda connection: connection.fetch(SQL["select"], shards, after, count)
        )

    async def delete(self, ids: Sequence[int], terms: Mapping[int, int]) -> int:
        """Delete rows of shards that are still held under *terms*; how many there were."""
        arguments = (ids, list(terms), list(terms.values()))
        answer: str = await self._on_its_own(
            "outbox.delete", lambda connection: connection.execute(SQL["delete"], *arguments)
        )
        return int(answer.rsplit(maxsplit=1)[-1])

    async def postpone(self, row: Row, failure: BaseException, term: int) -> bool:
        """Try a row again later that was refused; whether it was given up instead."""
        wait_s = random.uniform(0, BACKOFF_S * 2 ** row["attempts"])  # noqa: S311 - jitter, not a secret.
        reason = str(failure) or type(failure).__name__
        async with self.connection() as connection:
            dead = await connection.fetchval(SQL["postpone"], row["id"], reason, ATTEMPTS_MAX, wait_s, term)
        if dead:
            logger.error("message %s is given up after %d attempts: %s", row["message_id"], row["attempts"] + 1, reason)
        return bool(dead)


async def _prepare(connection: Any) -> None:
    await connection.execute(IN_ORDER)


async def _keep_as_it_is(_connection: Any) -> None:
    """Nothing that the relay does leaves anything behind: a round trip for every use would be for nothing."""
