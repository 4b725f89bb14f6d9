"""One open business transaction: the connection that the block writes through, and the two ways in which it can end.

*Deciding*: it commits with the decision record in it. *Preparing*: it leaves a marker, and is prepared. A connection
whose last answer never came is not used again: what became of its statement is found out on another one.
"""

import time
from collections.abc import Sequence
from typing import Any

import asyncpg

from coordinator import limits
from coordinator.errors import CoordinatorError, Refused, Unavailable, VotedNo
from coordinator.faults.points import boundary
from coordinator.ports import Journal, Message, Record
from coordinator.protocol.model import NO_EVIDENCE, BranchName, Evidence, Gid, Vote
from participants.postgres.connection import BorrowedConnection, Connection, backend_of, is_lost
from participants.postgres.database import SQL, Database
from participants.postgres.errors import LOST, refusal, unknown
from participants.postgres.finish import stop_late_prepare
from participants.postgres.literals import prepare_transaction, prepared_id


class PostgresSession:
    """`ports.DecidingSession` and `ports.ConnectedSession` on one connection of the participant's pool."""

    def __init__(self, database: Database, gid: Gid, connection: Connection) -> None:
        self.gid = gid
        self._database = database
        self._branch = database.name
        self._connection: Connection | None = connection
        self._lent = BorrowedConnection(connection)
        self._backend = backend_of(connection)
        self._unanswered = False
        """A PREPARE was sent and its answer never came: it may still arrive."""

    @property
    def connection(self) -> BorrowedConnection:
        """The asyncpg connection, inside the open transaction and no longer."""
        return self._lent

    @property
    def _open_connection(self) -> Connection:
        if self._connection is None:
            raise Refused(f"{self._branch} of {self.gid} has ended: its connection is not to be used any more")
        return self._connection

    async def commit_with(
        self, journal: Journal, record: Record, messages: Sequence[Message], *, ready: frozenset[BranchName]
    ) -> None:
        """Commit the business rows with the decision. See `ports.DecidingSession`."""
        connection = self._open_connection
        try:
            self._refuse_if_ended_by_hand(connection)
            await journal.decide_within(connection, record, messages, ready=ready)
        except LOST as error:
            self._give_up()
            raise Unavailable(f"{self._branch}: the connection was lost before the commit: {error!r}") from error
        except asyncpg.PostgresError as error:
            await self.discard()
            raise refusal(error, self._branch) from error
        except CoordinatorError:
            await self.discard()
            raise
        await self._commit(connection)

    async def vote(self, timeout_s: float) -> tuple[Vote, Evidence]:
        """Prepare the transaction. See `ports.Session`."""
        connection, until_s = self._open_connection, time.monotonic() + timeout_s
        try:
            self._refuse_if_ended_by_hand(connection)
            marked: Any = await connection.fetchrow(SQL["mark"], self.gid, self._branch, timeout=timeout_s)
            if not marked["same_block"]:
                raise self._ended_by_hand()
            if not marked["wrote"]:
                # What a serialisable transaction has read holds only if it commits.
                await connection.execute("COMMIT", timeout=timeout_s)
                self._leave()
                return Vote.READ_ONLY, NO_EVIDENCE
        except LOST as error:
            self._give_up()
            raise Unavailable(f"{self._branch}: the connection was lost before PREPARE: {error!r}") from error
        except asyncpg.PostgresError as error:
            await self.discard()
            raise refusal(error, self._branch) from error
        history = connection.history.evidence
        await self._prepare(connection, until_s)
        return Vote.YES, {"xid": marked["xid"], **history}

    async def discard(self) -> None:
        """Roll back. Where a PREPARE may still be under way, its backend is ended first, and then what it left.

        Raises `Unavailable` or `InDoubt` while that cannot be done: nothing may be presumed before it has been.
        """
        connection = self._connection
        if self._unanswered:
            if connection is not None:
                self._give_up()
            await stop_late_prepare(self._database, self._backend, self.gid)
            self._unanswered = False
        elif connection is not None:
            await self._roll_back(connection)
        self._leave()

    async def _commit(self, connection: Connection) -> None:
        try:
            status = await boundary(
                "pg.commit_record",
                lambda: connection.execute("COMMIT", timeout=limits.PARTICIPANT_CALL_S),
                gid=self.gid,
                branch=self._branch,
            )
        except LOST as error:
            self._give_up()  # Its backend ends, so that whoever waits for the decision's row learns what stands.
            raise unknown(error, self._branch) from error
        except asyncpg.PostgresError as error:
            await self.discard()
            raise refusal(error, self._branch) from error
        except BaseException:
            self._give_up()
            raise
        self._leave()
        if status != "COMMIT":
            raise VotedNo(f"{self._branch}: the server answered {status} to COMMIT", participant=self._branch)

    async def _prepare(self, connection: Connection, until_s: float) -> None:
        command = prepare_transaction(prepared_id(self.gid, self._branch))
        self._unanswered = True
        self._database.slots.prepared(self.gid)
        try:
            status = await boundary(
                "pg.prepare",
                lambda: connection.execute(command, timeout=max(0.001, until_s - time.monotonic())),
                gid=self.gid,
                branch=self._branch,
            )
        except LOST as error:
            raise unknown(error, self._branch) from error
        except asyncpg.PostgresError as error:
            self._unanswered = False  # A PREPARE that fails has rolled back already.
            if isinstance(error, asyncpg.FeatureNotSupportedError):
                self._give_up()  # Its session holds what outlives a transaction (a lock, a cursor): nobody gets that.
            await self.discard()
            raise refusal(error, self._branch) from error
        self._unanswered = False
        if status != "PREPARE TRANSACTION":
            self._leave()
            raise VotedNo(f"{self._branch}: the server answered {status} to PREPARE", participant=self._branch)
        self._release()

    async def _roll_back(self, connection: Connection) -> None:
        try:
            if is_lost(connection) or connection.is_in_transaction():
                await connection.execute("ROLLBACK", timeout=limits.PARTICIPANT_CALL_S)
        except (*LOST, asyncpg.PostgresError):
            self._give_up()
        except BaseException:
            self._give_up()
            raise

    def _refuse_if_ended_by_hand(self, connection: Connection) -> None:
        if not is_lost(connection) and (connection.ended_by_hand or not connection.is_in_transaction()):
            raise self._ended_by_hand()

    def _ended_by_hand(self) -> Refused:
        return Refused(
            f"{self._branch}: the block ended the transaction by itself (COMMIT or ROLLBACK); leave that to the "
            "coordinator, and use connection.transaction() for savepoints",
            participant=self._branch,
            gid=self.gid,
        )

    def _leave(self) -> None:
        """Nothing of this share is open or prepared any more."""
        self._release()
        self._database.slots.leave(self.gid)

    def _release(self) -> None:
        connection, self._connection = self._connection, None
        self._lent.take_away()
        if connection is not None:
            self._database.connections.take_back(connection)

    def _give_up(self) -> None:
        connection, self._connection = self._connection, None
        self._lent.take_away()
        if connection is not None:
            self._database.connections.give_up(connection, self._backend)
        if not self._unanswered:
            self._database.slots.leave(self.gid)
