"""One open business transaction: the connection that the block writes through, and the two ways in which it can end.

*Deciding*: it commits with the decision record in it. *Preparing*: it leaves a marker, and is prepared. A connection
whose last answer never came is not used again: what became of its statement is found out on another one.
"""

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from coordinator import limits
from coordinator.errors import Refused, Unavailable
from coordinator.faults.points import boundary
from coordinator.ports import Journal, Message, Record
from coordinator.protocol.model import BranchName, Evidence, Gid, Vote
from participants.postgres.errors import LOST, refusal, unknown
from participants.postgres.literals import prepare_transaction, prepared_id, rollback_prepared

if TYPE_CHECKING:
    from participants.postgres.participant import Postgres

Connection: TypeAlias = "PoolConnectionProxy[Any]"


class PostgresSession:
    """`ports.Session` (and `DecidingSession`) on one connection of the participant's pool."""

    def __init__(self, participant: "Postgres", gid: Gid, connection: Connection) -> None:
        self.gid = gid
        self._participant = participant
        self._connection: Connection | None = connection
        self._backend = connection.get_server_pid()
        self._unanswered = False
        """A PREPARE was sent and its answer never came: it may still arrive."""

    @property
    def connection(self) -> Connection:
        """The asyncpg connection, inside the open transaction."""
        if self._connection is None:
            raise Refused(f"{self._branch} of {self.gid} has ended: its connection is not to be used any more")
        return self._connection

    async def commit_with(
        self, journal: Journal, record: Record, messages: Sequence[Message], *, ready: frozenset[BranchName]
    ) -> None:
        """Commit the business rows with the decision. See `ports.DecidingSession`."""
        connection = self.connection
        try:
            self._refuse_if_ended_by_hand(connection)
            await journal.decide_within(connection, record, messages, ready=ready)
        except asyncpg.PostgresError as error:
            await self.discard()
            raise refusal(error, self._branch) from error
        except (Refused, Unavailable):
            await self.discard()
            raise
        except LOST as error:
            self._give_up()
            raise Unavailable(f"{self._branch}: the connection was lost before the commit: {error!r}") from error
        await self._commit(connection)
        self._release()

    async def vote(self, timeout_s: float) -> tuple[Vote, Evidence]:
        """Prepare the transaction. See `ports.Session`."""
        connection = self.connection
        try:
            self._refuse_if_ended_by_hand(connection)
            if not await connection.fetchval(self._participant.sql["wrote"], timeout=timeout_s):
                await self.discard()
                return Vote.READ_ONLY, {}
            xid = await connection.fetchval(self._participant.sql["mark"], self.gid, self._branch, timeout=timeout_s)
        except LOST as error:
            self._give_up()
            raise Unavailable(f"{self._branch}: the connection was lost before PREPARE: {error!r}") from error
        except asyncpg.PostgresError as error:
            await self.discard()
            raise refusal(error, self._branch) from error
        await self._prepare(connection, timeout_s)
        self._release()
        self._participant.prepared(self.gid)
        server = self._participant.server
        return Vote.YES, {"xid": xid, "system": server.system, "timeline": server.timeline}

    async def discard(self) -> None:
        """Roll back. Where a PREPARE may still be under way, its backend is ended first, and then what it left."""
        try:
            if self._unanswered:
                self._unanswered = False
                await self._participant.end_backend(self._backend, self.gid)
            if self._connection is not None and self._connection.is_in_transaction():
                await self._connection.execute("ROLLBACK", timeout=limits.PARTICIPANT_CALL_S)
        except (*LOST, asyncpg.PostgresError):
            if self._connection is not None:
                abandon(self._connection)
        finally:
            self._release()
            self._participant.leave_slot(self.gid)

    async def _commit(self, connection: Connection) -> None:
        try:
            await boundary("pg.commit_record", lambda: connection.execute("COMMIT"), gid=self.gid, branch=self._branch)
        except LOST as error:
            self._give_up()
            raise unknown(error, self._branch) from error
        except asyncpg.PostgresError as error:
            await self.discard()
            raise refusal(error, self._branch) from error
        except BaseException:
            self._give_up()
            raise

    async def _prepare(self, connection: Connection, timeout_s: float) -> None:
        command = prepare_transaction(prepared_id(self.gid, self._branch))
        self._unanswered = True
        try:
            await boundary(
                "pg.prepare",
                lambda: connection.execute(command, timeout=timeout_s),
                gid=self.gid,
                branch=self._branch,
            )
        except LOST as error:
            raise unknown(error, self._branch) from error
        except asyncpg.PostgresError as error:
            self._unanswered = False
            await self.discard()  # A PREPARE that fails has rolled back already.
            raise refusal(error, self._branch) from error
        self._unanswered = False

    def _refuse_if_ended_by_hand(self, connection: Connection) -> None:
        if not connection.is_in_transaction():
            raise Refused(
                f"{self._branch}: the block ended the transaction by itself (COMMIT or ROLLBACK); leave that to the "
                "coordinator, and use connection.transaction() for savepoints",
                participant=self._branch,
            )

    def _release(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._participant.return_connection(connection)

    def _give_up(self) -> None:
        if self._connection is not None:
            abandon(self._connection)
        self._release()

    @property
    def _branch(self) -> BranchName:
        return self._participant.name


def abandon(connection: Connection) -> None:
    """End a connection whose last answer never came: nobody may use it again."""
    with contextlib.suppress(asyncpg.InterfaceError):  # It was lost, and its pool has noticed before us.
        connection.terminate()


async def finish_late_prepare(connection: Connection, gid: Gid, branch: BranchName) -> None:
    """Roll back what a PREPARE left that arrived after its backend had been given up."""
    try:
        await connection.execute(rollback_prepared(prepared_id(gid, branch)))
    except asyncpg.UndefinedObjectError:
        return  # It never arrived, which is what an abort of nothing finds.
