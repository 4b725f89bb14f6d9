"""The requests of transactions v2 (KIP-890, KIP-939) that no Python client speaks, as frozen values.

Each request knows its key, its version and how to encode itself; each has one function that decodes its answer.
Sans-IO. The layouts are those of Apache Kafka's own message definitions (clients/src/main/resources/common/message).
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from participants.kafka.codes import Code
from participants.kafka.wire import Reader, Writer

_PRODUCER_ANSWER = struct.Struct(">ihqh")  # Throttle time, error code, producer id, epoch.
_END_TXN = struct.Struct(">qh?b")  # Producer id, epoch, whether to commit, no tags.


@dataclass(frozen=True, slots=True)
class Producer:
    """A transactional id's producer id and epoch. Transactions v2 bump the epoch with every transaction."""

    producer_id: int
    epoch: int


@dataclass(frozen=True, slots=True)
class InitProducerId:
    """Initialise a transactional id: aborts whatever is open on it, and fences whoever had it."""

    key: ClassVar[int] = 22
    transactional_id: str
    timeout_ms: int
    two_phase: bool = False

    @property
    def version(self) -> int:
        """Version 6 carries KIP-939's flag; version 4 is understood by every broker that has transactions v2."""
        return 6 if self.two_phase else 4

    def body(self) -> bytes:
        """The request's body, for a new session (no producer id is claimed)."""
        writer = Writer().string(self.transactional_id).int32(self.timeout_ms).int64(-1).int16(-1)
        if self.two_phase:
            writer.boolean(True).boolean(False)
        return bytes(writer.no_tags().buffer)


def decode_producer(data: bytes) -> tuple[int, Producer]:
    """(error code, producer): the answer to InitProducerId and to EndTxn, which begin alike."""
    _, code, producer_id, epoch = Reader(data).fixed(_PRODUCER_ANSWER)
    return code, Producer(producer_id, epoch)


@dataclass(frozen=True, slots=True)
class Produce:
    """Batches of one transaction, by topic and partition; the broker adds the partitions to it by itself (v12)."""

    key: ClassVar[int] = 0
    version: ClassVar[int] = 12
    transactional_id: str
    timeout_ms: int
    batches: Mapping[tuple[str, int], bytes]

    def body(self) -> bytes:
        """The request's body, with acks=all."""
        topics: dict[str, list[tuple[int, bytes]]] = {}
        for (topic, partition), batch in self.batches.items():
            topics.setdefault(topic, []).append((partition, batch))
        writer = Writer().string(self.transactional_id).int16(-1).int32(self.timeout_ms)
        writer.array(
            topics.items(),
            lambda w, item: (
                w.string(item[0]).array(item[1], lambda v, batch: v.int32(batch[0]).data(batch[1]).no_tags()).no_tags()
            ),
        )
        return bytes(writer.no_tags().buffer)


@dataclass(frozen=True, slots=True)
class Produced:
    """What became of one batch."""

    topic: str
    partition: int
    code: int
    offset: int
    message: str


def decode_produce(data: bytes) -> list[Produced]:
    """One answer per batch."""
    reader = Reader(data)

    def topic(item: Reader) -> list[Produced]:
        name = item.text()

        def partition(entry: Reader) -> Produced:
            number, code, offset = entry.int32(), entry.int16(), entry.int64()
            entry.take(16)
            entry.array(_skip_record_error)
            message = entry.text()
            entry.tags()
            return Produced(name, number, code, offset, message)

        answers = item.array(partition)
        item.tags()
        return answers

    return [answer for answers in reader.array(topic) for answer in answers]


def _skip_record_error(reader: Reader) -> None:
    reader.int32()
    reader.string()
    reader.tags()


@dataclass(frozen=True, slots=True)
class EndTxn:
    """End the transaction of exactly this producer and epoch; the answer carries the next one (v5)."""

    key: ClassVar[int] = 26
    version: ClassVar[int] = 5
    transactional_id: str
    producer: Producer
    commit: bool

    def body(self) -> bytes:
        """The request's body."""
        name = bytes(Writer().string(self.transactional_id).buffer)
        return b"%b%b" % (name, _END_TXN.pack(self.producer.producer_id, self.producer.epoch, self.commit, 0))


@dataclass(frozen=True, slots=True)
class DescribeTransactions:
    """The state of one transactional id."""

    key: ClassVar[int] = 65
    version: ClassVar[int] = 0
    transactional_id: str

    def body(self) -> bytes:
        """The request's body."""
        return bytes(Writer().array([self.transactional_id], Writer.string).no_tags().buffer)


@dataclass(frozen=True, slots=True)
class TransactionState:
    """What the coordinator knows about a transactional id."""

    code: int
    state: str
    timeout_ms: int
    producer: Producer
    started_ms: int = -1
    """When the open transaction began, by the broker's clock; -1 where none is open."""


def decode_describe_transactions(data: bytes) -> TransactionState:
    """The state of the one id that was asked for."""
    reader = Reader(data)
    reader.int32()

    def one(item: Reader) -> TransactionState:
        code = item.int16()
        item.text()
        state, timeout_ms = item.text(), item.int32()
        started_ms = item.int64()
        producer = Producer(item.int64(), item.int16())
        item.array(_skip_topic)
        item.tags()
        return TransactionState(code, state, timeout_ms, producer, started_ms)

    states = reader.array(one)
    return states[0] if states else TransactionState(Code.TRANSACTIONAL_ID_NOT_FOUND, "", 0, Producer(-1, -1))


def _skip_topic(reader: Reader) -> None:
    reader.text()
    reader.array(Reader.int32)
    reader.tags()


@dataclass(frozen=True, slots=True)
class ListTransactions:
    """All transactions that one broker coordinates."""

    key: ClassVar[int] = 66
    version: ClassVar[int] = 0
    states: Sequence[str] = ()

    def body(self) -> bytes:
        """The request's body."""
        return bytes(Writer().array(self.states, Writer.string).array((), Writer.int64).no_tags().buffer)


def decode_list_transactions(data: bytes) -> tuple[int, Mapping[str, str]]:
    """(error code, state by transactional id)."""
    reader = Reader(data)
    reader.int32()
    code = reader.int16()
    reader.array(Reader.text)

    def one(item: Reader) -> tuple[str, str]:
        name = item.text()
        item.int64()
        state = item.text()
        item.tags()
        return name, state

    return code, dict(reader.array(one))
