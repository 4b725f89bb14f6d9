"""Messages as rows of the outbox, whoever writes them: the deciding commit, or a branch that will be prepared."""

import base64
import json
import zlib
from collections.abc import Sequence
from typing import Any

from coordinator import limits
from coordinator.ports import Message
from coordinator.protocol.model import BranchName


def shard_of(message: Message) -> int:
    """The shard of a message: all messages with one key are in one shard."""
    return zlib.crc32(message.key if message.key is not None else message.id.encode()) % limits.OUTBOX_SHARDS


def headers_json(message: Message) -> str:
    """Headers as JSON: a list of [name, value in base 64], since Kafka's values are any bytes."""
    if not message.headers:
        return "[]"
    return json.dumps([[name, base64.b64encode(value).decode()] for name, value in message.headers])


def outbox_row(message: Message, ready: frozenset[BranchName]) -> tuple[Any, ...]:
    """The values of one row, in the order of `outbox_columns`."""
    return (
        message.id,
        message.participant,
        message.topic,
        message.key,
        message.value,
        headers_json(message),
        message.partition,
        shard_of(message),
        message.participant not in ready,
    )


def outbox_columns(messages: Sequence[Message], ready: frozenset[BranchName]) -> tuple[list[Any], ...]:
    """The columns of `decide_within`'s and `write_outbox`'s rows."""
    return tuple(list(column) for column in zip(*(outbox_row(message, ready) for message in messages), strict=True))
