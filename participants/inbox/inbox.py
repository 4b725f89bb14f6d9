"""The inbox: a message's id is recorded in the same transaction as its effect, and only there.

So a crash takes both back, and a duplicate finds the id: its effect is in the database already. Two consumers that
handle the same message at once meet at the unique index, where the second one waits for the first.
"""

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from coordinator.errors import InvalidDefinition, KeyReused, Refused
from coordinator.faults.points import boundary
from coordinator.schema import apply, queries
from coordinator.telemetry import Telemetry, configured

SQL = queries(Path(__file__).with_name("queries.sql"))
HEADER = "message-id"
RETENTION_S = 7 * 24 * 3600.0
_PURGE_BATCH = 1000
_NOTHING: AbstractContextManager[None] = nullcontext()


def message_id(headers: Iterable[tuple[str, bytes]]) -> str:
    """The id in a message's headers. Raises `Refused` where there is none: then nothing tells a duplicate."""
    found = [value for name, value in headers if name == HEADER]
    if found:
        return found[-1].decode()  # Ours is the last, whatever the publishing code called its own.
    raise Refused(f"the message has no {HEADER!r} header: it was not published through the coordinator")


class Inbox:
    """The ids that one *consumer* has handled."""

    def __init__(self, consumer: str, *, telemetry: Telemetry | None = None) -> None:
        self.consumer = consumer
        self._telemetry = telemetry
        self._telemetry_known = telemetry is not None

    def handling(self, topic: str, headers: Sequence[tuple[str, bytes]]) -> AbstractContextManager[None]:
        """A block in which one message is handled: a span, current inside, whose parent is the one that published.

        Nothing happens where no OpenTelemetry SDK is set up by the time of the first message.
        """
        if not self._telemetry_known:
            self._telemetry, self._telemetry_known = configured(), True
        if self._telemetry is None:
            return _NOTHING
        identifier = dict(headers).get(HEADER, b"").decode()
        return self._telemetry.handling(self.consumer, topic, identifier, headers)

    async def create(self, connection: Any) -> None:
        """Create the table where it is missing. Outside of a transaction."""
        await apply(connection, "inbox")

    async def first_time(self, connection: Any, identifier: str, payload: bytes | None = b"") -> bool:
        """Whether this message is new; recorded on the caller's open transaction, which carries the effect as well.

        False for a duplicate: skip the effect. Raises `KeyReused` where the id was recorded with another payload, and
        `InvalidDefinition` outside of a transaction.
        """
        if not connection.is_in_transaction():
            raise InvalidDefinition("the inbox records an id inside the transaction of the effect: open one first")
        fingerprint = hashlib.sha256(payload or b"").digest()
        arguments = (self.consumer, identifier, fingerprint)
        recorded = await boundary("inbox.insert", lambda: connection.fetchval(SQL["record"], *arguments))
        if recorded is not None:
            return True
        known = await connection.fetchval(SQL["fingerprint"], self.consumer, identifier)
        if known is not None and known != fingerprint:
            raise KeyReused(f"message {identifier} was handled before, with another payload")
        return False

    async def purge(self, connection: Any, older_than_s: float = RETENTION_S) -> int:
        """Forget ids that are older; how many, at most a thousand a call.

        It must be longer than any message can take to be delivered again: the topic's retention and the longest outage.
        """
        arguments = (self.consumer, older_than_s, _PURGE_BATCH)
        return int((await connection.execute(SQL["purge"], *arguments)).split()[-1])
