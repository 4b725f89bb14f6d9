"""Access rules of a broker, made and taken away: two requests that no asyncio client speaks."""

from dataclasses import dataclass
from typing import ClassVar

from participants.kafka.cluster import Cluster
from participants.kafka.wire import Reader, Writer

TOPIC, CLUSTER, TRANSACTIONAL_ID = 2, 4, 5
LITERAL, PREFIXED = 3, 4
ALL, READ, WRITE, DESCRIBE, DESCRIBE_CONFIGS, TWO_PHASE_COMMIT = 2, 3, 4, 8, 10, 15
_ALLOW = 3


@dataclass(frozen=True, slots=True)
class Rule:
    """The user `app` may do *operation* on what *name* names."""

    resource: int
    name: str
    operation: int
    pattern: int = LITERAL

    def write(self, writer: Writer) -> None:
        """As both requests have it."""
        writer.int8(self.resource).string(self.name).int8(self.pattern).string("User:app").string("*")
        writer.int8(self.operation).int8(_ALLOW).no_tags()


@dataclass(frozen=True, slots=True)
class _Change:
    key: int
    rules: tuple[Rule, ...]
    version: ClassVar[int] = 3

    def body(self) -> bytes:
        return bytes(Writer().array(self.rules, lambda writer, rule: rule.write(writer)).no_tags().buffer)


async def allow(cluster: Cluster, *rules: Rule) -> None:
    """Let the user `app` do these things."""
    assert set(await cluster.ask_any(_Change(30, rules), _codes)) == {0}


async def take_away(cluster: Cluster, *rules: Rule) -> None:
    """Let the user `app` do these things no longer."""
    assert set(await cluster.ask_any(_Change(31, rules), _codes)) == {0}


def _codes(data: bytes) -> list[int]:
    reader = Reader(data)
    reader.int32()
    count = reader.varint() - 1
    first = reader.int16()
    return [first] * count
