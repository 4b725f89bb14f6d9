"""The relay: delivers the outbox, in order per key, at least once, from any number of processes.

There is no cursor. A row is the relay's while it stands in the table, and it is deleted when the broker has it; so gaps
in the sequence, transactions in doubt and long transactions of strangers can neither lose a row nor hold one up.

One pass goes over the backlog of the relay's shards in the order of the rows, several batches in flight, and the next
one begins at the start again: when the end is reached, or after a while, for the sake of rows that came late or are due
again. A row that was refused holds up its key and nothing else, until it is delivered or given up. What can be
delivered twice: rows in flight when a relay died or lost its shards, at most `IN_FLIGHT` batches, with the same message
id each time.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coordinator import limits
from coordinator.errors import CoordinatorError, Unavailable
from coordinator.faults.points import boundary
from coordinator.ports import Blame, Parcel, Publisher
from coordinator.ports import OutboxRow as Row
from coordinator.schema import apply
from coordinator.telemetry import Telemetry
from participants.outbox.backlog import LOST, SQL, Backlog
from participants.outbox.runs import Nobody, runs
from participants.outbox.shards import Shards

logger = logging.getLogger(__name__)

IN_FLIGHT = 4
PASS_S = 0.5
"""After this long a pass begins at the start again."""
PAUSE_S = 0.005
"""After a quiet while the pauses between two looks begin with this, and double until `poll_every_s`."""
BUSY_PAUSE_S = 0.001
BUSY_S = 0.1
"""For this long after there was something of which nobody told it, a relay looks again every `BUSY_PAUSE_S`."""

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
        self.backlog = Backlog(url, connect_options or {})
        self._publishers, self._batch, self._telemetry = publishers, batch, telemetry
        self._wake = asyncio.Event()
        self._busy_until_s = 0.0
        self._tasks: list[asyncio.Task[None]] = []
        self._flights: set[asyncio.Task[None]] = set()
        self._travelling: dict[int, int] = {}
        """The shard of each row that was sent and not deleted yet: it is not sent again."""
        self._delivered: list[int] = []
        """Those that the broker has: they are deleted."""
        self._moved = asyncio.Event()
        """Something was delivered, deleted, or has to be sent again."""
        self._suspects: set[int] = set()
        """Rows of batches that were refused as a whole: they are sent one by one, to find the one to blame."""
        self._stopping = False
        self._failed = False
        """Something has to be sent again, before anything behind it is."""
        self._failures = 0
        """How often in a row, without anything that the broker took or refused."""

    async def start(self) -> None:
        """Create what is missing, claim shards, and begin. Returns when it is at work."""
        await self.backlog.open()
        async with self.backlog.connection() as connection:
            await apply(connection, "outbox", "relay")
            await connection.execute(SQL["shards"], limits.OUTBOX_SHARDS)
            await self.shards.look_after(connection)
        self._tasks = [
            asyncio.create_task(self._for_ever(self._deliver), name="relay"),
            asyncio.create_task(self._for_ever(self._keep_shards), name="relay's shards"),
            asyncio.create_task(self._for_ever(self._delete), name="relay's deletes"),
        ]

    async def stop(self) -> None:
        """Let what is in flight land, give the shards back, and end. Idempotent, bounded in time."""
        tasks, self._tasks = self._tasks, []
        self._stopping = True
        try:
            if tasks:
                await _end(tasks[:-1])
                try:
                    await asyncio.wait_for(self._settle(), timeout=limits.PARTICIPANT_CALL_S)
                except TimeoutError:
                    logger.warning("the relay ends before everything that it sent is acknowledged and deleted")
                await _end([*self._flights, tasks[-1]])
                await self._leave()
        finally:
            self.backlog.close()
        for publisher in self._publishers.values():
            await publisher.close()

    def wake(self) -> None:
        """There is something to deliver: do not wait for the next poll."""
        self._wake.set()

    async def lag(self) -> Mapping[str, Any]:
        """Rows that wait, are ready and are dead, and the age in seconds of the oldest one that is ready."""
        async with self.backlog.connection() as connection:
            return dict(await connection.fetchrow(SQL["lag"]) or {})

    # ── delivering ──

    async def _deliver(self) -> None:
        loop, pause_s = asyncio.get_running_loop(), PAUSE_S
        while True:
            woken = self._wake.is_set()
            self._wake.clear()
            if self._failed or (self._flights and not self.shards.safe):
                await self._begin_anew()
            found = self.shards.terms and self.shards.safe and await self._pass()
            if found and not woken:
                self._busy_until_s = loop.time() + BUSY_S
            if loop.time() < self._busy_until_s:
                wait_s, pause_s = BUSY_PAUSE_S, PAUSE_S
            elif found or woken:
                wait_s = pause_s = PAUSE_S
            else:
                wait_s = pause_s = min(self.poll_every_s, 2 * pause_s)
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _begin_anew(self) -> None:
        """Something was not taken, or our time is nearly up: nothing is under way afterwards."""
        if self._flights:
            await asyncio.wait(self._flights, timeout=self.shards.lease_s / 4)
        for publisher in self._publishers.values():
            await publisher.close()
        if self._flights:
            await asyncio.wait(self._flights)
        self._failed = False
        await asyncio.sleep(min(self.poll_every_s, PAUSE_S * 2 ** min(self._failures, 10)))
        self._failures += 1

    async def _pass(self) -> int:
        """One pass over the backlog; how many rows were sent."""
        position, sent = 0, 0
        held_up: set[Key] = set()
        until_s = asyncio.get_running_loop().time() + PASS_S
        while self.shards.safe and not self._failed and asyncio.get_running_loop().time() < until_s:
            under_way = frozenset(self._travelling)  # As it is now: what is read may be deleted before it arrives.
            rows = await self.backlog.select(list(self.shards.sendable), position, self._batch)
            fresh = [row for row in rows if row["id"] not in under_way] if under_way else rows
            if fresh:
                sent += await self._send(fresh, held_up)
            if len(rows) < self._batch:
                break
            position = rows[-1]["id"]
        return sent

    async def _send(self, rows: Sequence[Row], held_up: set[Key]) -> int:
        while self._travelling and len(self._travelling) + len(rows) > IN_FLIGHT * self._batch and not self._failed:
            self._moved.clear()
            await self._moved.wait()
        if self._failed or not self.shards.safe:
            return 0  # What failed goes first, in the next pass: these rows may be behind it.
        parcels: list[Parcel] = []
        try:
            for name, run in runs(rows, self._suspects):
                if ready := self._ready(run, held_up):
                    parcels += await self._hand_over(name, ready, held_up)
        except Unavailable as failure:
            logger.warning("the relay waits: %s", failure)
            self._failed = True
        finally:
            if parcels:
                flight = asyncio.create_task(self._land(parcels))
                self._flights.add(flight)
                flight.add_done_callback(self._landed)
        return sum(len(parcel.rows) for parcel in parcels)

    def _ready(self, rows: Sequence[Row], held_up: set[Key]) -> Sequence[Row]:
        """Rows of our shards that nothing holds up."""
        ready, sendable = [], self.shards.sendable
        for row in rows:
            if held_up or not row["due"]:
                key = (row["participant"], row["topic"], row["key"])
                if not row["due"]:
                    held_up.add(key)
                    continue
                if row["key"] is not None and key in held_up:
                    continue
            if row["shard"] in sendable:
                ready.append(row)
        return ready

    async def _hand_over(self, name: str, rows: Sequence[Row], held_up: set[Key]) -> Sequence[Parcel]:
        """Send rows to one broker; what is under way then. Rows that it refuses at once are postponed."""
        under_way: list[Parcel] = []
        self._travelling.update((row["id"], row["shard"]) for row in rows)
        try:
            for parcel in await self._publisher(name).send(rows):
                if not self._refused_at_once(parcel):
                    under_way.append(parcel)
                    continue
                held_up.update((name, row["topic"], row["key"]) for row in parcel.rows)
                await self._postpone(parcel.rows, parcel.acknowledged.exception())
        finally:
            left = {row["id"] for row in rows}.difference(row["id"] for parcel in under_way for row in parcel.rows)
            for identifier in left:
                del self._travelling[identifier]
        if self._telemetry is not None and self._telemetry.traces:
            for parcel in under_way:
                for row in parcel.rows:
                    self._telemetry.delivering(row, parcel.acknowledged)
        return under_way

    def _publisher(self, name: str) -> Publisher:
        return self._publishers.get(name) or Nobody(name)

    def _refused_at_once(self, parcel: Parcel) -> bool:
        return parcel.acknowledged.done() and self._blame(parcel) is Blame.EACH_ROW

    def _blame(self, parcel: Parcel) -> Blame:
        return self._publisher(parcel.rows[0]["participant"]).blame(parcel)

    async def _land(self, parcels: Sequence[Parcel]) -> None:
        """Wait for the acknowledgements of one batch; what was acknowledged is deleted, and the rest sent again."""

        async def acknowledged() -> None:
            await asyncio.wait([parcel.acknowledged for parcel in parcels])

        under_way = {row["id"] for parcel in parcels for row in parcel.rows}
        try:
            await boundary("outbox.publish", acknowledged)
            for parcel in parcels:
                if parcel.acknowledged.exception() is None:
                    ids = [row["id"] for row in parcel.rows]
                    under_way.difference_update(ids)
                    self._delivered += ids
                    self._failures = 0
                    self.figures.delivered += len(ids)
                    self._moved.set()
                else:
                    self._failed = True
                    await self._not_taken(parcel)
        finally:
            for identifier in under_way:
                self._travelling.pop(identifier, None)

    async def _not_taken(self, parcel: Parcel) -> None:
        blame = self._blame(parcel)
        if blame is not Blame.NO_ROW:
            self._failures = 0  # The broker is there.
        if blame is Blame.EACH_ROW:
            await self._postpone(parcel.rows, parcel.acknowledged.exception())
        elif blame is Blame.SOME_ROW:
            self._suspects.update(row["id"] for row in parcel.rows)

    async def _postpone(self, rows: Sequence[Row], failure: BaseException | None) -> None:
        assert failure is not None
        for row in rows:
            self._suspects.discard(row["id"])
            self.figures.postponed += 1
            self.figures.dead += await self.backlog.postpone(row, failure, self.shards.terms.get(row["shard"], -1))

    def _landed(self, flight: asyncio.Task[None]) -> None:
        self._flights.discard(flight)
        if not flight.cancelled() and (failure := flight.exception()) is not None:
            self._failed = True
            logger.warning("a batch of the relay did not land: %r", failure)
        if self._failed:
            self._moved.set()
            self._wake.set()

    # ── deleting ──

    async def _delete(self) -> None:
        """Delete what the broker has, as much as there is at a time."""
        while True:
            while not self._delivered:
                self._moved.clear()
                await self._moved.wait()
            ids = list(self._delivered)
            await self.delete(ids, dict(self.shards.terms))
            del self._delivered[: len(ids)]
            for identifier in ids:
                self._travelling.pop(identifier, None)
            self._suspects.difference_update(ids)
            self._moved.set()

    async def _settle(self) -> None:
        """Wait until what is in flight has landed, and is deleted."""
        if self._flights:
            await asyncio.wait(self._flights)
        while self._delivered:
            self._moved.clear()
            await self._moved.wait()

    async def delete(self, ids: Sequence[int], terms: Mapping[int, int]) -> None:
        """Delete rows that the broker has, of shards that are held under *terms*."""
        deleted = await self.backlog.delete(ids, terms)
        self.figures.deleted += deleted
        if deleted < len(ids):
            self.figures.replaced += len(ids) - deleted
            logger.warning("%d delivered rows belong to another relay now", len(ids) - deleted)

    # ── owning ──

    async def _keep_shards(self) -> None:
        while True:
            await asyncio.sleep(self.shards.lease_s / 6)
            async with self.backlog.connection() as connection:
                before = set(self.shards.terms)
                await self.shards.look_after(connection)
                await self.shards.leave_surplus(connection)
                if self.shards.leaving and not set(self.shards.leaving).intersection(self._travelling.values()):
                    await self.shards.give_back(connection, self.shards.leaving)
            if set(self.shards.terms) - before:
                self.wake()

    async def _leave(self) -> None:
        try:
            async with asyncio.timeout(limits.PARTICIPANT_CALL_S), self.backlog.connection() as connection:
                await self.shards.give_back(connection, list(self.shards.terms))
                await connection.execute(SQL["leave"], self.shards.relay)
        except (*LOST, CoordinatorError) as failure:
            logger.warning("the relay could not give its shards back, their leases have to expire: %r", failure)

    async def _for_ever(self, work: Callable[[], Awaitable[None]]) -> None:
        while not self._stopping:  # A connection that cannot be given back raises its own error, and not the cancel.
            try:
                await work()
            except (*LOST, CoordinatorError) as failure:
                logger.warning("the relay begins again: %r", failure)
            except Exception:  # The loop's edge: a relay that nobody notices to be gone is worse than one that repeats.
                logger.exception("the relay begins again")
            await asyncio.sleep(min(1.0, self.poll_every_s))


async def _end(tasks: Sequence["asyncio.Task[None]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
