"""PostgreSQL as a participant: business transactions that commit with a decision, or are prepared and obey one."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg

from coordinator import limits
from coordinator.errors import Misconfigured, Unavailable
from coordinator.faults.points import boundary
from coordinator.outbox_rows import outbox_columns
from coordinator.ports import Ability, Doubtful, Message, Session
from coordinator.protocol.model import BranchName, Ending, Evidence, Gid, Prepared, Recipe, Role
from coordinator.protocol.recipes import database_role
from coordinator.schema import apply
from participants.postgres import finish, probe
from participants.postgres.connections import Connections
from participants.postgres.database import SQL, Database, examine
from participants.postgres.errors import LOST, refusal
from participants.postgres.history import History, history_of
from participants.postgres.literals import parse
from participants.postgres.session import PostgresSession
from participants.postgres.slots import Slots

logger = logging.getLogger(__name__)


class Postgres:
    """A PostgreSQL database.

    *url*: its connection URL; it must lead to the server itself, not to a pooler. *pool*: how many transactions may be
    open at once. *connect_options*: passed on to asyncpg (`ssl`, `server_settings`, ...).
    *reset*: undo what a block did to its session (SET, session advisory locks, cursors) before the connection is used
    again. It rides with the next BEGIN. Without it a block must be as careful as behind
    PgBouncer: SET LOCAL, and transaction-level locks.
    """

    def __init__(
        self, url: str, *, pool: int = 40, reset: bool = True, connect_options: Mapping[str, Any] | None = None
    ) -> None:
        self.name = BranchName("postgres")
        self.url = url
        self.prefix = "unan"
        self._pool_size = pool
        self._resets = reset
        self._options = dict(connect_options or {})
        self._database: Database | None = None
        self._history = History()

    async def open(self) -> frozenset[Ability]:
        """Connect, create what is missing, and look at the settings. See `ports.Participant`."""
        connections = Connections(self.name, self.url, size=self._pool_size, resets=self._resets, options=self._options)
        await connections.open()
        try:
            server = await connections.ask(lambda connection: examine(connection, self.name))
            await connections.ask(lambda connection: apply(connection, "branches", "outbox"))
        except BaseException:
            await connections.close()
            raise
        slots = Slots(self.name, server.slots)
        self._database = Database(name=self.name, server=server, connections=connections, slots=slots)
        return frozenset({Ability.HOLDS_OUTBOX} | ({Ability.PREPARE} if server.slots else set()))

    async def close(self) -> None:
        """Let go of every connection, whatever is still open. Idempotent."""
        database, self._database = self._database, None
        if database is not None:
            await database.connections.close()

    async def identity(self) -> str:
        """Which database this is, whatever URL leads to it: the server's system identifier and the database's oid."""
        server = self.database.server
        return f"{server.system}/{server.database}" if server.system else f"unidentified/{self.url}"

    @property
    def connect_options(self) -> Mapping[str, Any]:
        """What else connects to this database (a relay) passes on to asyncpg as well."""
        return self._options

    @property
    def database(self) -> Database:
        """The open database. Raises `Unavailable` before `open` and after `close`."""
        if self._database is None:
            raise Unavailable(f"{self.name} is closed", participant=self.name)
        return self._database

    def crowded(self, recipe: Recipe) -> str | None:
        """Why nothing more should begin: too many wait for a slot or a connection. See `Admission`."""
        database = self.database
        slots = database.slots.crowded() if database_role(recipe) is Role.PREPARED else None
        return slots or database.connections.crowded()

    async def begin(self, gid: Gid, *, recipe: Recipe) -> PostgresSession:
        """Open a business transaction. Raises `Overloaded` at the pool's bound, `Unavailable` without an answer."""
        database = self.database
        prepares = database_role(recipe) is Role.PREPARED
        if prepares and not database.server.slots:
            raise Misconfigured(
                f"{self.name} cannot prepare: set max_prepared_transactions (to the number of connections) and restart",
                participant=self.name,
            )
        if prepares:
            await database.slots.take(gid)
        try:
            connection = await database.connections.begin(gid)
        except BaseException:
            database.slots.leave(gid)
            raise
        return PostgresSession(database, gid, connection)

    async def commit(self, prepared: Prepared) -> Ending:
        """Commit a prepared branch; the truth about how it ended. See `ports.Participant`."""
        return await finish.commit(self.database, prepared)

    async def abort(self, prepared: Prepared) -> Ending:
        """Roll a branch back, prepared or not; the truth about how it ended."""
        return await finish.abort(self.database, prepared)

    async def history(self) -> Evidence:
        """Which history of which server is followed now. See `ports.FollowsHistory`.

        Where it has changed, connections that were made before are not used again: they may see the former one.
        """
        database = self.database
        found = await database.connections.ask(history_of)
        if found != self._history:
            if self._history.known:
                logger.warning("%s has failed over: %s, formerly %s", self.name, found, self._history)
                await database.connections.expire()
            self._history = found
        return found.evidence

    async def lost(self, history: Evidence, gids: Sequence[Gid]) -> Sequence[Gid]:
        """Those whose branch is neither committed nor prepared here."""
        return await finish.lost(self.database, history, gids)

    async def in_doubt(self) -> Sequence[Doubtful]:
        """Our prepared transactions in this database, and nobody else's."""
        database = self.database
        believed = database.slots.prepared_now()  # Before the look: what is prepared after it cannot be in it.
        rows: Any = await boundary(
            "pg.scan_prepared",
            lambda: database.connections.ask(lambda connection: connection.fetch(SQL["scan"], self.prefix)),
        )
        found = [(*ours, row["age_s"]) for row in rows if (ours := parse(row["gid"])) is not None]
        database.slots.leave_finished(believed, {gid for gid, _, _ in found})
        return [
            Doubtful(prepared=Prepared(gid=gid, branch=branch), age_s=age_s)
            for gid, branch, age_s in found
            if branch == self.name
        ]

    async def probe(self, prepared: Prepared) -> str:
        """What this database says about a branch. See `ports.AnswersProbes`."""
        return await probe.probe(self.database, prepared)

    async def write_outbox(self, session: Session, gid: Gid, messages: Sequence[Message]) -> None:
        """Insert *messages* as waiting rows inside the open branch."""
        assert isinstance(session, PostgresSession), "a branch of this participant"
        columns = outbox_columns(messages, frozenset())
        try:
            await session.connection.execute(SQL["write_outbox"], gid, *columns, timeout=limits.PARTICIPANT_CALL_S)
        except LOST as error:
            raise Unavailable(f"{self.name}: {error!r}", participant=self.name) from error
        except asyncpg.PostgresError as error:
            raise refusal(error, self.name) from error

    async def release_outbox(self, gid: Gid, participant: BranchName) -> None:
        """Let the relay deliver the waiting rows of *gid* for *participant*."""
        await boundary(
            "outbox.release",
            lambda: self.database.connections.ask(
                lambda connection: connection.execute(SQL["release_outbox"], gid, participant)
            ),
            gid=gid,
        )

    async def clear_outbox(self, delivered: Sequence[tuple[Gid, BranchName]]) -> None:
        """Delete the waiting rows of what Kafka has committed."""
        gids, participants = [gid for gid, _ in delivered], [participant for _, participant in delivered]
        await self.database.connections.ask(
            lambda connection: connection.execute(SQL["clear_outbox"], gids, participants)
        )

    async def purge(self, older_than_s: float = limits.JOURNAL_RETENTION_S) -> int:
        """Forget markers of branches that were prepared longer ago than the journal remembers; how many, at most."""
        arguments = (older_than_s, limits.JOURNAL_BATCH_MAX)
        done = await self.database.connections.ask(lambda connection: connection.execute(SQL["purge"], *arguments))
        return int(done.split()[-1])
