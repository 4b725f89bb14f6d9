"""The connections of one database: those that branches write through, and a pool that questions are asked on.

A block does as it likes with the session of its branch, so questions never share one with it.

It promises that a connection whose last answer never came is not used again, and that its backend is ended: until then
it may hold locks, and a statement of it may still be carried out.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar, cast

import asyncpg

from coordinator import limits
from coordinator.errors import CoordinatorError, InDoubt, Misconfigured, Unavailable
from coordinator.faults.points import boundary
from coordinator.protocol.model import BranchName, Gid
from participants.postgres.connection import Backend, Connection, abandon, backend_of, introduce
from participants.postgres.errors import LOST, refusal, unknown
from participants.postgres.idle import IdleConnections
from participants.postgres.literals import begin_transaction
from participants.postgres.room import Room

Result = TypeVar("Result")
logger = logging.getLogger(__name__)

# Beside the branches: second phases, sweeps, outbox rows, and the ending of backends. One for three branches, and four.
_BRANCHES_PER_QUESTION, _QUESTIONS_MIN = 3, 4
# A server that is cut off from us learns of it in half a minute, and then lets go of what our sessions locked.
_SETTINGS = {
    "application_name": "unanimity",
    "tcp_keepalives_idle": "15",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
_END_BACKEND = "SELECT pg_terminate_backend(pid, $3) FROM pg_stat_activity WHERE pid = $1 AND backend_start = $2"


class Connections:
    """Room for *size* open branches. *resets*: whether what a block did to its session is undone."""

    def __init__(self, name: BranchName, url: str, *, size: int, resets: bool, options: Mapping[str, Any]) -> None:
        self._name, self._url, self._size, self._resets = name, url, size, resets
        self._options = {**options, "server_settings": {**_SETTINGS, **options.get("server_settings", {})}}
        self._questions: asyncpg.Pool[Any] | None = None
        self._idle = IdleConnections()
        self._room = Room(name, size, f"{size} transactions are open: raise Postgres(pool=...), or slow down")
        self._background: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Connect. Raises `Unavailable`, or `Misconfigured` where the server knows us or the database not."""
        try:
            self._questions = await asyncpg.create_pool(
                self._url,
                min_size=1,
                max_size=max(_QUESTIONS_MIN, self._size // _BRANCHES_PER_QUESTION),
                timeout=limits.PARTICIPANT_CALL_S,
                connection_class=Connection,
                reset=_nothing,  # Only our own statements run there.
                **self._options,
            )
            self._idle.put(await self._connect())
        except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError) as error:
            raise Misconfigured(f"{self._name} refuses us: {error}", participant=self._name) from error
        except (*LOST, asyncpg.PostgresError) as error:
            raise self._no_answer(error) from error

    async def close(self) -> None:
        """Close the pool, whatever is still open on it. Idempotent."""
        pool, self._questions = self._questions, None
        try:
            if self._background:
                _, unfinished = await asyncio.wait(self._background, timeout=limits.PARTICIPANT_CALL_S / 2)
                for task in unfinished:
                    task.cancel()
            await self._idle.close()
            if pool is not None:
                async with asyncio.timeout(limits.PARTICIPANT_CALL_S / 2):
                    await pool.close()
        except TimeoutError:
            return  # What is left is cut.
        finally:
            if pool is not None:
                pool.terminate()

    def crowded(self) -> str | None:
        """Why nothing more should begin; None while few wait for a connection."""
        return self._room.crowded()

    async def begin(self, gid: Gid) -> Connection:
        """A connection with *gid*'s transaction open on it. Raises `Overloaded` or `Unavailable`."""
        command = begin_transaction(gid)
        await self._room.enter()
        try:
            connection = self._idle.take() or await self._connected()
        except BaseException:
            self._room.leave()
            raise
        backend = backend_of(connection)
        try:
            await boundary("pg.begin", lambda: connection.begin_branch(command), gid=gid, branch=self._name)
        except BaseException as error:
            self.give_up(connection, backend)
            if isinstance(error, (*LOST, asyncpg.PostgresError)):
                raise self._no_answer(error) from error
            raise
        return connection

    def take_back(self, connection: Connection) -> None:
        """A branch's connection is idle again."""
        connection.leave_branch()
        self._idle.put(connection)
        self._room.leave()

    def give_up(self, connection: Connection, backend: Backend) -> None:
        """A branch's connection is in an unknown state: close it, and end its backend as soon as that is possible."""
        abandon(connection)
        self._room.leave()
        self._in_background(self._end_backend_for_certain(backend))

    async def ask(self, work: Callable[[Connection], Awaitable[Result]]) -> Result:
        """Do *work* on a connection of its own.

        Raises `Unavailable` before it was begun, `Disconnected` where nobody knows its end, and what `refusal` makes
        of an error that the server answered.
        """
        connection = await self._acquire()
        try:
            async with asyncio.timeout(limits.PARTICIPANT_CALL_S):
                return await work(connection)
        except LOST as error:
            abandon(connection)
            raise unknown(error, self._name) from error
        except asyncpg.PostgresError as error:
            raise refusal(error, self._name) from error
        except asyncio.CancelledError:
            abandon(connection)
            raise
        finally:
            await self._release(connection)

    async def expire(self) -> None:
        """Every connection that was made before now is closed instead of being used again."""
        self._idle.expire()
        if self._questions is not None:
            await self._questions.expire_connections()

    async def end_backend(self, backend: Backend) -> None:
        """End *backend*, and return when it is gone. Raises `Unavailable` or `InDoubt` while it may be there."""

        async def end(connection: Connection) -> None:
            wait_ms = int(limits.PARTICIPANT_CALL_S * 1000) // 2
            while True:
                ended = await connection.fetchval(_END_BACKEND, backend.pid, backend.started_at, wait_ms)
                if ended is not False:
                    return
                # It was not ended in time, or it vanished before it was told: the next look tells which.
                await asyncio.sleep(limits.FINISH_BACKOFF_S)

        await self.ask(end)

    async def _end_backend_for_certain(self, backend: Backend) -> None:
        """Until it is gone: what waits for its locks, or for the outcome of its COMMIT, cannot go on before."""
        pause_s = limits.FINISH_BACKOFF_S
        while self._questions is not None:
            try:
                await self.end_backend(backend)
            except (Unavailable, InDoubt):
                await asyncio.sleep(pause_s)
                pause_s = min(limits.FINISH_BACKOFF_MAX_S, 2 * pause_s)
            except CoordinatorError as error:
                logger.warning("%s: backend %s cannot be ended by us: %s", self._name, backend.pid, error)
                return
            else:
                return

    async def _connected(self) -> Connection:
        if self._questions is None:
            raise Unavailable(f"{self._name} is closed", participant=self._name)
        try:
            return await self._connect()
        except (*LOST, asyncpg.PostgresError) as error:
            raise self._no_answer(error) from error

    async def _connect(self) -> Connection:
        generation = self._idle.generation
        connection = cast(
            "Connection",
            await asyncpg.connect(
                self._url, timeout=limits.PARTICIPANT_CALL_S, connection_class=Connection, **self._options
            ),
        )
        connection.resets, connection.generation = self._resets, generation
        try:
            await introduce(connection)
        except BaseException:
            abandon(connection)
            raise
        return connection

    async def _acquire(self) -> Connection:
        if self._questions is None:
            raise Unavailable(f"{self._name} is closed", participant=self._name)
        try:
            # The pool's proxy passes everything on to the connection.
            return cast("Connection", await self._questions.acquire(timeout=limits.PARTICIPANT_CALL_S))
        except (*LOST, asyncpg.PostgresError) as error:
            raise self._no_answer(error) from error

    async def _release(self, connection: Connection) -> None:
        try:
            if self._questions is not None:
                await self._questions.release(cast("Any", connection), timeout=limits.PARTICIPANT_CALL_S)
        except (*LOST, asyncpg.PostgresError) as error:
            logger.debug("%s: a connection was closed: %r", self._name, error)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    def _no_answer(self, error: BaseException) -> Unavailable:
        return Unavailable(f"{self._name} does not answer: {error!r}", participant=self._name)


async def _nothing(connection: object) -> None:
    """What is to be undone after a question of our own."""
