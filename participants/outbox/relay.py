"""The relay: delivers the outbox, in order per key, at least once, from any number of processes.

There is no cursor. A row is the relay's while it stands in the table, and it is deleted when the broker has it; so gaps
in the sequence, transactions in doubt and long transactions of strangers can neither lose a row nor hold one up.

One pass goes over the backlog of the relay's shards in the order of the rows, several batches in flight, and the next
one begins at the start again. A row that was refused holds up its key and nothing else, until it is delivered or given
up. What can be delivered twice: rows in flight when a relay died or lost its shards, at most `IN_FLIGHT` batches, with
the same message id each time.
"""

import asyncio
import logging
import os
import random
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
from asyncpg.pool import PoolAcquireContext

from coordinator import limits
from coordinator.errors import CoordinatorError, Refused, Unavailable
from coordinator.faults.points import boundary
from coordinator.ports import OutboxRow as Row
from coordinator.ports import Publisher
from coordinator.schema import apply, queries
from coordinator.telemetry import Telemetry
from participants.outbox.shards import Shards

logger = logging.getLogger(__name__)

SQL = queries(Path(__file__).with_name("queries.sql"))
IN_FLIGHT = 4
PAUSE_MIN_S = 0.005
ATTEMPTS_MAX = 6
BACKOFF_S = 0.2
_LOST = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)

Key = tuple[str, str, bytes | None]


@dataclass(slots=True)
class Figures:
    """What one relay has done since it started."""

    delivered: int = 0
    deleted: int = 0
    postponed: int = 0
    dead: int = 0
    replaced: int = 0
    """Delivered rows whose shard belonged to another relay by the time they were to be deleted."""


class Relay:
    """One relay on one database. *publishers* are by the participant's name that the rows carry."""

    def __init__(
        self,
        url: str,
        publishers: Mapping[str, Publisher],
        *,
        poll_every_s: float = 1.0,
        lease_s: float = limits.LEASE_S,
        batch: int = limits.OUTBOX_BATCH_MAX,
        connect_options: Mapping[str, Any] | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.figures = Figures()
        self.shards = Shards(
            relay=f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}", sql=SQL, lease_s=lease_s
        )
        self.poll_every_s = poll_every_s
        self._url, self._publishers, self._batch = url, publishers, batch
        self._options = dict(connect_options or {})
        self._telemetry = telemetry
        self._pool: asyncpg.Pool[Any] | None = None
        self._wake = asyncio.Event()
        self._flights: set[asyncio.Task[None]] = set()
        self._busy: dict[int, int] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._failed = self._stopping = False
        self._undeleted: list[int] = []
        """Rows that the broker has, and whose deletion had no answer: they are deleted before anything else is sent."""

    async def start(self) -> None:
        """Create what is missing, claim shards, and begin. Returns when it is at work."""
        # A connection may hear nothing any more without anybody closing it: no statement waits for longer than this.
        options = {"command_timeout": limits.PARTICIPANT_CALL_S, **self._options}
        self._pool = await asyncpg.create_pool(self._url, min_size=1, max_size=IN_FLIGHT + 3, **options)
        async with self._connection() as connection:
            await apply(connection, "outbox", "relay")
            await connection.execute(SQL["shards"], limits.OUTBOX_SHARDS)
            await self.shards.look_after(connection)
        self._tasks = [
            asyncio.create_task(self._for_ever(self._deliver), name="relay"),
            asyncio.create_task(self._for_ever(self._keep_shards), name="relay's shards"),
        ]

    async def stop(self) -> None:
        """Let what is in flight land, give the shards back, and end. Idempotent, bounded in time."""
        tasks, self._tasks = self._tasks, []
        self._stopping = True
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._flights:
            await asyncio.wait(self._flights, timeout=limits.PARTICIPANT_CALL_S)
        for flight in self._flights:
            flight.cancel()
        if tasks:
            await self._leave()
        if self._pool is not None:
            self._pool.terminate()
        for publisher in self._publishers.values():
            await publisher.close()

    def wake(self) -> None:
        """There is something to deliver: do not wait for the next poll."""
        self._wake.set()

    async def lag(self) -> Mapping[str, Any]:
        """Rows that wait, are ready and are dead, and the age in seconds of the oldest one that is ready."""
        async with self._connection() as connection:
            return dict(await connection.fetchrow(SQL["lag"]) or {})

    # ── delivering ──

    async def _deliver(self) -> None:
        pause_s = PAUSE_MIN_S
        while True:
            self._wake.clear()
            handled = await self._pass() if self.shards.terms and self.shards.safe else 0
            pause_s = PAUSE_MIN_S if handled else min(self.poll_every_s, 2 * pause_s)
            try:
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _pass(self) -> int:
        """One pass over the backlog; how many rows were sent."""
        position, handled = 0, 0
        held_up: set[Key] = set()
        self._failed = False
        if self._undeleted:
            await self._delete(self._undeleted, dict(self.shards.terms))
            self._undeleted = []
        while self.shards.safe and not self._failed:
            rows = await self._select(position)
            if not rows:
                break
            position = rows[-1]["id"]
            handled += await self._send(rows, held_up)
            if len(rows) < self._batch:
                break
        while self._flights:
            await asyncio.wait(self._flights)
        return 0 if self._failed else handled

    async def _select(self, position: int) -> Sequence[Row]:
        async with self._connection() as connection:
            arguments = (list(self.shards.terms), position, self._batch)
            rows: Sequence[Row] = await boundary("outbox.select", lambda: connection.fetch(SQL["select"], *arguments))
        return rows

    async def _send(self, rows: Sequence[Row], held_up: set[Key]) -> int:
        while len(self._flights) >= IN_FLIGHT:
            await asyncio.wait(self._flights, return_when=asyncio.FIRST_COMPLETED)
        if self._failed or not self.shards.safe:
            return 0  # What failed goes first, in the next pass: these rows may be behind it.
        sent: list[Row] = []
        futures: list[asyncio.Future[Any]] = []
        for row in rows:
            key = (row["participant"], row["topic"], row["key"])
            if key in held_up and row["key"] is not None:
                continue
            if not row["due"]:
                held_up.add(key)
                continue
            try:
                futures.append(await self._publisher(row).send(row))
                sent.append(row)
                if self._telemetry is not None:
                    self._telemetry.delivering(row, futures[-1])
            except Refused as failure:
                held_up.add(key)
                await self._postpone(row, failure)
            except Unavailable as failure:
                logger.warning("the relay waits: %s", failure)
                self._failed = True
                break
        if sent:
            flight = asyncio.create_task(self._land(sent, futures, held_up))
            self._flights.add(flight)
            flight.add_done_callback(self._landed)
        return len(sent)

    async def _land(self, rows: Sequence[Row], futures: Sequence["asyncio.Future[Any]"], held_up: set[Key]) -> None:
        """Wait for the acknowledgements of one batch, and delete what was acknowledged."""
        terms = dict(self.shards.terms)

        async def acknowledged() -> None:
            await asyncio.wait(futures)

        await boundary("outbox.publish", acknowledged)
        done = [row["id"] for row, future in zip(rows, futures, strict=True) if future.exception() is None]
        for row, future in zip(rows, futures, strict=True):
            failure = future.exception()
            if failure is not None and self._publisher(row).refused(failure):
                held_up.add((row["participant"], row["topic"], row["key"]))
                await self._postpone(row, failure)
            elif failure is not None:
                self._failed = True
        self.figures.delivered += len(done)
        if done:
            try:
                await self._delete(done, terms)
            except (*_LOST, CoordinatorError):
                self._undeleted += done
                raise
        if self._failed:
            await self._renew_publishers({row["participant"] for row in rows})

    async def _delete(self, ids: Sequence[int], terms: Mapping[int, int]) -> None:
        async with self._connection() as connection:
            arguments = (ids, list(terms), list(terms.values()))
            result = await boundary("outbox.delete", lambda: connection.execute(SQL["delete"], *arguments))
        deleted = int(result.split()[-1])
        self.figures.deleted += deleted
        if deleted < len(ids):
            self.figures.replaced += len(ids) - deleted
            logger.warning("%d delivered rows belong to another relay now", len(ids) - deleted)

    async def _postpone(self, row: Row, failure: BaseException) -> None:
        wait_s = random.uniform(0, BACKOFF_S * 2 ** row["attempts"])  # noqa: S311 - jitter, not a secret.
        reason = str(failure) or type(failure).__name__
        async with self._connection() as connection:
            arguments = (row["id"], reason, ATTEMPTS_MAX, wait_s, self.shards.relay)
            dead = await connection.fetchval(SQL["postpone"], *arguments)
        self.figures.postponed += 1
        if dead:
            self.figures.dead += 1
            logger.error("message %s is given up after %d attempts: %s", row["message_id"], row["attempts"] + 1, reason)

    def _publisher(self, row: Row) -> Publisher:
        publisher = self._publishers.get(row["participant"])
        if publisher is None:
            raise Refused(f"no participant {row['participant']!r} is registered with this relay")
        return publisher

    async def _renew_publishers(self, names: set[str]) -> None:
        for name in names:
            publisher = self._publishers.get(name)
            if publisher is not None:
                await publisher.close()

    def _landed(self, flight: asyncio.Task[None]) -> None:
        self._flights.discard(flight)
        if not flight.cancelled() and (failure := flight.exception()) is not None:
            self._failed = True
            logger.warning("a batch of the relay did not land: %r", failure)

    # ── owning ──

    async def _keep_shards(self) -> None:
        while True:
            await asyncio.sleep(self.shards.lease_s / 6)
            async with self._connection() as connection:
                await self.shards.look_after(connection)
                surplus = await self.shards.surplus(connection)
                if surplus and not self._flights:
                    await self.shards.give_back(connection, surplus)
            self.wake()

    async def _leave(self) -> None:
        try:
            async with asyncio.timeout(limits.PARTICIPANT_CALL_S), self._connection() as connection:
                await self.shards.give_back(connection, list(self.shards.terms))
                await connection.execute(SQL["leave"], self.shards.relay)
        except (*_LOST, CoordinatorError) as failure:
            logger.warning("the relay could not give its shards back, their leases have to expire: %r", failure)

    async def _for_ever(self, work: Callable[[], Awaitable[None]]) -> None:
        while not self._stopping:  # A connection that cannot be given back raises its own error, and not the cancel.
            try:
                await work()
            except (*_LOST, CoordinatorError) as failure:
                logger.warning("the relay begins again: %r", failure)
                await asyncio.sleep(min(1.0, self.poll_every_s))

    def _connection(self) -> "PoolAcquireContext[Any]":
        if self._pool is None:
            raise Unavailable("the relay is not started")
        return self._pool.acquire(timeout=limits.PARTICIPANT_CALL_S)
