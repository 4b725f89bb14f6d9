"""PostgreSQL as a participant: business transactions that commit with a decision, or are prepared and obey one."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import asyncpg

from coordinator import limits
from coordinator.errors import InDoubt, Misconfigured, Overloaded, Unavailable
from coordinator.faults.points import boundary
from coordinator.outbox_rows import outbox_columns
from coordinator.ports import Ability, Doubtful, Message, Session
from coordinator.protocol.model import BranchName, Ending, Gid, Prepared, Recipe
from coordinator.protocol.recipes import database_role
from coordinator.schema import apply, queries
from participants.postgres.errors import LOST, refusal, unknown
from participants.postgres.literals import commit_prepared, parse, prepared_id, rollback_prepared
from participants.postgres.session import Connection, PostgresSession, abandon, finish_late_prepare

Result = TypeVar("Result")

_SLOTS_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Server:
    """Which server and database it is, and how many prepared transactions it has room for."""

    system: str = ""
    timeline: int = 0
    database: int = 0
    slots: int = 0


class Postgres:
    """A PostgreSQL database.

    *url*: its connection URL; it must lead to the database itself, not to a pooler in transaction mode. *pool*: how
    many transactions may be open at once. *connect_options*: passed on to asyncpg (`ssl`, `server_settings`, ...).
    *reset*: undo what a block did to its session (SET, session advisory locks, cursors) before the connection is used
    again. It costs a round trip per transaction, so the default is to expect of a block what PgBouncer expects of it:
    SET LOCAL, and transaction-level locks.
    """

    sql: Mapping[str, str] = queries(Path(__file__).with_name("queries.sql"))

    def __init__(
        self, url: str, *, pool: int = 40, reset: bool = False, connect_options: Mapping[str, Any] | None = None
    ) -> None:
        self.name = BranchName("postgres")
        self.url = url
        self.prefix = "unan"
        self.server = Server()
        self._pool_size = pool
        self._options = {**({} if reset else {"reset": _keep}), **(connect_options or {})}
        self._pool: asyncpg.Pool[Any] | None = None
        self._room = asyncio.Semaphore(pool)
        self._slots = asyncio.Semaphore(0)
        self._slots_of: dict[Gid, bool] = {}
        """Transactions that hold one of our slots, and whether they are prepared already."""
        self._returning: set[asyncio.Task[None]] = set()

    async def open(self) -> frozenset[Ability]:
        """Connect, create what is missing, and look at the settings. See `ports.Participant`."""
        try:
            self._pool = await asyncpg.create_pool(
                self.url,
                min_size=2,
                max_size=self._pool_size + 4,
                timeout=limits.PARTICIPANT_CALL_S,
                **self._options,
            )
        except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError) as error:
            raise Misconfigured(f"{self.name} refuses us: {error}", participant=self.name) from error
        except (*LOST, asyncpg.PostgresError) as error:
            raise Unavailable(f"{self.name} does not answer: {error!r}", participant=self.name) from error
        row: Any = await self._ask(lambda connection: connection.fetchrow(self.sql["server"]))
        if row["standby"]:
            raise Misconfigured(f"{self.name} is a standby: transactions begin on the primary", participant=self.name)
        self.server = Server(row["system"], row["timeline"], row["database"], row["slots"])
        self._slots = asyncio.Semaphore(int(self.server.slots * _SLOTS_SHARE))
        await self._ask(lambda connection: apply(connection, "branches", "outbox"))
        prepares = {Ability.PREPARE} if self.server.slots else set()
        return frozenset({Ability.HOLDS_OUTBOX, *prepares})

    async def close(self) -> None:
        """Close the pool, whatever is still open on it. Idempotent."""
        if self._returning:
            await asyncio.wait(self._returning, timeout=limits.PARTICIPANT_CALL_S / 2)
        pool, self._pool = self._pool, None
        if pool is not None:
            try:
                async with asyncio.timeout(limits.PARTICIPANT_CALL_S / 2):
                    await pool.close()
            except TimeoutError:
                pool.terminate()

    async def identity(self) -> str:
        """Which database this is: the server's system identifier and the database's oid."""
        return f"{self.server.system}/{self.server.database}"

    async def begin(self, gid: Gid, *, recipe: Recipe) -> PostgresSession:
        """Open a business transaction. Raises `Overloaded` at the pool's bound, `Unavailable` without an answer."""
        prepares = database_role(recipe) == "prepared"
        if prepares and not self.server.slots:
            raise Misconfigured(
                f"{self.name} cannot prepare: set max_prepared_transactions (to the number of connections) and restart",
                participant=self.name,
            )
        await self._take_room(gid, prepares=prepares)
        try:
            connection = await self._acquire()
            await boundary("pg.begin", lambda: connection.execute("BEGIN"), gid=gid, branch=self.name)
        except BaseException as error:
            self._room.release()
            self.leave_slot(gid)
            if isinstance(error, (*LOST, asyncpg.PostgresError)):
                raise Unavailable(f"{self.name} cannot begin: {error!r}", participant=self.name) from error
            raise
        return PostgresSession(self, gid, connection)

    async def commit(self, prepared: Prepared) -> Ending:
        """Commit a prepared branch; the truth about how it ended. See `ports.Participant`."""
        command = commit_prepared(prepared_id(prepared.gid, prepared.branch))
        return await self._finish("pg.commit_prepared", command, prepared, Ending.COMMITTED)

    async def abort(self, prepared: Prepared) -> Ending:
        """Roll a branch back, prepared or not; the truth about how it ended."""
        command = rollback_prepared(prepared_id(prepared.gid, prepared.branch))
        return await self._finish("pg.rollback_prepared", command, prepared, Ending.ABORTED)

    async def in_doubt(self) -> Sequence[Doubtful]:
        """Our prepared transactions in this database, and nobody else's."""
        rows = await boundary(
            "pg.scan_prepared",
            lambda: self._ask(lambda connection: connection.fetch(self.sql["scan"], self.prefix)),
        )
        found = [(parse(row["gid"]), row["age_s"]) for row in rows]
        there = {ours[0] for ours, _ in found if ours is not None}
        for gid in [gid for gid, prepared in self._slots_of.items() if prepared and gid not in there]:
            self.leave_slot(gid)  # Another process finished it.
        return [
            Doubtful(prepared=Prepared(gid=ours[0], branch=ours[1]), age_s=age_s)
            for ours, age_s in found
            if ours is not None and ours[1] == self.name
        ]

    async def write_outbox(self, session: Session, gid: Gid, messages: Sequence[Message]) -> None:
        """Insert *messages* as waiting rows inside the open branch."""
        assert isinstance(session, PostgresSession), "a branch of this participant"
        columns = outbox_columns(messages, frozenset())
        try:
            await session.connection.execute(self.sql["write_outbox"], gid, *columns)
        except LOST as error:
            raise Unavailable(f"{self.name}: {error!r}", participant=self.name) from error
        except asyncpg.PostgresError as error:
            raise refusal(error, self.name) from error

    async def release_outbox(self, gid: Gid, participant: BranchName) -> None:
        """Let the relay deliver the waiting rows of *gid* for *participant*."""
        await boundary(
            "outbox.release",
            lambda: self._ask(lambda c: c.execute(self.sql["release_outbox"], gid, participant)),
            gid=gid,
        )

    async def clear_outbox(self, delivered: Sequence[tuple[Gid, BranchName]]) -> None:
        """Delete the waiting rows of what Kafka has committed."""
        gids, participants = [gid for gid, _ in delivered], [participant for _, participant in delivered]
        await self._ask(lambda connection: connection.execute(self.sql["clear_outbox"], gids, participants))

    async def end_backend(self, backend: int, gid: Gid) -> None:
        """End a backend that may still carry out a PREPARE, and roll back what it left. Raises while unsure."""

        async def end(connection: Connection) -> None:
            wait_ms = int(limits.PARTICIPANT_CALL_S * 1000) // 2
            await connection.fetch(self.sql["terminate"], backend, wait_ms)
            await finish_late_prepare(connection, gid, self.name)

        await boundary("pg.terminate_backend", lambda: self._ask(end), gid=gid, branch=self.name)

    def return_connection(self, connection: Connection) -> None:
        """Take a session's connection back, off everybody's critical path: its reset costs a round trip."""
        assert self._pool is not None, "sessions end before their participant is closed"
        task = asyncio.create_task(self._pool.release(connection))
        self._returning.add(task)
        task.add_done_callback(self._returned)

    def prepared(self, gid: Gid) -> None:
        """A session of ours has voted yes: its slot is free again when it is finished, by whoever it is."""
        if gid in self._slots_of:
            self._slots_of[gid] = True

    def leave_slot(self, gid: Gid) -> None:
        """The transaction holds no prepared slot any more. Idempotent."""
        if self._slots_of.pop(gid, None) is not None:
            self._slots.release()

    def _returned(self, task: asyncio.Task[None]) -> None:
        self._returning.discard(task)
        self._room.release()
        if not task.cancelled():
            task.exception()  # A connection that could not be reset is closed by its pool.

    async def _finish(self, point: str, command: str, prepared: Prepared, wanted: Ending) -> Ending:
        try:
            await boundary(
                point, lambda: self._ask(lambda c: c.execute(command)), gid=prepared.gid, branch=prepared.branch
            )
            ending = wanted
        except asyncpg.UndefinedObjectError:
            ending = await self._how_it_ended(prepared)
        except asyncpg.PostgresError as error:
            raise refusal(error, self.name) from error
        self.leave_slot(prepared.gid)
        return ending

    async def _how_it_ended(self, prepared: Prepared) -> Ending:
        """The same error means committed, rolled back and never prepared: the marker or the xid's status tells."""
        evidence = prepared.evidence
        identifier = prepared_id(prepared.gid, prepared.branch)
        arguments = (evidence.get("xid"), evidence.get("system"), evidence.get("timeline"))
        row: Any = await boundary(
            "pg.outcome",
            lambda: self._ask(
                lambda c: c.fetchrow(self.sql["outcome"], prepared.gid, prepared.branch, identifier, *arguments)
            ),
            gid=prepared.gid,
            branch=prepared.branch,
        )
        if row["marked"]:
            return Ending.COMMITTED
        if row["prepared"]:
            raise InDoubt(f"{identifier} is prepared after all; ask again", gid=prepared.gid)
        if row["status"] in ("aborted", "committed"):
            return Ending.COMMITTED if row["status"] == "committed" else Ending.ABORTED
        if not evidence:
            return Ending.ABORTED  # It never voted, so nobody ever decided to commit it.
        return Ending.HAZARD

    async def _ask(self, work: Callable[[Connection], Awaitable[Result]]) -> Result:
        """Do *work* on a connection of its own. Raises `Unavailable` before, and `Disconnected` after it was begun."""
        connection = await self._acquire()
        assert self._pool is not None
        try:
            async with asyncio.timeout(limits.PARTICIPANT_CALL_S):
                return await work(connection)
        except LOST as error:
            abandon(connection)
            raise unknown(error, self.name) from error
        except asyncio.CancelledError:
            abandon(connection)
            raise
        finally:
            await self._pool.release(connection)

    async def _acquire(self) -> Connection:
        if self._pool is None:
            raise Unavailable(f"{self.name} is closed", participant=self.name)
        try:
            connection = await self._pool.acquire(timeout=limits.PARTICIPANT_CALL_S)
        except (*LOST, asyncpg.PostgresError) as error:
            raise Unavailable(f"{self.name} does not answer: {error!r}", participant=self.name) from error
        return connection

    async def _take_room(self, gid: Gid, *, prepares: bool) -> None:
        if not await _acquired(self._room):
            raise Overloaded(f"{self.name} has {self._pool_size} open transactions", participant=self.name)
        if not prepares:
            return
        if not await _acquired(self._slots):
            self._room.release()
            raise Overloaded(f"{self.name} has no slot for another prepared transaction", participant=self.name)
        self._slots_of[gid] = False


async def _acquired(semaphore: asyncio.Semaphore) -> bool:
    """Whether there was room within the time that one call may take."""
    if not semaphore.locked():
        return await semaphore.acquire()
    try:
        async with asyncio.timeout(limits.PARTICIPANT_CALL_S):
            return await semaphore.acquire()
    except TimeoutError:
        return False


async def _keep(connection: object) -> None:
    """Keep the session as the block left it."""
