"""Each recipe beside Kafka-only and Postgres-only transactions, in one run: one row and one 500-byte message each.

    python -m tests.benchmarks.recipes [--seconds 2] [--rounds 3]

Interleaved rounds, medians, ratios to aiokafka's own Kafka-only transactions first; every message and row is counted.
"""

import argparse
import asyncio
import functools
import logging
import shutil
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
import uvloop
from aiokafka import AIOKafkaProducer

from coordinator import Coordinator
from coordinator.dev.downloads import cache_directory
from coordinator.dev.kafka import LocalKafka
from coordinator.dev.postgres import LocalPostgres
from participants import Kafka, Postgres
from tests.benchmarks.kafka_only import VALUE, count, ours, theirs
from tests.benchmarks.measure import Series, drive

Work = Callable[[int], Awaitable[None]]
RECIPES = ("commit-record", "two-phase", "last-resource", "outbox")
INSERT = "INSERT INTO rows (body) VALUES ($1)"


async def one(coordinator: Coordinator, recipe: str, _worker: int) -> None:
    """One row and one message, as one."""
    async with coordinator.transaction("bench", recipe=recipe) as transaction:
        connection = await transaction.enlist("db")
        await connection.execute(INSERT, recipe)
        await transaction.publish("events", topic=recipe, value=VALUE)


async def row_only(pool: "asyncpg.Pool") -> None:
    """BEGIN, INSERT, COMMIT."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(INSERT, "postgres")


async def compare(coordinator: Coordinator, kafka: LocalKafka, pool: "asyncpg.Pool", c: int, options) -> bool:
    """One table; whether nothing was lost or doubled."""
    participant = coordinator.engine.participants["events"].participant
    producers = [
        AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id=f"bench-{c}-{n}") for n in range(c)
    ]
    await asyncio.gather(*(producer.start() for producer in producers))
    works: dict[str, Work] = {
        "aiokafka, Kafka only": lambda n: theirs(producers[n], "aiokafka"),
        "our pool, Kafka only": lambda n: ours(participant, "pool"),
        "asyncpg, Postgres only": lambda n: row_only(pool),
        **{recipe: functools.partial(one, coordinator, recipe) for recipe in RECIPES},
    }
    series = {name: Series(f"{name}, c{c}") for name in works}
    done = dict.fromkeys(works, 0)
    for name, work in works.items():
        done[name] += await drive(Series("warm"), work, concurrency=c, seconds=0.5)
    for _ in range(options.rounds):
        for name, work in works.items():
            done[name] += await drive(series[name], work, concurrency=c, seconds=options.seconds)
            await asyncio.sleep(0.1)  # What is off the critical path is not charged to the next one.
    await asyncio.gather(*(producer.stop() for producer in producers))
    base = series["aiokafka, Kafka only"].rate
    for measured in series.values():
        print(f"{measured.rate / base:6.2f} x   {measured.line()}", flush=True)
    return await counted(kafka, pool, done)


TOTALS: dict[str, int] = {}


async def counted(kafka: LocalKafka, pool: "asyncpg.Pool", done: dict[str, int]) -> bool:
    """Whether rows and messages are exactly what was done."""
    for name, number in done.items():
        TOTALS[name] = TOTALS.get(name, 0) + number
    await asyncio.sleep(1.0)
    good = True
    for recipe in RECIPES:
        rows = await pool.fetchval("SELECT count(*) FROM rows WHERE body = $1", recipe)
        messages = await count(kafka.bootstrap, recipe)
        if not rows == messages == TOTALS[recipe]:
            print(f"{recipe}: {TOTALS[recipe]} transactions, {rows} rows, {messages} messages", file=sys.stderr)
            good = False
    return good


async def main(options: argparse.Namespace) -> int:
    """Measure at concurrency 1, 8 and 32."""
    logging.basicConfig(level=logging.ERROR)
    directory = Path(".dev") / "benchmark-recipes"
    shutil.rmtree(directory, ignore_errors=True)
    postgres = LocalPostgres(directory / "postgres", cache=cache_directory())
    kafka = LocalKafka(directory=directory / "kafka", cache=cache_directory(), two_phase=True)
    try:
        await asyncio.gather(postgres.start(), kafka.start())
        for topic in (*RECIPES, "pool", "aiokafka"):
            await kafka.create_topic(topic, partitions=4)
        pool = await asyncpg.create_pool(postgres.url, min_size=4, max_size=40)
        await pool.execute("CREATE TABLE rows (id bigint GENERATED ALWAYS AS IDENTITY, body text)")
        participants = {"db": Postgres(postgres.url), "events": Kafka(kafka.bootstrap)}
        good = True
        async with Coordinator(journal=postgres.url, participants=participants) as coordinator:
            for concurrency in options.concurrency:
                good = await compare(coordinator, kafka, pool, concurrency, options) and good
        await pool.close()
        return 0 if good else 1
    finally:
        await asyncio.gather(postgres.kill(), kafka.kill())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, nargs="*", default=[1, 8, 32])
    sys.exit(uvloop.run(main(parser.parse_args())))
