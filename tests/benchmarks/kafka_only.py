"""Kafka-only transactions of one 500-byte message: our pool beside aiokafka's own (one producer per worker).

    python -m tests.benchmarks.kafka_only [--seconds 2] [--rounds 3]

Starts a broker of its own; counts what a `read_committed` consumer sees; prints medians and the ratio.
"""

import argparse
import asyncio
import shutil
import sys
from pathlib import Path

import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from coordinator.dev.downloads import cache_directory
from coordinator.dev.kafka import LocalKafka
from coordinator.ports import Message
from coordinator.protocol.model import BranchName, Gid, Prepared, Recipe
from participants import Kafka
from tests.benchmarks.measure import Series, drive

VALUE = b"x" * 500


class Ids:
    """A registry in memory: who owns which id does not matter here."""

    def __init__(self) -> None:
        self.made = 0

    async def claim(self, cluster: str, count: int) -> list[str]:
        self.made += count
        return [f"bench-{n}" for n in range(self.made - count, self.made)]


async def ours(kafka: Kafka, topic: str) -> None:
    """One transaction on our pool."""
    gid = Gid("bench")
    session = await kafka.begin(gid, recipe=Recipe.COMMIT_RECORD)
    session.publish(Message(id="m", participant=BranchName("kafka"), topic=topic, value=VALUE))
    _, evidence = await session.vote(30)
    await kafka.commit(Prepared(gid=gid, branch=BranchName("kafka"), evidence=evidence))


async def theirs(producer: AIOKafkaProducer, topic: str) -> None:
    """One transaction of aiokafka's own."""
    async with producer.transaction():
        await producer.send_and_wait(topic, VALUE)


async def count(bootstrap: str, topic: str) -> int:
    """How many messages a `read_committed` consumer sees on *topic*, until it sees no more."""
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap, isolation_level="read_committed", auto_offset_reset="earliest"
    )
    await consumer.start()
    seen = 0
    try:
        while batch := await consumer.getmany(timeout_ms=2000):
            seen += sum(len(records) for records in batch.values())
    finally:
        await consumer.stop()
    return seen


async def main(seconds: float, rounds: int) -> None:
    """Measure at concurrency 1, 8 and 32."""
    directory = Path(".dev") / "benchmark-kafka"
    shutil.rmtree(directory, ignore_errors=True)
    cluster = LocalKafka(directory=directory, cache=cache_directory())
    await cluster.start()
    kafka = Kafka(cluster.bootstrap)
    kafka.ids = Ids()
    try:
        await kafka.open()
        for concurrency in (1, 8, 32):
            await compare(cluster, kafka, concurrency, seconds, rounds)
    finally:
        await kafka.close()
        await cluster.kill()


async def compare(cluster: LocalKafka, kafka: Kafka, concurrency: int, seconds: float, rounds: int) -> None:
    """One line for each, and the ratio."""
    topics = f"ours-{concurrency}", f"theirs-{concurrency}"
    for topic in topics:
        await cluster.create_topic(topic, partitions=4)
    producers = [
        AIOKafkaProducer(bootstrap_servers=cluster.bootstrap, transactional_id=f"aiokafka-{concurrency}-{n}")
        for n in range(concurrency)
    ]
    await asyncio.gather(*(producer.start() for producer in producers))
    left, right = Series(f"our pool, c{concurrency}"), Series(f"aiokafka, c{concurrency}")
    sent = [0, 0]
    await drive(Series("warm"), lambda _: ours(kafka, topics[0]), concurrency=concurrency, seconds=0.5)
    sent[0] = await count(cluster.bootstrap, topics[0])
    for _ in range(rounds):
        sent[0] += await drive(left, lambda _: ours(kafka, topics[0]), concurrency=concurrency, seconds=seconds)
        sent[1] += await drive(
            right, lambda n: theirs(producers[n], topics[1]), concurrency=concurrency, seconds=seconds
        )
    await asyncio.gather(*(producer.stop() for producer in producers))
    print(f"c{concurrency}: ours ÷ aiokafka = {left.rate / right.rate:.2f}")
    print("  " + left.line() + f"   {kafka.ordinary.size} ids")
    print("  " + right.line())
    seen = [await count(cluster.bootstrap, topic) for topic in topics]
    if seen != sent:
        sys.exit(f"messages were lost or doubled: sent {sent}, seen {seen}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    uvloop.run(main(arguments.seconds, arguments.rounds))
