"""The journal in PostgreSQL: decisions share their durable writes, and first insert wins.

Four connections: for what is forced (decisions); for leases, which nothing may delay; for what is not forced
(finishing: a crash that forgets it costs a repeated question); and for questions. The statements are in `queries.sql`.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg

from coordinator import limits
from coordinator.alerts import HEURISTIC_OUTCOMES, AlertKind
from coordinator.errors import KeyReused, Misconfigured, Refused, Replaced
from coordinator.faults.points import boundary
from coordinator.journal.database import Connection, JournalConnection
from coordinator.journal.group_commit import GroupCommit, close_all
from coordinator.journal.rows import branches_json, record_of
from coordinator.outbox_rows import outbox_columns, outbox_row
from coordinator.ports import Adopted, Lease, Message, Record, Standing
from coordinator.protocol.model import BranchName, Ending, Evidence, Gid, Outcome, Role, Vote
from coordinator.schema import OF_A_JOURNAL, apply, queries
from coordinator.storable import storable

SQL = queries(Path(__file__).with_name("queries.sql"))

_Finished = tuple[Gid, Outcome, Mapping[BranchName, Ending]]


class PostgresJournal:
    """`ports.Journal` in a PostgreSQL database."""

    def __init__(self, url: str) -> None:
        self.lease: Lease | None = None
        """What decisions are written under; kept up to date by the owner's registration and renewal."""
        self.forced = JournalConnection(url, {"lock_timeout": f"{int(limits.PARTICIPANT_CALL_S * 800)}ms"})
        self.owning = JournalConnection(url)
        self.lazy = JournalConnection(url, {"synchronous_commit": "off"})
        self.questions = JournalConnection(url)
        self._decisions: GroupCommit[Record, Standing] = GroupCommit(
            "journal: decisions",
            self._flush_decisions,
            order=lambda record: (record.name, record.key or "", record.gid),  # Two replicas never wait in a circle.
        )
        self._finishes: GroupCommit[_Finished, None] = GroupCommit("journal: finishes", self._flush_finishes)

    async def open(self) -> None:
        """Connect, and bring the tables up to date. Raises `Unavailable` or `Misconfigured`."""
        await self.questions.run(lambda connection: apply(connection, *OF_A_JOURNAL))

    async def close(self) -> None:
        """Write what waits, and let go of the connections. Idempotent."""
        queues = (self._decisions, self._finishes)
        await close_all(queues, (self.forced, self.owning, self.lazy, self.questions))

    def watch(self, flushed: Callable[[str, int], None]) -> None:
        """Tell *flushed* of every write that records shared: of which queue, and how many they were."""
        self._decisions.flushed = partial(flushed, "decisions")
        self._finishes.flushed = partial(flushed, "finishes")

    def crowded(self) -> str | None:
        """Why nothing should begin: the journal is behind."""
        return self._decisions.crowded() or self._finishes.crowded()

    async def identity(self) -> str:
        """Which database this is, whatever URL leads to it: the server's system identifier and the database's oid."""
        return str(await self.questions.run(lambda connection: connection.fetchval(IDENTITY)))

    async def prefix(self) -> str:
        """What all ids of this journal begin with, where no setting says otherwise."""
        own = await self.questions.run(lambda connection: connection.fetchval(SQL["prefix"]))
        if own is None:
            raise Misconfigured("the table unanimity.prefix is empty: insert what the ids of this journal begin with")
        return str(own)

    async def decide(self, record: Record) -> Standing:
        """Insert *record* unless a row stands; what stands. See `ports.Journal`."""
        return await boundary("journal.decide", lambda: self._decisions.submit(record), gid=record.gid)

    async def decide_within(
        self, connection: Any, record: Record, messages: Sequence[Message], *, ready: frozenset[BranchName]
    ) -> None:
        """Insert *record* and its outbox rows on the caller's own transaction. See `ports.Journal`."""
        owner, term = self._owner(record)
        row = (record.gid, owner, term, record.name, record.recipe, record.key, record.reason, branches_json(record))
        within_s = limits.PARTICIPANT_CALL_S
        match messages:
            case []:
                written = await connection.fetchval(SQL["record_within"], *row, record.outbox, timeout=within_s)
            case [message]:
                values = outbox_row(message, ready)
                sql = SQL["decide_within_one"]
                written = await connection.fetchval(sql, *row, record.outbox, *values, timeout=within_s)
            case _:
                columns = outbox_columns(messages, ready)
                sql = SQL["decide_within"]
                written = await connection.fetchval(sql, *row, record.outbox, *columns, timeout=within_s)
        if written is None:
            raise await self._why_refused(connection, record)

    async def conclude(
        self, gid: Gid, standing: Standing, *, reason: str = "", hold_s: float | None = None
    ) -> Standing:
        """Turn an INTENT or PARKED row into a decision, once; what stands."""
        arguments = (gid, standing, reason, *self._owner(), hold_s)
        await boundary(
            "journal.conclude",
            lambda: self.forced.run(lambda connection: connection.execute(SQL["conclude"], *arguments)),
            gid=gid,
        )
        record = await self.look_up(gid)
        if record is None:
            raise Refused(f"the journal has no record of {gid}", gid=gid)
        return record.standing

    async def finish(self, gid: Gid, outcome: Outcome, endings: Mapping[BranchName, Ending]) -> None:
        """Record that nothing is owed any more; written, but not forced."""
        await self._finishes.submit((gid, outcome, endings))

    async def adopt(self, busy: Collection[Gid] = ()) -> Sequence[Adopted]:
        """Make unfinished records of the dead this process' own. See `ports.Journal`."""
        bounds = (limits.JOURNAL_BATCH_MAX, list(busy), limits.OWN_RECORD_IDLE_S, limits.ADOPTIONS_MAX)
        arguments = (*self._owner(), *bounds, AlertKind.POISON)
        rows = await boundary(
            "journal.adopt",
            lambda: self.forced.run(lambda connection: connection.fetch(SQL["adopt"], *arguments)),
        )
        return [
            Adopted(record=record_of(row), owner=row["former"], age_s=row["age_s"], set_aside=row["set_aside"])
            for row in rows
        ]

    async def look_up(self, gid: Gid) -> Record | None:
        """The row about *gid*."""
        row = await self.questions.run(lambda connection: connection.fetchrow(SQL["look_up"], gid))
        return None if row is None else record_of(row)

    async def unfinished(self) -> Mapping[Standing, tuple[int, float]]:
        """How many records are not finished, whoever's they are, and the age of the oldest in seconds; by standing."""
        rows = await self.questions.run(lambda connection: connection.fetch(SQL["unfinished"]))
        return {Standing(row["standing"]): (row["records"], row["age_s"]) for row in rows}

    async def look_up_key(self, name: str, key: str) -> Record | None:
        """The row of the transaction with this idempotency key."""
        row = await self.questions.run(lambda connection: connection.fetchrow(SQL["look_up_key"], name, key))
        return None if row is None else record_of(row)

    async def remembers_since(self) -> datetime | None:
        """When the journal's present history began, where it is not its first. See `ports.Journal`."""

        async def ask(connection: Connection) -> datetime | None:
            try:
                since: datetime | None = await connection.fetchval(SQL["remembers_since"])
            except asyncpg.InsufficientPrivilegeError:
                return None  # This role may not read the server's history: then operators have to know it.
            return since

        return await self.questions.run(ask)

    async def commits_elsewhere(self, branch: BranchName, history: Evidence, *, within_s: float) -> Mapping[Gid, bool]:
        """Recent commits whose *branch* was prepared in another history. See `ports.Journal`."""
        prepared = {"name": branch, "role": Role.PREPARED, "vote": Vote.YES}
        here = {"name": branch, "evidence": dict(history)}
        found: dict[Gid, bool] = {}
        until_s = 0.0
        while until_s == 0 or until_s < within_s:  # Minute by minute, backwards: what grows older is met once more.
            arguments = (json.dumps([prepared]), json.dumps([here]), min(until_s + 60, within_s), until_s)
            found |= await self._commits_elsewhere(arguments)
            until_s += 60
        return found

    async def note_ending(self, gid: Gid, branch: BranchName, ending: Ending) -> None:
        """Correct how a branch of a finished transaction ended."""
        await self.questions.run(lambda connection: connection.execute(SQL["note_ending"], gid, branch, ending))

    async def note_attempt(self, gid: Gid, branch: str, action: str, *, tried: int, answer: str) -> None:
        """Keep for people what an owed call was last answered. See `ports.Journal`."""
        arguments = (gid, branch, action, tried, storable(answer), self._owner_or_nobody()[0])
        await self.lazy.run(lambda connection: connection.execute(SQL["note_attempt"], *arguments))

    async def purge(self, older_than_s: float = limits.JOURNAL_RETENTION_S) -> int:
        """Forget decisions that were finished longer ago than this; how many.

        Heuristic outcomes are kept for ever, and whatever else has an open alert until it is resolved.
        """
        arguments = (older_than_s, limits.JOURNAL_BATCH_MAX, list(HEURISTIC_OUTCOMES))
        return int(await self.lazy.run(lambda connection: connection.fetchval(SQL["purge"], *arguments)))

    async def _commits_elsewhere(self, arguments: tuple[str, str, float, float]) -> dict[Gid, bool]:
        rows = await self.questions.run(lambda connection: connection.fetch(SQL["commits_elsewhere"], *arguments))
        return {Gid(row["gid"]): row["done"] for row in rows}

    def _owner(self, record: Record | None = None) -> tuple[str, int]:
        """The lease that *record*'s branches were made under, or else this process' own."""
        lease = (record.lease if record is not None else None) or self.lease
        if lease is None:
            raise Replaced("this process is no owner: it has not registered, or it has resigned")
        return lease.owner, lease.term

    async def _why_refused(self, connection: Connection, record: Record) -> Refused:
        stands = await connection.fetchval("SELECT standing FROM unanimity.decisions WHERE gid = $1", record.gid)
        if stands is None and record.key is not None:
            return KeyReused(f"{record.name!r} with key {record.key!r} was committed by another transaction")
        return Refused(f"{record.gid} was decided already: {stands or 'by a transaction that is not visible here'}")

    async def _flush_decisions(self, batch: Sequence[Record]) -> Sequence[Standing | BaseException]:
        leases = [self._owner_or_nobody(record) for record in batch]
        columns = (
            [owner for owner, _ in leases],
            [term for _, term in leases],
            [record.gid for record in batch],
            [record.standing for record in batch],
            [record.name for record in batch],
            [record.recipe for record in batch],
            [record.key for record in batch],
            [record.reason for record in batch],
            [branches_json(record) for record in batch],
            [record.outbox for record in batch],
            [record.hold_s for record in batch],
            [record.reigns for record in batch],
        )
        rows = await self.forced.run(lambda connection: connection.fetch(SQL["decide"], *columns))
        # By what was inserted, not by what was asked: two records of one transaction may share a batch.
        standing = {row["gid"]: Standing(row["standing"]) for row in rows if row["standing"]}
        held = {row["gid"] for row in rows if not row["standing"]}
        others = [record.gid for record in batch if record.gid not in standing]
        if others:
            found = await self.forced.run(lambda connection: connection.fetch(SQL["standings"], others))
            standing |= {row["gid"]: Standing(row["standing"]) for row in found}
        return [
            _stands(record, standing, held=f"{owner}/{term}" in held)
            for record, (owner, term) in zip(batch, leases, strict=True)
        ]

    async def _flush_finishes(self, batch: Sequence[_Finished]) -> Sequence[None]:
        gids, outcomes = [gid for gid, _, _ in batch], [outcome for _, outcome, _ in batch]
        endings = [json.dumps(dict(ending)) for _, _, ending in batch]
        await boundary(
            "journal.finish",
            lambda: self.lazy.run(lambda connection: connection.execute(SQL["finish"], gids, outcomes, endings)),
        )
        return [None] * len(batch)

    def _owner_or_nobody(self, record: Record | None = None) -> tuple[str, int]:
        """As `_owner`; nobody may still write an abort, and is refused everything else."""
        lease = (record.lease if record is not None and record.standing is not Standing.ABORT else None) or self.lease
        return (lease.owner, lease.term) if lease is not None else ("(nobody)", 0)


def _stands(record: Record, standing: Mapping[str, Standing], *, held: bool) -> Standing | BaseException:
    if record.gid in standing:
        return standing[record.gid]
    if not held and record.standing is not Standing.ABORT:
        return Replaced(f"{record.gid} was not decided: this process has lost its term", gid=record.gid)
    return KeyReused(f"{record.name!r} with key {record.key!r} was committed by another transaction", gid=record.gid)


IDENTITY = """
    SELECT coalesce((SELECT system_identifier::text FROM pg_control_system()), '') || '/' || oid
    FROM pg_database WHERE datname = current_database()
"""
