"""How fast a backlog is drained: our relay, txoutbox's, two of each, and a bare producer, each in processes of its own.

The clock runs from the commit that makes the backlog visible until the broker has all of it.
"""

import asyncio
import sys
import time
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import asyncpg
import psutil
from aiokafka import AIOKafkaConsumer

from coordinator import limits
from coordinator.schema import apply
from tests.benchmarks import ratios
from tests.benchmarks.measure import there_and_back
from tests.benchmarks.readback import check, partitions_of, until, value_of
from tests.benchmarks.relay_worker import KEYS
from tests.benchmarks.stage import Stage

SIDES = {
    ratios.PRODUCER: ("producer", 1),
    ratios.RELAY: ("relay", 1),
    ratios.TXOUTBOX: ("txoutbox", 1),
    ratios.RELAY2: ("relay", 2),
    ratios.TXOUTBOX2: ("txoutbox", 2),
}
"""The kind of worker, and how many of them."""
FILL = {
    "relay": """
        INSERT INTO unanimity.outbox (message_id, participant, topic, key, value, shard)
        SELECT 'm' || number, 'events', $1, convert_to(key, 'UTF8'), value, shard FROM backlog ORDER BY number
    """,
    "txoutbox": """
        INSERT INTO outbox (topic, key, payload, headers)
        SELECT $1, key, value, jsonb_build_object('message-id', 'm' || number) FROM backlog ORDER BY number
    """,
}
TABLE = {"relay": "unanimity.outbox", "txoutbox": "outbox"}
POLL_S = 0.01


@dataclass(slots=True)
class Team:
    """The workers of one side, and their database."""

    kind: str
    stage: Stage
    url: str
    connection: asyncpg.Connection
    workers: list[asyncio.subprocess.Process]

    async def drain(self, topic: str, rows: int) -> dict[str, float]:
        """Make the backlog visible, tell everybody, and wait until the broker has all of it."""
        await self.stage.kafka.create_topic(topic, partitions=4)
        if self.kind == "producer":
            await self._tell(f"go {topic} {rows} prepare\n")
        consumer = AIOKafkaConsumer(bootstrap_servers=self.stage.kafka.bootstrap)
        await consumer.start()
        try:
            partitions = await partitions_of(consumer, topic)
            transaction = await self._fill(topic, rows)
            began, cpu_s = time.perf_counter(), self._cpu_s()
            if transaction is not None:
                await transaction.commit()
            telling = asyncio.create_task(self._tell(f"go {topic} {rows}\n"))

            async def delivered() -> bool:
                return sum((await consumer.end_offsets(partitions)).values()) >= rows

            await until(delivered, f"all of {topic}", every_s=POLL_S)
            elapsed_s, cpu_s = time.perf_counter() - began, self._cpu_s() - cpu_s
            await telling
        finally:
            await consumer.stop()
        await self._emptied()
        await check(self.stage.kafka.bootstrap, topic, rows)
        return {"rate": rows / elapsed_s, "cpu_us": 1e6 * cpu_s / rows}

    async def _fill(self, topic: str, rows: int) -> "asyncpg.transaction.Transaction | None":
        """The backlog in an open transaction, with the statistics that it will have."""
        if self.kind == "producer":
            return None
        transaction = self.connection.transaction()
        await transaction.start()
        await self.connection.execute(
            FILL[self.kind].replace("FROM backlog", f"FROM backlog WHERE number < {rows}"), topic
        )
        await self.connection.execute(f"ANALYZE {TABLE[self.kind]}")
        return transaction

    async def _emptied(self) -> None:
        """Wait until the table is empty again, and clean it, so that every round begins alike."""
        if self.kind == "producer":
            return

        async def empty() -> bool:
            return bool(await self.connection.fetchval(f"SELECT NOT EXISTS (SELECT FROM {TABLE[self.kind]})"))

        await until(empty, f"an empty {TABLE[self.kind]}", every_s=POLL_S)
        await self.connection.execute(f"VACUUM {TABLE[self.kind]}")

    async def _tell(self, line: str) -> None:
        for worker in self.workers:
            assert worker.stdin is not None
            worker.stdin.write(line.encode())
        for worker in self.workers:
            await said(worker, b"done\n")

    def _cpu_s(self) -> float:
        times = [psutil.Process(worker.pid).cpu_times() for worker in self.workers]
        return sum(t.user + t.system for t in times)

    async def shared(self) -> None:
        """Wait until two relays have half of the shards each."""
        if self.kind != "relay":
            return
        fair = [limits.OUTBOX_SHARDS // len(self.workers)] * len(self.workers)
        owned = "SELECT count(*) AS shards FROM unanimity.outbox_shards WHERE lease_until > now() GROUP BY relay"

        async def fairly() -> bool:
            return [row["shards"] for row in await self.connection.fetch(owned)] == fair

        await until(fairly, "a fair share of the shards for each relay", every_s=0.1)


async def said(worker: asyncio.subprocess.Process, expected: bytes) -> None:
    """Wait for the worker's word."""
    assert worker.stdout is not None
    line = await worker.stdout.readline()
    if line != expected:
        raise RuntimeError(f"a worker said {line!r} and ended" if not line else f"a worker said {line!r}")


async def compare(stage: Stage) -> None:
    """All sides, in interleaved rounds."""
    stage.progress.say(f"backlogs of {stage.settings.rows} rows")
    async with AsyncExitStack() as stack:
        formed = await asyncio.gather(*(stack.enter_async_context(team(stage, side)) for side in SIDES))
        teams = dict(zip(SIDES, formed, strict=True))
        for side, each in teams.items():
            await each.drain(f"{side}.warm", min(stage.settings.rows, 10_000))
        for number in range(stage.settings.rounds):
            for side in there_and_back(list(SIDES), number):
                measured = await teams[side].drain(f"{side}.{number}", stage.settings.rows)
                stage.book.note(side, measured)
                cpu = f"workers {measured['cpu_us']:5.1f} µs of CPU each"
                stage.progress.step(f"{side:16s} {measured['rate']:10.0f} rows/s  {cpu}")


def steps(rounds: int) -> int:
    """How many lines of progress `compare` will say."""
    return rounds * len(SIDES)


@asynccontextmanager
async def team(stage: Stage, side: str) -> AsyncIterator[Team]:
    """The workers of *side*, started and ready, on a database of their own that knows the backlog."""
    kind, count = SIDES[side]
    url = await stage.postgres.create_database(f"drain_{side}")
    connection = await asyncpg.connect(url)
    if kind != "producer":
        await prepare(connection, kind, stage.settings.rows)
    workers = await asyncio.gather(*(start(kind, url, stage.kafka.bootstrap) for _ in range(count)))
    try:
        formed = Team(kind, stage, url, connection, workers)
        await formed.shared()
        yield formed
    finally:
        await asyncio.gather(*(end(worker) for worker in workers))
        await connection.close()


async def prepare(connection: asyncpg.Connection, kind: str, rows: int) -> None:
    """The relay's tables, and the backlog beside them, ready to be copied."""
    if kind == "relay":
        await apply(connection, "outbox", "relay")
    else:
        await create_txoutbox(connection)
    await connection.execute("CREATE UNLOGGED TABLE backlog (number int, key text, value bytea, shard smallint)")
    await connection.copy_records_to_table("backlog", records=backlog(rows))
    await connection.execute("VACUUM ANALYZE backlog")


async def create_txoutbox(connection: asyncpg.Connection, notify_channel: str | None = None) -> None:
    """Its table, by its own statements."""
    from txoutbox.adapters.postgres import PostgresStorage

    await connection.execute(PostgresStorage(None, notify_channel=notify_channel).schema_sql())


def backlog(rows: int) -> Sequence[tuple[int, str, bytes, int]]:
    """Rows of 500 bytes, numbered within each of a thousand keys."""
    keys = [f"k{n}" for n in range(KEYS)]
    shards = [zlib.crc32(key.encode()) % limits.OUTBOX_SHARDS for key in keys]
    return [(n, keys[n % KEYS], value_of(n // KEYS), shards[n % KEYS]) for n in range(rows)]


async def start(kind: str, url: str, bootstrap: str) -> asyncio.subprocess.Process:
    """A worker that is ready."""
    worker = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.benchmarks.relay_worker",
        kind,
        url,
        bootstrap,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    await said(worker, b"ready\n")
    return worker


async def end(worker: asyncio.subprocess.Process) -> None:
    """Let it end by itself, and kill it where it does not."""
    assert worker.stdin is not None
    worker.stdin.close()
    try:
        await asyncio.wait_for(worker.wait(), timeout=15)
    except TimeoutError:
        worker.kill()
        await worker.wait()
