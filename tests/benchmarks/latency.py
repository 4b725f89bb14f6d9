"""From commit to consumer at a steady rate: our relay, txoutbox's woken by NOTIFY, and no outbox at all.

Everything of one side (business transactions, relay, consumer) is in this process, so that one clock tells. The load is
open: each event begins when it is due, whether or not earlier ones are done.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import asyncpg
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from coordinator import Coordinator
from participants import Kafka, Postgres
from tests.benchmarks import ratios
from tests.benchmarks.drain import create_txoutbox
from tests.benchmarks.measure import percentile, there_and_back
from tests.benchmarks.readback import Wrong, check, number_of, partitions_of, until, value_of
from tests.benchmarks.relay_worker import BATCH, CONCURRENCY, KEYS, PRODUCER_OPTIONS, publisher
from tests.benchmarks.stage import Stage

INSERT = "INSERT INTO rows (body) VALUES ($1)"
SIDES = (ratios.RELAY_LATENCY, ratios.TXOUTBOX_LATENCY, ratios.PRODUCER_LATENCY)
WITHIN_S = 30
Emit = Callable[[int], Awaitable[None]]


@dataclass(slots=True)
class Track:
    """When each event was committed, and when the consumer had it."""

    committed: dict[tuple[bytes, int], float] = field(default_factory=dict)
    arrived: dict[tuple[bytes, int], float] = field(default_factory=dict)

    def latencies_ms(self) -> list[float]:
        """One for each event."""
        return [1000 * (at - self.committed[event]) for event, at in self.arrived.items()]


def event(number: int) -> tuple[bytes, int]:
    """The key of an event, and its number among its key's."""
    return b"k%d" % (number % KEYS), number // KEYS


@asynccontextmanager
async def ours(stage: Stage, topic: str) -> AsyncIterator[Emit]:
    """A row and an outbox row in our block; the coordinator's own relay delivers."""
    url = await stage.postgres.create_database("latency_relay")
    await _rows(url)
    participants = {"db": Postgres(url), "events": Kafka(stage.kafka.bootstrap)}
    async with Coordinator(journal=url, participants=participants) as coordinator:

        async def emit(number: int) -> None:
            key, position = event(number)
            async with coordinator.transaction("bench", recipe="outbox") as transaction:
                connection = await transaction.enlist("db")
                await connection.execute(INSERT, "x")
                await transaction.publish("events", topic=topic, key=key, value=value_of(position))

        yield emit


@asynccontextmanager
async def theirs(stage: Stage, topic: str) -> AsyncIterator[Emit]:
    """A row and an outbox row in a transaction of asyncpg's; txoutbox's relay is woken by its trigger's NOTIFY."""
    from txoutbox import Relay, RelayConfig
    from txoutbox.adapters.postgres import PostgresStorage

    url = await stage.postgres.create_database("latency_txoutbox")
    await _rows(url)
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(asyncpg.create_pool(url, min_size=8, max_size=40))
        storage = PostgresStorage(pool, delete_on_ack=True, notify_channel="txoutbox")
        async with pool.acquire() as connection:
            await create_txoutbox(connection, "txoutbox")
        producer = AIOKafkaProducer(bootstrap_servers=stage.kafka.bootstrap, **PRODUCER_OPTIONS)
        await stack.enter_async_context(producer)
        config = RelayConfig(batch_size=BATCH, concurrency=CONCURRENCY, lease=timedelta(seconds=60))
        relay = await stack.enter_async_context(Relay(storage, publisher(producer), config=config))
        listener = await storage.listen(relay.wake)
        stack.push_async_callback(listener.close)

        async def emit(number: int) -> None:
            key, position = event(number)
            async with pool.acquire() as connection, connection.transaction():
                await connection.execute(INSERT, "x")
                await storage.insert(connection, topic, value_of(position), key=key.decode())

        yield emit


@asynccontextmanager
async def direct(stage: Stage, topic: str) -> AsyncIterator[Emit]:
    """No database: the limit of what a relay could reach. The clock starts when the message is handed over."""
    async with AIOKafkaProducer(bootstrap_servers=stage.kafka.bootstrap, **PRODUCER_OPTIONS) as producer:

        async def emit(number: int) -> None:
            key, position = event(number)
            await producer.send(topic, value_of(position), key=key)

        yield emit


async def _rows(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE TABLE rows (body text)")
    await connection.close()


async def compare(stage: Stage) -> None:
    """All sides, in interleaved rounds."""
    settings = stage.settings
    stage.progress.say(f"latency at {settings.rate} events a second")
    begin = dict(zip(SIDES, (ours, theirs, direct), strict=True))
    async with AsyncExitStack() as stack:
        emits: dict[str, Emit] = {}
        for side in SIDES:
            await stage.kafka.create_topic(side, partitions=4)
            emits[side] = await stack.enter_async_context(begin[side](stage, side))
        done = {side: await _warm(stage, side, emits[side]) for side in SIDES}
        for number in range(settings.rounds):
            for side in there_and_back(SIDES, number):
                count = int(settings.rate * settings.latency_s)
                track = await flow(stage, side, emits[side], range(done[side], done[side] + count))
                done[side] += count
                times = track.latencies_ms()
                measured = {"p50_ms": percentile(times, 0.5), "p99_ms": percentile(times, 0.99), "max_ms": max(times)}
                stage.book.note(side, measured)
                stage.progress.step(f"{side:16s} p50 {measured['p50_ms']:6.2f} ms  p99 {measured['p99_ms']:6.2f} ms")
    for side in SIDES:
        await check(stage.kafka.bootstrap, side, done[side])


def steps(rounds: int) -> int:
    """How many lines of progress `compare` will say."""
    return rounds * len(SIDES)


async def _warm(stage: Stage, side: str, emit: Emit) -> int:
    count = stage.settings.rate // 2
    await flow(stage, side, emit, range(count))
    return count


async def flow(stage: Stage, topic: str, emit: Emit, numbers: range) -> Track:
    """Emit *numbers* at the steady rate, and wait until the consumer has all of them."""
    track, loop = Track(), asyncio.get_running_loop()
    consumer = AIOKafkaConsumer(bootstrap_servers=stage.kafka.bootstrap, fetch_max_wait_ms=100)
    await consumer.start()
    reading = asyncio.create_task(_read(consumer, topic, track, len(numbers)))
    try:
        await asyncio.wait_for(_assigned(consumer, topic), WITHIN_S)

        async def one(number: int) -> None:
            await emit(number)
            track.committed[event(number)] = time.perf_counter()

        async with asyncio.TaskGroup() as group:
            began = loop.time()
            for position, number in enumerate(numbers):
                await asyncio.sleep(max(0.0, began + position / stage.settings.rate - loop.time()))
                group.create_task(one(number))
        await asyncio.wait_for(reading, WITHIN_S)
    except TimeoutError:
        raise Wrong(f"{topic}: {len(track.arrived)} of {len(numbers)} events arrived") from None
    finally:
        reading.cancel()
        await consumer.stop()
    return track


async def _assigned(consumer: AIOKafkaConsumer, topic: str) -> None:
    """Stand at the end of every partition before the first event is emitted."""

    async def assigned() -> bool:
        return bool(consumer.assignment())

    await until(assigned, f"an assignment of {topic}", every_s=0.01)
    for partition in consumer.assignment():
        await consumer.position(partition)


async def _read(consumer: AIOKafkaConsumer, topic: str, track: Track, expected: int) -> None:
    partitions = await partitions_of(consumer, topic)
    consumer.assign(partitions)
    await consumer.seek_to_end(*partitions)
    while len(track.arrived) < expected:
        batches = await consumer.getmany(timeout_ms=1000)
        now = time.perf_counter()
        for records in batches.values():
            for record in records:
                track.arrived[(record.key, number_of(record.value))] = now
