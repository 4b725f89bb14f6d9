"""Messages that a relay gave up: listing them, trying again, or discarding them for good."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from participants.outbox.backlog import SQL


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """One message that was given up, and why."""

    id: int
    message_id: str
    participant: str
    topic: str
    key: bytes | None
    attempts: int
    last_error: str
    created_at: datetime


class DeadLetters:
    """The dead letters of one database, on an asyncpg connection (or pool) of the caller's."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def list(self, limit: int | None = 100) -> Sequence[DeadLetter]:
        """The oldest *limit* dead letters; None is all of them."""
        return [DeadLetter(**row) for row in await self._connection.fetch(SQL["list_dead"], limit)]

    async def retry(self, *ids: int) -> int:
        """Deliver them after all, in their place; how many there were."""
        return int((await self._connection.execute(SQL["retry_dead"], list(ids))).split()[-1])

    async def discard(self, *ids: int) -> int:
        """Never deliver them; how many there were."""
        return int((await self._connection.execute(SQL["discard_dead"], list(ids))).split()[-1])
