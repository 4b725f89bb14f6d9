"""Finding one's way in a cluster, and reading a partition back: the other requests, as frozen values. Sans-IO."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from participants.kafka.codes import Code
from participants.kafka.wire import Reader, Writer


@dataclass(frozen=True, slots=True)
class ApiVersions:
    """Which requests a broker serves, in which versions."""

    key: ClassVar[int] = 18
    version: ClassVar[int] = 3

    def body(self) -> bytes:
        """The request's body."""
        return bytes(Writer().string("unanimity").string("1").no_tags().buffer)


def decode_api_versions(data: bytes) -> Mapping[int, int]:
    """The highest version served, by request key."""
    reader = Reader(data)
    if reader.int16() != Code.NONE:
        return {}

    def one(item: Reader) -> tuple[int, int]:
        key, _, highest = item.int16(), item.int16(), item.int16()
        item.tags()
        return key, highest

    return dict(reader.array(one))


@dataclass(frozen=True, slots=True)
class Metadata:
    """The brokers, and the leaders of the partitions of *topics*."""

    key: ClassVar[int] = 3
    version: ClassVar[int] = 12
    topics: Sequence[str]

    def body(self) -> bytes:
        """The request's body."""
        writer = Writer().array(self.topics, lambda w, topic: w.int64(0).int64(0).string(topic).no_tags())
        return bytes(writer.boolean(False).boolean(False).no_tags().buffer)


@dataclass(frozen=True, slots=True)
class TopicMetadata:
    """A topic's error code, and the leader of each partition (-1: none)."""

    code: int
    leaders: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class ClusterMetadata:
    """Brokers by id, topics by name."""

    brokers: Mapping[int, tuple[str, int]]
    topics: Mapping[str, TopicMetadata]


def decode_metadata(data: bytes) -> ClusterMetadata:
    """The cluster as one broker sees it."""
    reader = Reader(data)
    reader.int32()

    def broker(item: Reader) -> tuple[int, tuple[str, int]]:
        number, host, port = item.int32(), item.text(), item.int32()
        item.string()
        item.tags()
        return number, (host, port)

    def partition(item: Reader) -> tuple[int, int]:
        item.int16()
        number, leader = item.int32(), item.int32()
        item.int32()
        for _ in range(3):
            item.array(Reader.int32)
        item.tags()
        return number, leader

    def topic(item: Reader) -> tuple[str, TopicMetadata]:
        code, name = item.int16(), item.text()
        item.take(16)
        item.boolean()
        leaders = dict(item.array(partition))
        item.int32()
        item.tags()
        return name, TopicMetadata(code, leaders)

    brokers = dict(reader.array(broker))
    reader.string()
    reader.int32()
    return ClusterMetadata(brokers, dict(reader.array(topic)))


@dataclass(frozen=True, slots=True)
class FindCoordinator:
    """Which broker coordinates a transactional id."""

    key: ClassVar[int] = 10
    version: ClassVar[int] = 4
    transactional_id: str

    def body(self) -> bytes:
        """The request's body; key type 1 is a transaction."""
        return bytes(Writer().int8(1).array([self.transactional_id], Writer.string).no_tags().buffer)


def decode_find_coordinator(data: bytes) -> tuple[int, tuple[str, int]]:
    """(error code, (host, port))."""
    reader = Reader(data)
    reader.int32()

    def one(item: Reader) -> tuple[int, tuple[str, int]]:
        item.text()
        item.int32()
        address = (item.text(), item.int32())
        code = item.int16()
        item.string()
        item.tags()
        return code, address

    found = reader.array(one)
    return found[0] if found else (Code.COORDINATOR_NOT_AVAILABLE, ("", 0))


@dataclass(frozen=True, slots=True)
class Fetch:
    """The batches of one partition from *offset*, as far as they are stable (read_committed)."""

    key: ClassVar[int] = 1
    version: ClassVar[int] = 12
    topic: str
    partition: int
    offset: int
    bytes_max: int = 65536
    wait_ms: int = 0

    def body(self) -> bytes:
        """The request's body, without a fetch session."""
        writer = Writer().int32(-1).int32(self.wait_ms).int32(1).int32(self.bytes_max).int8(1).int32(0).int32(-1)
        writer.array([self], lambda w, fetch: w.string(fetch.topic).array([fetch], _write_partition).no_tags())
        return bytes(writer.array((), Writer.string).string("").no_tags().buffer)


def _write_partition(writer: Writer, fetch: Fetch) -> None:
    writer.int32(fetch.partition).int32(-1).int64(fetch.offset).int32(-1).int64(-1).int32(fetch.bytes_max).no_tags()


@dataclass(frozen=True, slots=True)
class Fetched:
    """A partition's offsets, its aborted transactions as (producer id, first offset), and raw record batches."""

    code: int
    high_watermark: int
    last_stable_offset: int
    log_start_offset: int
    aborted: frozenset[tuple[int, int]] = field(default_factory=frozenset)
    records: bytes = b""


def decode_fetch(data: bytes) -> Fetched:
    """The answer for the one partition that was asked for."""
    reader = Reader(data)
    reader.int32()
    code = reader.int16()
    reader.int32()

    def partition(item: Reader) -> Fetched:
        item.int32()
        error, high, stable, start = item.int16(), item.int64(), item.int64(), item.int64()

        def aborted(entry: Reader) -> tuple[int, int]:
            pair = entry.int64(), entry.int64()
            entry.tags()
            return pair

        pairs = frozenset(item.array(aborted))
        item.int32()
        records = item.data() or b""
        item.tags()
        return Fetched(error, high, stable, start, pairs, records)

    def topic(item: Reader) -> list[Fetched]:
        item.text()
        found = item.array(partition)
        item.tags()
        return found

    answers = [answer for found in reader.array(topic) for answer in found]
    return answers[0] if answers and code == Code.NONE else Fetched(code or Code.UNKNOWN_SERVER_ERROR, -1, -1, -1)
