"""The journal in memory: for tests and first steps, held to the same conformance suite as the one in PostgreSQL.

Several journals may share one `MemoryWorld`: they are then several processes on one database. Nothing survives the
Python process, which is the one promise that it cannot keep.
"""

import os
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from coordinator import limits
from coordinator.alerts import HEURISTIC_OUTCOMES, refuse_anonymous
from coordinator.errors import KeyReused, Refused, Replaced
from coordinator.faults.points import boundary
from coordinator.ports import Adopted, Alert, AlertKind, Lease, Message, Record, Standing
from coordinator.protocol.model import BranchName, Ending, Evidence, Gid, Outcome, Role, Vote
from coordinator.storable import storable


@dataclass(slots=True)
class _Row:
    record: Record
    owner: str
    term: int
    created_s: float
    done: bool = False
    endings: Mapping[BranchName, Ending] = field(default_factory=dict)


@dataclass(slots=True)
class _Owner:
    term: int
    lease_until_s: float
    taken_by: str | None = None


@dataclass(slots=True)
class StoredMessage:
    """A row of the outbox in memory."""

    gid: Gid
    message: Message
    waiting: bool


@dataclass(slots=True)
class MemoryWorld:
    """What the processes share, and the one clock that decides leases."""

    now_s: Callable[[], float] = time.monotonic
    wall_s: Callable[[], float] = time.time
    rows: dict[Gid, _Row] = field(default_factory=dict)
    owners: dict[str, _Owner] = field(default_factory=dict)
    ids: dict[tuple[str, str], str] = field(default_factory=dict)
    outbox: list[StoredMessage] = field(default_factory=list)
    alerts: dict[tuple[Gid, str], str] = field(default_factory=dict)
    resolved: set[tuple[Gid, str]] = field(default_factory=set)
    audit: list[tuple[str, str, Gid, str, str]] = field(default_factory=list)
    attempts: dict[tuple[Gid, str, str], tuple[int, str]] = field(default_factory=dict)
    numbers: int = 0
    prefix: str = field(default_factory=lambda: f"unan{os.urandom(4).hex()}")
    sagas: dict[int, Any] = field(default_factory=dict)  # By number; see `journal.memory_sagas`.


class MemoryJournal:
    """`ports.Journal` in a `MemoryWorld`."""

    def __init__(self, world: MemoryWorld) -> None:
        self.world = world
        self.lease: Lease | None = None

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close."""

    async def identity(self) -> str:
        """Which memory this is."""
        return f"memory/{id(self.world)}"

    async def prefix(self) -> str:
        """What all ids of this journal begin with, where no setting says otherwise."""
        return self.world.prefix

    async def decide(self, record: Record) -> Standing:
        """Insert *record* unless a row stands; what stands."""

        async def insert() -> Standing:
            return self._insert(record)

        return await boundary("journal.decide", insert, gid=record.gid)

    async def decide_within(
        self, connection: Any, record: Record, messages: Sequence[Message], *, ready: frozenset[BranchName]
    ) -> None:
        """Stage the insert on *connection*, whose commit carries it out (see `MemoryConnection` in the participant)."""
        owner, term = self._owner(record)
        self._refuse_conflict(record)

        def insert() -> None:
            self._refuse_conflict(record)
            self.world.rows[record.gid] = _Row(record, owner, term, self.world.now_s())
            self.world.outbox.extend(StoredMessage(record.gid, m, m.participant not in ready) for m in messages)

        connection.stage(insert)

    async def conclude(
        self, gid: Gid, standing: Standing, *, reason: str = "", hold_s: float | None = None
    ) -> Standing:
        """Turn an INTENT or PARKED row into a decision, once; what stands."""

        async def turn() -> Standing:
            row = self.world.rows.get(gid)
            if row is None:
                raise Refused(f"the journal has no record of {gid}", gid=gid)
            if row.record.standing in (Standing.INTENT, Standing.PARKED):
                row.record = replace(row.record, standing=standing, reason=reason or row.record.reason, hold_s=hold_s)
                row.owner, row.term = self._owner()
            return row.record.standing

        return await boundary("journal.conclude", turn, gid=gid)

    async def finish(self, gid: Gid, outcome: Outcome, endings: Mapping[BranchName, Ending]) -> None:
        """Record that nothing is owed any more."""

        async def mark() -> None:
            row = self.world.rows.get(gid)
            if row is None or row.done:
                return
            row.done, row.endings = True, dict(endings)
            if row.record.standing in (Standing.INTENT, Standing.PARKED):
                row.record = replace(row.record, standing=Standing(outcome))

        await boundary("journal.finish", mark)

    async def adopt(self, busy: Collection[Gid] = ()) -> Sequence[Adopted]:
        """Make unfinished records of the dead this process' own."""

        async def take() -> Sequence[Adopted]:
            me, term = self._owner()
            now_s, adopted = self.world.now_s(), []
            for row in self.world.rows.values():
                held_s = float("inf") if row.record.hold_s is None else row.record.hold_s
                held_too_long = row.record.standing is Standing.PARKED and row.created_s + held_s < now_s
                idle = row.record.gid not in busy and row.created_s + limits.OWN_RECORD_IDLE_S < now_s
                if row.done or (row.record.standing is Standing.PARKED and not held_too_long):
                    continue
                if not held_too_long and not (idle if row.owner == me else self._dead(row, me)):
                    continue
                alert = (row.record.gid, AlertKind.POISON)
                aside = row.record.adoptions > limits.ADOPTIONS_MAX
                if aside and alert in self.world.alerts and alert not in self.world.resolved:
                    continue
                if not held_too_long and not self._resigned(row):
                    row.record = replace(row.record, adoptions=row.record.adoptions + 1)
                if held_too_long:
                    reason = "held for longer than it may be"
                    row.record = replace(row.record, standing=Standing.ABORT, reason=reason)
                aside = row.record.adoptions > limits.ADOPTIONS_MAX and alert not in self.world.alerts
                row.record, age_s = replace(row.record, reigns=row.record.reigns + 1), now_s - row.created_s
                adopted.append(Adopted(record=row.record, owner=row.owner, age_s=age_s, set_aside=aside))
                row.owner, row.term = me, term
            return adopted[: limits.JOURNAL_BATCH_MAX]

        return await boundary("journal.adopt", take)

    async def look_up(self, gid: Gid) -> Record | None:
        """The row about *gid*."""
        row = self.world.rows.get(gid)
        return None if row is None else row.record

    async def unfinished(self) -> Mapping[Standing, tuple[int, float]]:
        """How many records are not finished, and the age of the oldest in seconds; by standing."""
        ages = defaultdict(list)
        for row in self.world.rows.values():
            if not row.done:
                ages[row.record.standing].append(self.world.now_s() - row.created_s)
        return {standing: (len(of), max(of)) for standing, of in ages.items()}

    async def look_up_key(self, name: str, key: str) -> Record | None:
        """The row of the transaction with this idempotency key."""
        for row in self.world.rows.values():
            record = row.record
            if (record.name, record.key) == (name, key) and record.standing is not Standing.ABORT:
                return record
        return None

    async def remembers_since(self) -> datetime | None:
        """A memory has one history."""
        return None

    async def commits_elsewhere(self, branch: BranchName, history: Evidence, *, within_s: float) -> Mapping[Gid, bool]:
        """Recent commits whose *branch* was prepared in another history."""
        return {
            gid: row.done
            for gid, row in self.world.rows.items()
            if row.record.standing is Standing.COMMIT
            and (not row.done or row.created_s + within_s > self.world.now_s())
            and branch in row.record.branches
            and row.record.branches[branch].role is Role.PREPARED
            and row.record.votes.get(branch) is Vote.YES
            and not history.items() <= row.record.evidence.get(branch, {}).items()
        }

    async def note_ending(self, gid: Gid, branch: BranchName, ending: Ending) -> None:
        """Correct how a branch of a finished transaction ended."""
        row = self.world.rows.get(gid)
        if row is not None and row.done:
            row.endings = {**row.endings, branch: ending}

    async def note_attempt(self, gid: Gid, branch: str, action: str, *, tried: int, answer: str) -> None:
        """Keep for people what an owed call was last answered."""
        before, _ = self.world.attempts.get((gid, branch, action), (0, ""))
        self.world.attempts[(gid, branch, action)] = (before + tried, storable(answer))

    async def purge(self, older_than_s: float = limits.JOURNAL_RETENTION_S) -> int:
        """Forget records that were finished and made longer ago than this; how many. Some alerts keep theirs."""
        kept = {
            gid
            for gid, kind in self.world.alerts
            if kind in HEURISTIC_OUTCOMES or (gid, kind) not in self.world.resolved
        }
        old = [
            gid
            for gid, row in self.world.rows.items()
            if row.done and gid not in kept and row.created_s + older_than_s < self.world.now_s()
        ]
        for gid in old:
            del self.world.rows[gid]
        self.world.attempts = {key: value for key, value in self.world.attempts.items() if key[0] not in old}
        return len(old)

    def _insert(self, record: Record) -> Standing:
        standing = self.world.rows.get(record.gid)
        if standing is not None:
            return standing.record.standing
        owner, term = self._owner(record) if record.standing is not Standing.ABORT else self._anyone()
        if record.standing is not Standing.ABORT:
            holder = self.world.owners.get(owner)
            if holder is None or holder.term != term:
                raise Replaced(f"{record.gid} was not decided: this process has lost its term", gid=record.gid)
            self._refuse_conflict(record)
        self.world.rows[record.gid] = _Row(record, owner, term, self.world.now_s())
        return record.standing

    def _refuse_conflict(self, record: Record) -> None:
        if record.gid in self.world.rows:
            raise Refused(f"{record.gid} was decided already: {self.world.rows[record.gid].record.standing}")
        if record.key is None:
            return
        for row in self.world.rows.values():
            taken = (row.record.name, row.record.key) == (record.name, record.key)
            if taken and row.record.standing is not Standing.ABORT:
                raise KeyReused(f"{record.name!r} with key {record.key!r} was committed by another transaction")

    def _resigned(self, row: _Row) -> bool:
        owner = self.world.owners.get(row.owner)
        return owner is not None and owner.lease_until_s == float("-inf")

    def _dead(self, row: _Row, me: str) -> bool:
        owner = self.world.owners.get(row.owner)
        return owner is None or owner.taken_by == me or owner.term > row.term

    def _owner(self, record: Record | None = None) -> tuple[str, int]:
        lease = (record.lease if record is not None else None) or self.lease
        if lease is None:
            raise Replaced("this process is no owner: it has not registered, or it has resigned")
        return lease.owner, lease.term

    def _anyone(self) -> tuple[str, int]:
        return self._owner() if self.lease is not None else ("(nobody)", 0)


class MemoryOwners:
    """`ports.Owners` in a `MemoryWorld`."""

    def __init__(self, journal: MemoryJournal, *, owner_id: str, lease_s: float) -> None:
        self._journal, self._world = journal, journal.world
        self._owner_id, self._lease_s = owner_id, lease_s
        self._registrations = 0

    async def register(self) -> Lease:
        """Become an owner under a new id."""
        self._registrations += 1
        owner = f"{self._owner_id}-{self._registrations}"
        self._world.owners[owner] = _Owner(1, self._world.now_s() + self._lease_s)
        self._journal.lease = Lease(owner=owner, term=1, seconds=self._lease_s)
        return self._journal.lease

    async def renew(self, lease: Lease) -> Lease:
        """Prolong *lease*. Raises `Replaced` where its term has been bumped."""
        owner = self._world.owners.get(lease.owner)
        if owner is None or owner.term != lease.term:
            self._journal.lease = None
            raise Replaced(f"owner {lease.owner} has lost its term {lease.term}")
        owner.lease_until_s = self._world.now_s() + self._lease_s
        return lease

    async def resign(self, lease: Lease) -> None:
        """End *lease* now."""
        self._journal.lease = None
        owner = self._world.owners.get(lease.owner)
        if owner is not None and owner.term == lease.term:
            owner.lease_until_s = float("-inf")

    async def take_over(self, lease: Lease) -> Sequence[str]:
        """Bump the terms of expired owners; all that this process has taken over and not buried yet."""
        now_s = self._world.now_s()
        for name, owner in self._world.owners.items():
            taker = self._world.owners.get(owner.taken_by or "")
            free = owner.taken_by is None or taker is None or taker.lease_until_s < now_s
            if name != lease.owner and owner.lease_until_s < now_s and free:
                owner.term, owner.taken_by = owner.term + 1, lease.owner
        return sorted(name for name, owner in self._world.owners.items() if owner.taken_by == lease.owner)

    async def buried(self, owner: str) -> None:
        """Forget *owner*, unless something of it is left after all."""
        owns_ids = owner in self._world.ids.values()
        owes = any(row.owner == owner and not row.done for row in self._world.rows.values())
        has_sagas = any(saga.owner == owner and not saga.ended for saga in self._world.sagas.values())
        if not owns_ids and not owes and not has_sagas:
            self._world.owners.pop(owner, None)


class MemoryTransactionalIds:
    """`ports.TransactionalIds` in a `MemoryWorld`."""

    def __init__(self, journal: MemoryJournal, *, prefix: str) -> None:
        self._journal, self._world, self._prefix = journal, journal.world, prefix

    async def claim(self, cluster: str, count: int) -> Sequence[str]:
        """Make *count* new ids, this process' own."""
        lease = self._journal.lease
        holder = None if lease is None else self._world.owners.get(lease.owner)
        if lease is None or holder is None or holder.term != lease.term:
            raise Replaced("this process is no owner, so it can own no transactional id")
        made = [f"{self._prefix}-{self._world.numbers + n}" for n in range(1, count + 1)]
        self._world.numbers += count
        self._world.ids |= {(cluster, name): lease.owner for name in made}
        return made

    async def of(self, owner: str) -> Sequence[tuple[str, str]]:
        """The (cluster, transactional id) pairs of *owner*, but those that an unfinished record names."""
        named = {
            evidence.get("transactional_id")
            for row in self._world.rows.values()
            if not row.done
            for evidence in row.record.evidence.values()
        }
        return sorted(pair for pair, of in self._world.ids.items() if of == owner and pair[1] not in named)

    async def release(self, cluster: str, transactional_id: str) -> None:
        """Forget an id on which nothing is open."""
        self._world.ids.pop((cluster, transactional_id), None)


class MemoryAlerts:
    """`ports.Alerts` in a `MemoryWorld`."""

    def __init__(self, world: MemoryWorld) -> None:
        self._world = world

    async def raise_alert(self, gid: Gid, kind: AlertKind, detail: str, *, under: Lease | None = None) -> None:
        """Keep the first one of each kind, and one that has come again."""
        if not self._holds(under):
            return
        if under is not None and (gid, kind) in self._world.resolved:
            self._world.resolved.discard((gid, kind))
            self._world.alerts[gid, kind] = detail
        self._world.alerts.setdefault((gid, kind), detail)

    async def open_alerts(self) -> Sequence[Alert]:
        """Those that nobody has resolved."""
        opened = self._world.alerts.items()
        return [
            Alert(gid=gid, kind=kind, detail=d) for (gid, kind), d in opened if (gid, kind) not in self._world.resolved
        ]

    async def resolve_alert(self, gid: Gid, kind: str, *, by: str, reason: str) -> bool:
        """Keep who has seen to it, and how."""
        refuse_anonymous(gid, by, reason)
        if (gid, kind) not in self._world.alerts or (gid, kind) in self._world.resolved:
            return False
        self._world.resolved.add((gid, kind))
        await self.audit(actor=by, action="resolve alert", gid=gid, reason=reason, detail=kind)
        return True

    async def audit(self, *, actor: str, action: str, gid: Gid, reason: str, detail: str = "") -> None:
        """Keep what an operator did, and why."""
        refuse_anonymous(gid, actor, reason)
        self._world.audit.append((actor, action, gid, reason, detail))

    def _holds(self, lease: Lease | None) -> bool:
        holder = None if lease is None else self._world.owners.get(lease.owner)
        return lease is None or (holder is not None and holder.term == lease.term)
