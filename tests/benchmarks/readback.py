"""Every message is read back: how many there are, and whether each key's numbers come in their order."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer, TopicPartition

SIZE = 500
PATIENCE_S = 30.0
"""How long messages that are missing are waited for."""


def value_of(number: int) -> bytes:
    """A message of 500 bytes that says where among its key's messages it stands."""
    return b"%d;" % number + b"x" * (SIZE - 1 - len(str(number)))


def number_of(value: bytes) -> int:
    """What `value_of` was given."""
    return int(value[: value.index(b";")])


@dataclass(slots=True)
class Seen:
    """What stands in one topic."""

    count: int = 0
    misplaced: int = 0
    last: dict[bytes, int] = field(default_factory=dict)

    def take(self, records: Iterable[tuple[bytes, int]]) -> None:
        """Count (key, number) pairs, and those that do not come after their predecessor: late ones and doubles."""
        for key, number in records:
            self.count += 1
            if number <= self.last.get(key, -1):
                self.misplaced += 1
            else:
                self.last[key] = number


class Wrong(Exception):
    """A count or an order was wrong: what was measured is worth nothing."""


async def until(condition: Callable[[], Awaitable[bool]], what: str, *, every_s: float, within_s: float = 240) -> None:
    """Ask *condition* until it holds; raise `Wrong` that names *what* never came."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + within_s
    while not await condition():
        if clock() > deadline:
            raise Wrong(f"{what}: not within {within_s:.0f} s")
        await asyncio.sleep(every_s)


async def check(bootstrap: str, topic: str, expected: int) -> None:
    """Read *topic* to its end and raise `Wrong` unless exactly *expected* messages are there, in order per key."""
    seen = await read(bootstrap, topic, expected)
    if seen.count != expected:
        raise Wrong(f"{topic}: {expected} messages were sent, and {seen.count} are there")
    if seen.misplaced:
        raise Wrong(f"{topic}: {seen.misplaced} of {seen.count} messages are out of order within their keys")


async def read(bootstrap: str, topic: str, expected: int) -> Seen:
    """What a `read_committed` consumer sees of *topic*, up to where it ended when it began; waits for *expected*."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, isolation_level="read_committed", auto_offset_reset="earliest"
    )
    await consumer.start()
    seen, clock = Seen(), asyncio.get_running_loop().time
    patient_until = clock() + PATIENCE_S
    try:
        partitions = await partitions_of(consumer, topic)
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        while True:
            batches = await consumer.getmany(timeout_ms=100)
            for records in batches.values():
                seen.take((record.key, number_of(record.value)) for record in records)
            behind = [p for p in partitions if await consumer.position(p) < ends[p]]
            if not batches and not behind and (seen.count >= expected or clock() > patient_until):
                return seen
    finally:
        await consumer.stop()


async def partitions_of(consumer: AIOKafkaConsumer, topic: str) -> list[TopicPartition]:
    """All partitions of *topic*."""
    await consumer._client.add_topic(topic)
    await consumer._client.force_metadata_update()
    return [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())]
