"""asyncpg's connection, with the two things that it does not know: transactions that end by being prepared, and itself.

It promises that `connection.transaction()` works inside an open branch (as a savepoint), and that a block which ends
the transaction by hand is noticed.
"""

import contextlib
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

import asyncpg

from coordinator import limits
from participants.postgres.history import History, history_of

if TYPE_CHECKING:
    _AsyncpgConnection = asyncpg.Connection[Any]
else:
    _AsyncpgConnection = asyncpg.Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A server process. The start time makes it unique: process ids come back, and nobody else's may be ended."""

    pid: int
    started_at: datetime


class Connection(_AsyncpgConnection):
    """A pooled connection whose transactions are branches."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.ended_by_hand = False
        self.backend: Backend | None = None
        """Known to every connection of a pool that was opened with `introduce`, as is its server's history."""
        self.history = History()

    async def begin_branch(self, command: str) -> None:
        """Open the transaction that is a branch, by `literals.begin_transaction`."""
        await super().execute(command, timeout=limits.PARTICIPANT_CALL_S)
        # asyncpg refuses savepoints in a transaction that it did not begin, and it can begin none that is prepared.
        self._top_xact = self.transaction()
        self.ended_by_hand = False

    def leave_branch(self) -> None:
        """The transaction has ended, in a way that asyncpg knows or does not know."""
        self._top_xact = None  # type: ignore[assignment]  # The stubs leave out that None is how asyncpg starts.

    async def execute(self, query: str, *args: object, timeout: float | None = None) -> str:
        """As asyncpg's, and notes a COMMIT or ROLLBACK that ended the branch (also COMMIT AND CHAIN)."""
        status = await super().execute(query, *args, timeout=timeout)
        self.ended_by_hand = self.ended_by_hand or status == "COMMIT" or not self.is_in_transaction()
        return status


async def introduce(connection: "asyncpg.Connection[Any]") -> None:
    """Learn which backend of which history serves *connection*; once, when its pool makes it."""
    ours = cast("Connection", connection)
    started_at = await connection.fetchval("SELECT backend_start FROM pg_stat_get_activity(pg_backend_pid())")
    ours.backend = Backend(pid=connection.get_server_pid(), started_at=started_at)
    ours.history = await history_of(connection)


def backend_of(connection: Connection) -> Backend:
    """The backend that serves *connection*, which comes from a pool that introduces its connections."""
    assert connection.backend is not None, "introduced when it was made"
    return connection.backend


def is_lost(connection: Connection) -> bool:
    """Whether *connection* is closed, or was even taken out of its pool because it was lost."""
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:
        return True


def abandon(connection: Connection) -> None:
    """End a connection whose last answer never came: nobody may use it again."""
    with contextlib.suppress(asyncpg.InterfaceError):  # It was lost, and its pool has noticed before us.
        connection.terminate()
