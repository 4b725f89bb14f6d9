"""A database in memory: rows by table, transactions that are isolated until they commit, and branches that prepare.

*store* is what survives a "process": several `MemoryDatabase` objects may share one, as processes share a server.
Failures are scripted by attributes, as the broker's: `down`, `refuses`, `forgets_replies`.
"""

import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from coordinator.errors import Disconnected, Refused, Unavailable
from coordinator.faults.points import boundary
from coordinator.ports import Ability, Doubtful, Journal, Message, Record, Session
from coordinator.protocol.model import BranchName, Ending, Evidence, Gid, Prepared, Recipe, Vote

_numbers = itertools.count(1)


@dataclass(slots=True)
class MemoryOutboxRow:
    """A message beside the rows it belongs to."""

    gid: Gid
    message: Message
    waiting: bool


@dataclass(slots=True)
class MemoryStore:
    """Committed rows, prepared branches, and how each branch ended."""

    tables: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    prepared: dict[tuple[Gid, BranchName], tuple["MemoryConnection", float]] = field(default_factory=dict)
    ended: dict[tuple[Gid, BranchName], Ending] = field(default_factory=dict)
    outbox: list[Any] = field(default_factory=list)


class MemoryConnection:
    """An open transaction: what it does happens when it commits."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._staged: list[Callable[[], None]] = []
        self.wrote = False

    def insert(self, table: str, row: Any) -> None:
        """Insert *row*; nobody sees it before the commit."""
        self.wrote = True
        self._staged.append(lambda: self._store.tables[table].append(row))

    def stage(self, action: Callable[[], None]) -> None:
        """Do *action* first when this commits; where it raises, nothing of the transaction happens."""
        self._staged.insert(0, action)

    def commit(self) -> None:
        """Do everything that was staged."""
        for action in self._staged:
            action()
        self._staged.clear()

    def rollback(self) -> None:
        """Do nothing of it."""
        self._staged.clear()


class MemoryDatabase:
    """`ports.Participant` in memory; with a journal in memory its commit can carry the decision."""

    def __init__(self, store: MemoryStore | None = None, *, holds_journal: bool = True) -> None:
        self.name = BranchName("memory")
        self.prefix = "unan"
        self.world: Any = None
        """The journal's world, handed in by the coordinator: its outbox is this database's."""
        self.now_s = time.monotonic
        """The clock by which a prepared branch ages."""
        self.store = store or MemoryStore()
        self.down = False
        self.refuses = False
        self.forgets_replies = 0
        self._holds_journal = holds_journal

    async def open(self) -> frozenset[Ability]:
        """Nothing to connect to."""
        return frozenset({Ability.PREPARE, Ability.HOLDS_OUTBOX})

    async def close(self) -> None:
        """Nothing to close."""

    async def identity(self) -> str:
        """The journal's memory, if it is to be in the same database."""
        return f"memory/{id(self.world)}" if self._holds_journal else f"memory/{id(self)}"

    async def begin(self, gid: Gid, *, recipe: Recipe) -> "MemorySession":
        """Open a transaction."""
        self.answer()
        return MemorySession(self, gid)

    async def commit(self, prepared: Prepared) -> Ending:
        """Commit a prepared branch; how it ended."""
        return await boundary("pg.commit_prepared", lambda: self._end(prepared, Ending.COMMITTED), gid=prepared.gid)

    async def abort(self, prepared: Prepared) -> Ending:
        """Roll a branch back; how it ended."""
        return await boundary("pg.rollback_prepared", lambda: self._end(prepared, Ending.ABORTED), gid=prepared.gid)

    async def in_doubt(self) -> Sequence[Doubtful]:
        """Branches that are prepared now."""
        self.answer()
        now_s = self.now_s()
        return [
            Doubtful(prepared=Prepared(gid=gid, branch=branch), age_s=now_s - since_s)
            for (gid, branch), (_, since_s) in self.store.prepared.items()
            if branch == self.name and gid.startswith(f"{self.prefix}:")
        ]

    async def write_outbox(self, session: Session, gid: Gid, messages: Sequence[Message]) -> None:
        """Stage waiting rows inside the open branch."""
        assert isinstance(session, MemorySession), "a branch of this participant"
        connection = session.connection
        connection.wrote = True
        connection.stage(lambda: self.outbox.extend(MemoryOutboxRow(gid, message, True) for message in messages))

    async def release_outbox(self, gid: Gid, participant: BranchName) -> None:
        """Let the relay deliver the waiting rows of *gid* for *participant*."""
        for row in self.outbox:
            if row.gid == gid and row.message.participant == participant:
                row.waiting = False

    async def clear_outbox(self, delivered: Sequence[tuple[Gid, BranchName]]) -> None:
        """Delete the waiting rows of what the broker has committed."""
        gone = set(delivered)
        self.outbox[:] = [
            row for row in self.outbox if not ((row.gid, row.message.participant) in gone and row.waiting)
        ]

    @property
    def outbox(self) -> list[Any]:
        """The rows of this database's outbox: the journal's, where it is in the same memory."""
        journal_is_here = self._holds_journal and self.world is not None
        return self.world.outbox if journal_is_here else self.store.outbox

    def answer(self) -> None:
        """Raises `Unavailable` while the script says so."""
        if self.down:
            raise Unavailable(f"{self.name} is down", participant=self.name)

    def forget_reply(self) -> None:
        """Raises `Disconnected` as often as the script says, after what was asked has been done."""
        if self.forgets_replies:
            self.forgets_replies -= 1
            raise Disconnected("the reply was lost", participant=self.name)

    async def _end(self, prepared: Prepared, wanted: Ending) -> Ending:
        self.answer()
        key = (prepared.gid, prepared.branch)
        held = self.store.prepared.pop(key, None)
        if held is not None:
            connection, _ = held
            if wanted is Ending.COMMITTED:
                connection.commit()
            self.store.ended[key] = wanted
        self.forget_reply()
        return self.store.ended.get(key, Ending.ABORTED)


class MemorySession:
    """`ports.DecidingSession` in memory."""

    def __init__(self, database: MemoryDatabase, gid: Gid) -> None:
        self._database, self._gid = database, gid
        self._connection: MemoryConnection | None = MemoryConnection(database.store)
        self._number = next(_numbers)
        self._voted = False

    @property
    def connection(self) -> MemoryConnection:
        """The open transaction."""
        if self._connection is None:
            raise Refused(f"{self._database.name} of {self._gid} has ended")
        return self._connection

    async def commit_with(
        self, journal: Journal, record: Record, messages: Sequence[Message], *, ready: frozenset[BranchName]
    ) -> None:
        """Commit the rows with the decision, or nothing."""
        connection, self._connection = self.connection, None
        await journal.decide_within(connection, record, messages, ready=ready)

        async def commit() -> None:
            self._refuse_as_scripted()
            connection.commit()
            self._database.store.ended[self._gid, self._database.name] = Ending.COMMITTED
            self._database.forget_reply()

        await boundary("pg.commit_record", commit, gid=self._gid)

    async def vote(self, timeout_s: float) -> tuple[Vote, Evidence]:
        """Prepare, or answer that nothing was written."""
        if not self.connection.wrote:
            await self.discard()
            return Vote.READ_ONLY, {}
        connection, self._connection = self.connection, None
        key = (self._gid, self._database.name)

        async def prepare() -> None:
            self._refuse_as_scripted()
            if key in self._database.store.ended:  # A late prepare after an abort leaves nothing behind.
                raise Refused(f"{self._gid} has ended already", participant=self._database.name)
            self._database.store.prepared[key] = (connection, self._database.now_s())
            self._database.forget_reply()

        await boundary("pg.prepare", prepare, gid=self._gid)
        self._voted = True
        return Vote.YES, {"session": self._number}

    async def discard(self) -> None:
        """Roll back. What has promised stays prepared: by now it may have been decided to commit."""
        self._connection = None
        if self._voted:
            return
        key = (self._gid, self._database.name)
        self._database.store.prepared.pop(key, None)
        self._database.store.ended.setdefault(key, Ending.ABORTED)

    def _refuse_as_scripted(self) -> None:
        self._database.answer()
        if self._database.refuses:
            raise Refused(f"{self._database.name} refuses", participant=self._database.name)
