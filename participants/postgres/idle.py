"""Connections between two branches, and how a session is made as new before the next one.

What a block did to its session (SET, session advisory locks, LISTEN, cursors) is undone before the connection is used
again. Undoing it at once would cost every transaction a round trip, so it rides with the next `BEGIN`; and where none
comes soon it is done by itself, so that nothing is held for long by a session that nobody uses.
"""

import asyncio
import logging
from collections import deque

import asyncpg

from coordinator import limits
from participants.postgres.connection import Connection, abandon, is_lost
from participants.postgres.errors import LOST

logger = logging.getLogger(__name__)

_CLEAN_AFTER_S = 0.05


class IdleConnections:
    """Connections that no branch uses now, the one that was used last first."""

    def __init__(self) -> None:
        self.generation = 0
        self._idle: deque[tuple[float, Connection]] = deque()
        self._cleaning: asyncio.Task[None] | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._idle)

    def take(self) -> Connection | None:
        """One that is open still; None where there is none. It may need `begin_branch` to make it as new."""
        while self._idle:
            _, connection = self._idle.pop()
            if not is_lost(connection):
                return connection
        return None

    def put(self, connection: Connection) -> None:
        """*connection* is not used any more."""
        expired = connection.generation != self.generation
        if self._closed or expired or is_lost(connection) or connection.listened:
            abandon(connection)
            return
        self._idle.append((asyncio.get_running_loop().time(), connection))
        if connection.used and (self._cleaning is None or self._cleaning.done()):
            self._cleaning = asyncio.create_task(self._clean(), name="cleaning of idle sessions")

    def expire(self) -> None:
        """Use none again that was made before now."""
        self.generation += 1
        while self._idle:
            abandon(self._idle.pop()[1])

    async def close(self) -> None:
        """Close all that are idle, and those that come back later."""
        self._closed = True
        if self._cleaning is not None:
            self._cleaning.cancel()
            await asyncio.wait({self._cleaning})
        while self._idle:
            _, connection = self._idle.pop()
            try:
                await connection.close(timeout=limits.PARTICIPANT_CALL_S / 2)
            except (*LOST, asyncpg.PostgresError):
                abandon(connection)

    async def _clean(self) -> None:
        while any(connection.used for _, connection in self._idle):
            await asyncio.sleep(_CLEAN_AFTER_S)
            until_s = asyncio.get_running_loop().time() - _CLEAN_AFTER_S
            # The oldest first; and one that is being cleaned is nobody's, so that no branch begins on it meanwhile.
            while entry := next(((at_s, c) for at_s, c in self._idle if c.used and at_s <= until_s), None):
                self._idle.remove(entry)
                try:
                    await entry[1].make_as_new()
                except (*LOST, asyncpg.PostgresError) as failure:
                    logger.debug("an idle connection was closed instead of being reset: %r", failure)
                    abandon(entry[1])
                except BaseException:
                    abandon(entry[1])
                    raise
                else:
                    self.put(entry[1])
