"""asyncpg's connection, with the two things that it does not know: transactions that end by being prepared, and itself.

It promises that `connection.transaction()` works inside an open branch (as a savepoint), and that a block which ends
the transaction by hand is noticed.
"""

import contextlib
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

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
    """A connection whose transactions are branches."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.ended_by_hand = False
        self.resets = True
        """Whether what a block did to the session is undone before the next one."""
        self.used = False
        """Whether a block has used the session since it was as new."""
        self.backend: Backend | None = None
        """Known once it was introduced, as is its server's history."""
        self.history = History()
        self.generation = 0
        """How often all connections had been given up when this one was made."""

    @property
    def listened(self) -> bool:
        """Whether a block left listeners behind, which no statement takes away."""
        return bool(self._listeners or self._log_listeners)  # type: ignore[attr-defined]  # Not in the stubs.

    async def begin_branch(self, command: str) -> None:
        """Open the transaction that is a branch, by `literals.begin_transaction`; the session is as new then."""
        if self.used and self.resets:
            # Committed apart: a RESET inside the branch would be undone with it, and a query before the block's own
            # first statement would take its snapshot.
            command = f"BEGIN; {self.get_reset_query()} COMMIT; {command}"
        await super().execute(command, timeout=limits.PARTICIPANT_CALL_S)
        # asyncpg refuses savepoints in a transaction that it did not begin, and it can begin none that is prepared.
        self._top_xact = self.transaction()
        self.ended_by_hand, self.used = False, True

    def leave_branch(self) -> None:
        """The transaction has ended, in a way that asyncpg knows or does not know."""
        self._top_xact = None  # type: ignore[assignment]  # The stubs leave out that None is how asyncpg starts.

    async def make_as_new(self) -> None:
        """Undo what blocks did to the session."""
        if self.resets:
            await super().execute(self.get_reset_query(), timeout=limits.PARTICIPANT_CALL_S)
        self.used = False

    async def execute(self, query: str, *args: object, timeout: float | None = None) -> str:
        """As asyncpg's, and notes a COMMIT or ROLLBACK that ended the branch (also COMMIT AND CHAIN)."""
        status = await super().execute(query, *args, timeout=timeout)
        self.ended_by_hand = self.ended_by_hand or status == "COMMIT" or not self.is_in_transaction()
        return status


class BorrowedConnection:
    """What a block holds of a connection: all of it until the transaction ends, and nothing afterwards."""

    __slots__ = ("_lent",)

    def __init__(self, connection: Connection) -> None:
        self._lent: Connection | None = connection

    def take_away(self) -> None:
        """The connection is for others now."""
        self._lent = None

    def __getattr__(self, name: str) -> Any:
        if self._lent is None:
            raise asyncpg.InterfaceError(
                f"cannot use {name!r}: the transaction of this connection has ended, and it may be another one's now"
            )
        return getattr(self._lent, name)


async def introduce(connection: Connection) -> None:
    """Learn which backend of which history serves *connection*; once, when it is made."""
    started_at = await connection.fetchval("SELECT backend_start FROM pg_stat_get_activity(pg_backend_pid())")
    connection.backend = Backend(pid=connection.get_server_pid(), started_at=started_at)
    connection.history = await history_of(connection)


def backend_of(connection: Connection) -> Backend:
    """The backend that serves *connection*, which was introduced."""
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
