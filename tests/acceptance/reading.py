"""What a `read_committed` consumer sees."""

import asyncio
import contextlib

from aiokafka import AIOKafkaConsumer, TopicPartition

QUIET_S = 2.0


async def count(bootstrap: str, topic: str) -> int:
    """How many messages a `read_committed` consumer sees on *topic*, until it sees no more: something may come yet."""
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap, isolation_level="read_committed", auto_offset_reset="earliest"
    )
    await consumer.start()
    seen = 0
    try:
        while batch := await consumer.getmany(timeout_ms=int(QUIET_S * 1000)):
            seen += sum(len(records) for records in batch.values())
    finally:
        await consumer.stop()
    return seen


async def count_sent(bootstrap: str, topic: str) -> int:
    """The same where nobody sends any more; *topic* has one partition.

    What is left to wait for are the broker's own markers, which end what is open, and which it writes after it has
    answered. Where a transaction was left open, nothing will: then it is looked at after as long as `count` takes.
    """
    where = TopicPartition(topic, 0)
    stable = AIOKafkaConsumer(bootstrap_servers=bootstrap, isolation_level="read_committed", enable_auto_commit=False)
    every = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)
    async with stable, every:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(QUIET_S):
                while await _end(stable, where) < await _end(every, where):  # noqa: ASYNC110 - a broker tells nobody.
                    await asyncio.sleep(0.01)
        end, seen = await _end(stable, where), 0
        stable.assign([where])
        await stable.seek_to_beginning(where)
        async with asyncio.timeout(20):
            while await stable.position(where) < end:
                batch = await stable.getmany(timeout_ms=100)
                seen += sum(len(records) for records in batch.values())
    return seen


async def _end(consumer: AIOKafkaConsumer, where: TopicPartition) -> int:
    """Where its reading ends now: for one that is `read_committed`, before the first transaction that is open."""
    return (await consumer.end_offsets([where]))[where]
