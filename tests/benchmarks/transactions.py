"""Transactions of one row and one 500-byte message: every recipe beside aiokafka's own, which are of Kafka alone.

Each worker writes messages with a key of its own, numbered, so that a loss, a double and a wrong order all show when
they are read back.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from aiokafka import AIOKafkaProducer

from coordinator import Coordinator
from coordinator.ports import Message
from coordinator.protocol.model import BranchName, Gid, Prepared, Recipe
from participants import Kafka, Postgres
from tests.benchmarks import ratios
from tests.benchmarks.measure import drive, there_and_back
from tests.benchmarks.readback import Wrong, check, until, value_of
from tests.benchmarks.stage import Stage

Work = Callable[[int], Awaitable[None]]
INSERT = "INSERT INTO rows (body) VALUES ($1)"
DECIDE = "INSERT INTO decided (gid) VALUES ($1)"
SPENDERS = {"client": "cpu", "Kafka": "kafka", "Postgres": "postgres"}
RECIPES = {
    ratios.COMMIT_RECORD: Recipe.COMMIT_RECORD,
    ratios.TWO_PHASE: Recipe.TWO_PHASE,
    ratios.LAST_RESOURCE: Recipe.LAST_RESOURCE,
    ratios.OUTBOX: Recipe.OUTBOX,
    ratios.DELIVERED: Recipe.OUTBOX,
}
AGAINST_KAFKA = (
    ratios.AIOKAFKA,
    ratios.KAFKA_ONLY,
    ratios.BARE,
    ratios.COMMIT_RECORD,
    ratios.TWO_PHASE,
    ratios.LAST_RESOURCE,
)
AGAINST_POSTGRES = (ratios.OUTBOX, ratios.ROW, ratios.PLAIN, ratios.DELIVERED)


@dataclass(slots=True)
class Contest:
    """The sides at one concurrency: how to do one transaction of each, and how many were done."""

    stage: Stage
    concurrency: int
    coordinator: Coordinator
    pool: "asyncpg.Pool[asyncpg.Record]"
    producers: Sequence[AIOKafkaProducer]
    sent: dict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0] * 64))

    def topic(self, side: str) -> str:
        """Each side writes to a topic of its own, and marks its rows with the same name."""
        return f"{side}.c{self.concurrency}"

    def _next(self, side: str, worker: int) -> tuple[bytes, bytes]:
        number = self.sent[side][worker]
        self.sent[side][worker] = number + 1
        return b"%d" % worker, value_of(number)

    def work(self, side: str) -> Work:
        """One transaction of *side*."""
        if side == ratios.AIOKAFKA:
            return self._aiokafka
        if side == ratios.KAFKA_ONLY:
            return self._kafka_only
        if side == ratios.PLAIN:
            return self._asyncpg
        if side == ratios.BARE:
            return self._bare
        return lambda worker: self._ours(side, worker)

    async def _aiokafka(self, worker: int) -> None:
        key, value = self._next(ratios.AIOKAFKA, worker)
        producer = self.producers[worker]
        async with producer.transaction():
            await producer.send_and_wait(self.topic(ratios.AIOKAFKA), value, key=key)

    async def _kafka_only(self, worker: int) -> None:
        prepared = await self._produced(ratios.KAFKA_ONLY, worker)
        await self._kafka.commit(prepared)

    async def _bare(self, worker: int) -> None:
        """What a commit record asks of both servers, and nothing that would find it again after a crash."""
        side = self.topic(ratios.BARE)
        async with self.pool.acquire() as connection, connection.transaction():
            await connection.execute(INSERT, side)
            prepared = await self._produced(ratios.BARE, worker)
            await connection.execute(DECIDE, f"{side} {worker} {self.sent[ratios.BARE][worker]}")
        await self._kafka.commit(prepared)

    @property
    def _kafka(self) -> Any:
        return self.coordinator.engine.participants["events"].participant

    async def _produced(self, side: str, worker: int) -> Prepared:
        """One message, acknowledged, in a transaction of our pool that waits for its end."""
        (key, value), name, gid = self._next(side, worker), BranchName("events"), Gid("bench")
        session = await self._kafka.begin(gid, recipe=Recipe.COMMIT_RECORD)
        session.publish(Message(id="m", participant=name, topic=self.topic(side), key=key, value=value))
        _, evidence = await session.vote(30)
        return Prepared(gid=gid, branch=name, evidence=evidence)

    async def _asyncpg(self, worker: int) -> None:
        self._next(ratios.PLAIN, worker)
        async with self.pool.acquire() as connection, connection.transaction():
            await connection.execute(INSERT, self.topic(ratios.PLAIN))

    async def _ours(self, side: str, worker: int) -> None:
        key, value = self._next(side, worker)
        async with self.coordinator.transaction("bench", recipe=RECIPES.get(side)) as transaction:
            connection = await transaction.enlist("db")
            await connection.execute(INSERT, self.topic(side))
            if side != ratios.ROW:
                await transaction.publish("events", topic=self.topic(side), key=key, value=value)

    async def measure(self, side: str) -> dict[str, float]:
        """Drive *side* for one round; with what came of it goes what the servers spent on each transaction."""
        before = self.stage.servers_cpu_s()
        measured = await drive(self.work(side), concurrency=self.concurrency, seconds=self.stage.settings.seconds)
        await asyncio.sleep(self.stage.settings.pause_s)
        after = self.stage.servers_cpu_s()
        spent = {f"{server}_us": 1e6 * (after[server] - before[server]) / measured["count"] for server in after}
        return {**measured, **spent}

    async def verify(self, side: str) -> None:
        """Raise `Wrong` unless *side*'s rows and messages are exactly those that were sent, in order per key."""
        sent = sum(self.sent[side])
        if side not in (ratios.ROW, ratios.PLAIN):
            await check(self.stage.kafka.bootstrap, self.topic(side), sent)
        if side not in (ratios.AIOKAFKA, ratios.KAFKA_ONLY):
            rows = await self.pool.fetchval("SELECT count(*) FROM rows WHERE body = $1", self.topic(side))
            if rows != sent:
                raise Wrong(f"{side}: {sent} transactions were committed, and {rows} rows are there")


async def compare(stage: Stage, *, concurrency: Sequence[int], postgres_too: bool = True) -> None:
    """Every side at every concurrency."""
    url = await stage.postgres.create_database("transactions")
    pool = await asyncpg.create_pool(url, min_size=32, max_size=40)
    await pool.execute("CREATE TABLE rows (body text); CREATE TABLE decided (gid text PRIMARY KEY)")
    try:
        participants = {"db": Postgres(url), "events": Kafka(stage.kafka.bootstrap)}
        async with Coordinator(journal=url, participants=participants) as coordinator:
            await _warm(stage, coordinator, pool)
            for c in concurrency:
                sides = AGAINST_KAFKA if postgres_too else AGAINST_KAFKA[:2]
                await _rounds(stage, coordinator, pool, c, sides)
        if postgres_too:
            await _beside_postgres(stage, url, pool)
    finally:
        await pool.close()


def steps(settings_rounds: int, *, concurrency: Sequence[int], postgres_too: bool = True) -> int:
    """How many lines of progress `compare` will say."""
    sides = len(AGAINST_KAFKA) * len(concurrency) + len(AGAINST_POSTGRES) if postgres_too else 2 * len(concurrency)
    return settings_rounds * sides


async def _beside_postgres(stage: Stage, url: str, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    """The outbox beside no outbox, at 32. Its relay works elsewhere, but for the side that says otherwise."""
    participants = {"db": Postgres(url), "events": Kafka(stage.kafka.bootstrap)}
    async with Coordinator(journal=url, participants=participants) as coordinator:
        await coordinator.engine.finisher.relays.stop()
        sides = [side for side in AGAINST_POSTGRES if side != ratios.DELIVERED]
        outbox = await _rounds(stage, coordinator, pool, 32, sides, verified=[ratios.ROW, ratios.PLAIN])
    participants = {"db": Postgres(url), "events": Kafka(stage.kafka.bootstrap)}
    async with Coordinator(journal=url, participants=participants) as coordinator:
        await _delivered(pool)
        await outbox.verify(ratios.OUTBOX)
        await _rounds(stage, coordinator, pool, 32, [ratios.DELIVERED])


async def _delivered(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    """Wait until the outbox is empty."""

    async def empty() -> bool:
        return bool(await pool.fetchval("SELECT NOT EXISTS (SELECT FROM unanimity.outbox)"))

    await until(empty, "an empty outbox", every_s=0.05)


async def _rounds(
    stage: Stage,
    coordinator: Coordinator,
    pool: "asyncpg.Pool[asyncpg.Record]",
    concurrency: int,
    sides: Sequence[str],
    verified: Sequence[str] | None = None,
) -> Contest:
    """Interleaved rounds of *sides*, and then the count of what they did (of *verified*, if not of all)."""
    for side in sides:
        await stage.kafka.create_topic(f"{side}.c{concurrency}", partitions=4)
    async with _producers(stage, concurrency if ratios.AIOKAFKA in sides else 0) as producers:
        contest = Contest(stage, concurrency, coordinator, pool, producers)
        for side in sides:
            await drive(contest.work(side), concurrency=concurrency, seconds=stage.settings.warm_side_s)
        for number in range(stage.settings.rounds):
            for side in there_and_back(sides, number):
                measured = await contest.measure(side)
                stage.book.note(f"{side}.c{concurrency}", measured)
                stage.progress.step(f"{side:16s} c{concurrency:<3d} {measured['rate']:8.0f}/s  {_times(measured)}")
    if ratios.OUTBOX not in sides:
        await _delivered(pool)
    for side in sides if verified is None else verified:
        await contest.verify(side)
    return contest


def _times(measured: dict[str, float]) -> str:
    times = f"p50 {measured['p50_ms']:6.2f} ms  p99 {measured['p99_ms']:6.2f} ms"
    spent = "  ".join(f"{who} {measured[f'{key}_us']:4.0f}" for who, key in SPENDERS.items())
    return f"{times}  CPU µs: {spent}"


@asynccontextmanager
async def _producers(stage: Stage, count: int) -> AsyncIterator[list[AIOKafkaProducer]]:
    producers = [
        AIOKafkaProducer(bootstrap_servers=stage.kafka.bootstrap, transactional_id=f"aiokafka-{count}-{n}")
        for n in range(count)
    ]
    await asyncio.gather(*(producer.start() for producer in producers))
    try:
        yield producers
    finally:
        await asyncio.gather(*(producer.stop() for producer in producers))


async def _warm(stage: Stage, coordinator: Coordinator, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    """Let the broker's compiler see all of it before anything is measured."""
    stage.progress.say(f"warming up for {stage.settings.warm_s:.0f} s")
    for side in AGAINST_KAFKA:
        await stage.kafka.create_topic(f"{side}.c16", partitions=4)
    async with _producers(stage, 16) as producers:
        contest = Contest(stage, 16, coordinator, pool, producers)
        for side in AGAINST_KAFKA:
            await drive(contest.work(side), concurrency=16, seconds=stage.settings.warm_s / len(AGAINST_KAFKA))
