"""What a `read_committed` consumer sees."""

from aiokafka import AIOKafkaConsumer


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
