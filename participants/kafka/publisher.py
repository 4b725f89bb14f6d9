"""Kafka as a relay sees it: rows go in, in order, and parcels say when each is safe there.

Rows are packed into one batch per partition here, and not one by one in the producer: that is most of a relay's work.
One batch per partition travels at a time, and the next one follows when the broker has it. So what is behind a refused
batch does not overtake it, whatever the broker thinks of its sequence numbers.
"""

import asyncio
import base64
import functools
import json
import logging
import random
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
)
from aiokafka.partitioner import murmur2

from coordinator import limits
from coordinator.errors import Refused, Unavailable
from coordinator.ports import Blame, OutboxRow, Parcel

logger = logging.getLogger(__name__)

_TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)
_REFUSED = (Refused, InvalidTopicError, TopicAuthorizationFailedError, *_TOO_LARGE)
_KNOWN_WITHIN_S = 2.0
_BATCH_BYTES = 256 * 1024

Lane = tuple[str, int]
"""A topic and a partition."""


class KafkaPublisher:
    """aiokafka's idempotent producer: order per partition, and no duplicate from its own retries."""

    def __init__(
        self, bootstrap: str, options: Mapping[str, Any] | None = None, *, acknowledged_within_s: float = 30.0
    ) -> None:
        self._options = {
            "bootstrap_servers": bootstrap,
            "enable_idempotence": True,
            "max_batch_size": _BATCH_BYTES,
            "request_timeout_ms": int(acknowledged_within_s * 1000),
            **(options or {}),
        }
        self._producer: AIOKafkaProducer | None = None
        self._lanes: dict[Lane, deque[tuple[Any, Parcel]]] = {}
        self._carrying: set[asyncio.Task[None]] = set()
        self._failed = False

    async def send(self, rows: Sequence[OutboxRow]) -> Sequence[Parcel]:
        """Pack rows and send them off. See `ports.Publisher`."""
        producer = await self._started()
        packing = _Packing(producer)
        for topic in dict.fromkeys(row["topic"] for row in rows):
            try:
                packing.partitions[topic] = await self._partitions(producer, topic)
            except Refused as failure:
                packing.refusals[topic] = failure
        packing.pack(rows)
        return [*packing.refused, *(self._send_off(producer, *packed) for packed in packing.packed)]

    def blame(self, parcel: Parcel) -> Blame:
        """A limit on the size is one of a whole batch. See `ports.Publisher`."""
        failure = parcel.acknowledged.exception()
        if isinstance(failure, _TOO_LARGE) and len(parcel.rows) > 1:
            return Blame.SOME_ROW
        return Blame.EACH_ROW if isinstance(failure, _REFUSED) else Blame.NO_ROW

    async def close(self) -> None:
        """Stop the producer. A broker that is away is not waited for."""
        producer, self._producer = self._producer, None
        if producer is not None:
            # Not cancelled when it takes too long: it would leave a sender behind that goes on trying.
            stopping = asyncio.create_task(producer.stop())
            await asyncio.wait({stopping}, timeout=_KNOWN_WITHIN_S)
            if not stopping.done():
                await _cut_off(producer)
            if self._carrying:
                await asyncio.wait(self._carrying)
            await asyncio.wait({stopping})
            if stopping.cancelled() or stopping.exception() is not None:
                logger.warning("the relay's producer did not stop cleanly: %r", stopping)
        self._failed = False

    def _send_off(self, producer: AIOKafkaProducer, lane: Lane, builder: Any, rows: Sequence[OutboxRow]) -> Parcel:
        parcel = Parcel(rows, asyncio.get_running_loop().create_future())
        if self._failed:
            parcel.acknowledged.set_exception(Unavailable("a message before it was not taken"))
            return parcel
        waiting = self._lanes.setdefault(lane, deque())
        waiting.append((builder, parcel))
        if len(waiting) == 1:
            carrying = asyncio.create_task(self._carry(producer, lane, waiting))
            self._carrying.add(carrying)
            carrying.add_done_callback(self._carrying.discard)
        return parcel

    async def _carry(self, producer: AIOKafkaProducer, lane: Lane, waiting: "deque[tuple[Any, Parcel]]") -> None:
        topic, partition = lane
        failure: Exception | None = None
        while waiting:
            builder, parcel = waiting[0]
            if failure is None:
                try:
                    await (await producer.send_batch(builder, topic, partition=partition))
                except (KafkaError, AssertionError) as failed:  # It asserts that the partition is still there.
                    self._failed = True
                    failure = Unavailable("a message before it was not taken")
                    parcel.acknowledged.set_exception(failed)
                else:
                    parcel.acknowledged.set_result(None)
            else:
                parcel.acknowledged.set_exception(failure)
            waiting.popleft()

    async def _started(self) -> AIOKafkaProducer:
        if self._producer is None:
            producer = AIOKafkaProducer(**self._options)
            try:
                await producer.start()
            except (KafkaError, OSError) as failure:
                await producer.stop()
                raise Unavailable(f"Kafka does not answer: {failure}") from failure
            except asyncio.CancelledError:
                await producer.stop()
                raise
            self._producer = producer
        return self._producer

    async def _partitions(self, producer: AIOKafkaProducer, topic: str) -> Sequence[int]:
        """Find the topic, quickly: an unknown one must not hold up the others."""
        known = producer.client.cluster.partitions_for_topic(topic)
        try:
            known = known or await asyncio.wait_for(producer.partitions_for(topic), timeout=_KNOWN_WITHIN_S)
        except TimeoutError:
            if await producer.client.force_metadata_update():
                raise Refused(f"there is no topic {topic!r}") from None
            raise Unavailable("Kafka does not answer") from None
        except _REFUSED as failure:
            raise Refused(f"topic {topic!r}: {failure!r}") from failure
        except KafkaError as failure:
            raise Refused(f"there is no topic {topic!r}: {failure!r}") from failure
        return sorted(known)


class _Packing:
    """Rows on their way into batches, in order."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self.partitions: dict[str, Sequence[int]] = {}
        self.refusals: dict[str, Refused] = {}
        """Topics of which no row can be sent."""
        self.refused: list[Parcel] = []
        self.packed: list[tuple[Lane, Any, list[OutboxRow]]] = []
        self._producer = producer
        self._without_key: dict[str, int] = {}

    def pack(self, rows: Sequence[OutboxRow]) -> None:
        """Into one open batch per partition, and the next one when it is full."""
        held_up: set[tuple[str, bytes]] = set()
        filling: dict[Lane, tuple[Any, list[OutboxRow]]] = {}
        for row in rows:
            topic, key, value = row["topic"], row["key"], row["value"]
            if held_up and (topic, key) in held_up:
                continue
            refusal = self.refusals.get(topic)
            partition = self._partition(topic, key, row["partition"]) if refusal is None else -1
            if partition < 0 or (value is not None and len(value) > limits.MESSAGE_BYTES_MAX):
                self._refuse(row, refusal, partition)
                if key is not None:
                    held_up.add((topic, key))
                continue
            headers = _headers(row)
            builder, packed = filling.get((topic, partition)) or self._open(filling, (topic, partition))
            if builder.append(timestamp=None, key=key, value=value, headers=headers) is None:
                builder, packed = self._open(filling, (topic, partition))
                builder.append(timestamp=None, key=key, value=value, headers=headers)
            packed.append(row)

    def _open(self, filling: dict[Lane, tuple[Any, list[OutboxRow]]], lane: Lane) -> tuple[Any, list[OutboxRow]]:
        builder: Any = self._producer.create_batch()
        rows: list[OutboxRow] = []
        filling[lane] = builder, rows
        self.packed.append((lane, builder, rows))
        return builder, rows

    def _refuse(self, row: OutboxRow, refusal: Refused | None, partition: int) -> None:
        if refusal is None:
            too_large = f"a message of more than {limits.MESSAGE_BYTES_MAX} bytes"
            nowhere = f"topic {row['topic']!r} has no partition {row['partition']}"
            refusal = Refused(nowhere if partition < 0 else too_large)
        failed = asyncio.get_running_loop().create_future()
        failed.set_exception(refusal)
        self.refused.append(Parcel([row], failed))

    def _partition(self, topic: str, key: bytes | None, chosen: int | None) -> int:
        """The partition of a message, by the rule of every Kafka client; -1 where there is none of that number."""
        partitions = self.partitions[topic]
        if chosen is not None:
            return chosen if chosen in partitions else -1
        if key is not None:
            return partitions[_hash(key) % len(partitions)]
        if topic not in self._without_key:
            self._without_key[topic] = random.choice(partitions)  # noqa: S311 - spreads load.
        return self._without_key[topic]


@functools.lru_cache(maxsize=100_000)
def _hash(key: bytes) -> int:
    """What the default partitioner of every Kafka client goes by. In Python it is dear, and keys come back."""
    return int(murmur2(key)) & 0x7FFFFFFF


def _headers(row: OutboxRow) -> list[tuple[str, bytes]]:
    identifier = ("message-id", row["message_id"].encode())
    if row["headers"] == "[]":
        return [identifier]
    return [*((name, base64.b64decode(value)) for name, value in json.loads(row["headers"])), identifier]


async def _cut_off(producer: AIOKafkaProducer) -> None:
    """End a producer whose broker is away: whatever it still wants to send is never sent.

    `stop` waits for the broker, and there is no public way to give up.
    """
    sender = producer._sender.sender_task
    sender.cancel()
    await producer.client.close()
    await asyncio.wait({sender}, timeout=_KNOWN_WITHIN_S)
    accumulator = producer._message_accumulator
    again = [batch for batches in accumulator._batches.values() for batch in batches]
    # What was to be tried again does not count as pending, and its callback takes for granted that it does.
    accumulator._pending_batches.update(again)
    accumulator.fail_all(KafkaError("the relay gave up waiting for Kafka"))
    for batch in again:
        batch._drain_waiter.exception()  # Nobody else looks at it.
