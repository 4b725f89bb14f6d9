"""One open Kafka transaction: records are sent as they come, in a batch per partition, and every one is acknowledged.

Within a transaction each partition's batches are numbered from zero, since every transaction has an epoch of its own.
A batch is repeated, with the same number, only where the broker says that it was not (or may not have been) appended;
anything else ends the transaction: its owner must not commit it, and gives its id to be cleaned.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from aiokafka.partitioner import DefaultPartitioner
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from coordinator import limits
from coordinator.errors import Disconnected, Misconfigured, Refused, Unavailable
from coordinator.faults.points import boundary
from coordinator.ports import Message
from participants.kafka.branch import KafkaBranch
from participants.kafka.cluster import Cluster
from participants.kafka.codec import Produce, Produced, Producer, decode_produce
from participants.kafka.codes import Code, code_name
from participants.kafka.connection import Address

Partition = tuple[str, int]

_SEND_AGAIN = frozenset(
    {
        Code.NOT_LEADER_OR_FOLLOWER,
        Code.LEADER_NOT_AVAILABLE,
        Code.FENCED_LEADER_EPOCH,
        Code.UNKNOWN_TOPIC_OR_PARTITION,
        Code.NOT_ENOUGH_REPLICAS,
        Code.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        Code.REQUEST_TIMED_OUT,
        Code.CONCURRENT_TRANSACTIONS,
        Code.COORDINATOR_LOAD_IN_PROGRESS,
        Code.COORDINATOR_NOT_AVAILABLE,
        Code.NOT_COORDINATOR,
    }
)
_NEVER = {
    Code.MESSAGE_TOO_LARGE: "the message is above the broker's max.message.bytes",
    Code.RECORD_LIST_TOO_LARGE: "the messages are above the broker's segment size",
    Code.INVALID_TOPIC_EXCEPTION: "the topic's name is not valid",
}
_NOT_ALLOWED = frozenset(
    {
        Code.TOPIC_AUTHORIZATION_FAILED,
        Code.CLUSTER_AUTHORIZATION_FAILED,
        Code.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    }
)
MESSAGE_ID_HEADER = "message-id"
_TIMEOUT_MS = int(limits.PARTICIPANT_CALL_S * 1000)
# A broker's max.message.bytes (1 MiB by default) bounds a batch, so a transaction is sent in batches well below it.
_BATCH_BYTES_MAX = 256 * 1024
_RECORD_OVERHEAD_BYTES = 64


@dataclass(slots=True, kw_only=True)
class KafkaTransaction:
    """Records on one transactional id, from the first to the vote."""

    cluster: Cluster
    transactional_id: str
    producer: Producer
    first: tuple[Partition, int] | None = None
    """Where the first acknowledged record stands: (topic, partition) and offset."""
    touched: bool = False
    """Whether anything was sent, so that the id's epoch is used up."""
    _unsent: list[Message] = field(default_factory=list)
    _sequences: dict[Partition, int] = field(default_factory=lambda: defaultdict(int))
    _sending: asyncio.Task[None] | None = None

    def add(self, message: Message) -> None:
        """Take a message; it is sent with whatever else has come by the time the loop turns."""
        self._unsent.append(message)
        if self._sending is None or (self._sending.done() and not self._failed()):
            self._sending = asyncio.create_task(self._send())

    async def acknowledged(self) -> KafkaBranch | None:
        """Wait for every acknowledgement; the branch as plain data, or None where nothing was sent.

        Raises what made sending fail: `Refused` for what the broker can never take, `Unavailable` otherwise.
        """
        while self._sending is not None and (self._unsent or not self._sending.done()):
            if self._failed():
                break
            await asyncio.shield(self._sending)
        if self._sending is not None:
            self._sending.result()
        if self.first is None:
            return None
        (topic, partition), offset = self.first
        return KafkaBranch(
            transactional_id=self.transactional_id,
            producer=self.producer,
            topic=topic,
            partition=partition,
            offset=offset,
        )

    async def stop(self) -> None:
        """Send nothing more. Idempotent."""
        if self._sending is not None and not self._sending.done():
            self._sending.cancel()
            await asyncio.wait({self._sending})

    def _failed(self) -> bool:
        task = self._sending
        return task is not None and task.done() and (task.cancelled() or task.exception() is not None)

    async def _send(self) -> None:
        while self._unsent:
            by_partition: dict[Partition, list[Message]] = defaultdict(list)
            for message in self._next():
                by_partition[(message.topic, await self._partition(message))].append(message)
            self.touched = True
            pending = {where: self._batch(where, batch) for where, batch in by_partition.items()}
            pause_s = limits.KAFKA_RETRY_PAUSE_S
            while pending := await self._produce(pending):
                for topic, _ in pending:
                    self.cluster.forget(topic=topic)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, limits.KAFKA_RETRY_PAUSE_MAX_S)

    def _next(self) -> list[Message]:
        """What goes out together: as many of the oldest messages as one batch may hold, and at least one."""
        count = size = 0
        for message in self._unsent:
            size += _size(message)
            if count and size > _BATCH_BYTES_MAX:
                break
            count += 1
        taken, self._unsent = self._unsent[:count], self._unsent[count:]
        return taken

    async def _partition(self, message: Message) -> int:
        if message.partition is not None:
            return message.partition
        leaders = await self.cluster.partitions(message.topic)
        if len(leaders) == 1:
            return 0
        available = sorted(leaders)
        return int(DefaultPartitioner()(message.key, available, available))

    def _batch(self, where: Partition, messages: list[Message]) -> bytes:
        builder = DefaultRecordBatchBuilder(
            magic=2,
            compression_type=0,
            is_transactional=True,
            producer_id=self.producer.producer_id,
            producer_epoch=self.producer.epoch,
            base_sequence=self._sequences[where],
            batch_size=2**30,
        )
        now_ms = int(time.time() * 1000)
        for offset, message in enumerate(messages):
            headers = [*message.headers, (MESSAGE_ID_HEADER, message.id.encode())]
            builder.append(offset, timestamp=now_ms, key=message.key, value=message.value, headers=headers)
        self._sequences[where] += len(messages)
        return bytes(builder.build())

    async def _produce(self, batches: Mapping[Partition, bytes]) -> dict[Partition, bytes]:
        """Send *batches*, one request a broker; return those that must be sent again."""
        by_leader: dict[Address, dict[Partition, bytes]] = defaultdict(dict)
        for where, batch in batches.items():
            try:
                by_leader[await self._leader(where)][where] = batch
            except Unavailable:
                return dict(batches)
        if len(by_leader) == 1:
            ((leader, theirs),) = by_leader.items()
            return await self._ask(leader, theirs)
        answers = await asyncio.gather(*(self._ask(leader, theirs) for leader, theirs in by_leader.items()))
        return {where: batch for answer in answers for where, batch in answer.items()}

    async def _leader(self, where: Partition) -> Address:
        topic, partition = where
        leaders = await self.cluster.partitions(topic)
        if partition not in leaders:
            self.cluster.forget(topic=topic)  # It may have been added since.
            leaders = await self.cluster.partitions(topic)
        if partition not in leaders:
            raise Refused(f"topic {topic!r} has partitions 0 to {len(leaders) - 1}, and no {partition}")
        return leaders[partition]

    async def _ask(self, leader: Address, batches: dict[Partition, bytes]) -> dict[Partition, bytes]:
        request = Produce(self.transactional_id, _TIMEOUT_MS, batches)
        try:
            answers = await boundary(
                "kafka.produce",
                lambda: self.cluster.ask(leader, request, decode_produce),
                transactional_id=self.transactional_id,
            )
        except (Disconnected, Unavailable, OSError, TimeoutError):
            # It may have been appended or not: the same batch with the same number is appended at most once. Whoever
            # waits for the acknowledgement decides for how long.
            return batches
        acknowledged = {(a.topic, a.partition) for a in answers if not self._must_go_again(a)}
        return {where: batch for where, batch in batches.items() if where not in acknowledged}

    def _must_go_again(self, answer: Produced) -> bool:
        if answer.code == Code.NONE:
            if self.first is None:
                self.first = ((answer.topic, answer.partition), answer.offset)
            return False
        if answer.code in _SEND_AGAIN:
            return True
        what = f"{answer.topic}-{answer.partition}: {answer.message or code_name(answer.code)}"
        if answer.code in _NEVER:
            raise Refused(f"{_NEVER[Code(answer.code)]} ({what})")
        if answer.code in _NOT_ALLOWED:
            raise Misconfigured(f"not authorised to write {what}: grant WRITE on the topic and the transactional id")
        raise Unavailable(f"the transaction on {self.transactional_id} cannot go on: {what}")


def _size(message: Message) -> int:
    """About how many bytes the message's record takes."""
    headers = sum(len(name) + len(value) for name, value in message.headers)
    return len(message.key or b"") + len(message.value or b"") + headers + _RECORD_OVERHEAD_BYTES
