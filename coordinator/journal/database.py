"""The journal's connections: a dedicated one per writer, opened again after a failure, and one for questions."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias, TypeVar

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement

from coordinator import limits
from coordinator.errors import Disconnected, Misconfigured, Refused, Unavailable
from coordinator.timeouts import Timeouts

Connection: TypeAlias = "asyncpg.Connection[Any]"
Result = TypeVar("Result")

_LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)
_REFUSED_NOW = (
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
)


class JournalConnection:
    """One connection, used by one statement at a time. What fails while a statement is out is unknown, not undone."""

    def __init__(self, url: str, settings: Mapping[str, str] | None = None) -> None:
        self._url = url
        self._settings = dict(settings or {})
        self._connection: asyncpg.Connection[Any] | None = None
        self._prepared: dict[str, PreparedStatement[Any]] = {}
        self._turn = asyncio.Lock()
        self._timeouts = Timeouts()
        self.statements = 0

    async def run(self, work: Callable[[Connection], Awaitable[Result]]) -> Result:
        """Do *work*. Raises `Unavailable` where it was not begun, `Disconnected` where nobody knows its end."""
        async with self._turn:
            connection = await self._open()
            self.statements += 1
            try:
                with self._timeouts.within(limits.PARTICIPANT_CALL_S):
                    return await work(connection)
            except asyncpg.DataError as failure:
                raise Refused(f"the journal cannot store this: {failure}") from failure
            except (*_LOST, *_REFUSED_NOW) as failure:
                self.cut()
                raise Disconnected(f"the journal's database did not answer: {failure!r}") from failure
            except asyncpg.InvalidCachedStatementError as failure:
                self.cut()  # A table was changed behind a prepared statement: another connection prepares it anew.
                raise Unavailable(f"the journal's database refuses: {failure!r}") from failure
            except asyncpg.PostgresError as failure:
                # The server answered, and rolled the statement back.
                raise Unavailable(f"the journal's database refuses: {failure!r}") from failure
            except asyncio.CancelledError:
                self.cut()
                raise

    async def first(self, statement: str, *arguments: Any) -> Any:
        """The first row of *statement*, None where there is none; raises as `run` does.

        It is prepared once for each connection, which halves the driver's work for it.
        """

        async def work(connection: Connection) -> Any:
            prepared = self._prepared.get(statement)
            if prepared is None:
                prepared = self._prepared[statement] = await connection.prepare(statement)
            return await prepared.fetchrow(*arguments)

        return await self.run(work)

    async def close(self) -> None:
        """Close it. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None and not connection.is_closed():
            try:
                await connection.close(timeout=1)
            except _LOST:
                connection.terminate()

    async def _open(self) -> Connection:
        if self._connection is None or self._connection.is_closed():
            self._prepared.clear()
            try:
                self._connection = await asyncpg.connect(
                    self._url, timeout=limits.PARTICIPANT_CALL_S, server_settings=self._settings
                )
            except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError) as failure:
                raise Misconfigured(f"the journal's database refuses us: {failure}") from failure
            except (*_LOST, *_REFUSED_NOW) as failure:
                raise Unavailable(f"the journal's database does not answer: {failure!r}") from failure
        return self._connection

    def cut(self) -> None:
        """End it without waiting for anything. Idempotent."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
