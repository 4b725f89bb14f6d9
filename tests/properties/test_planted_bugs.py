"""The suite above is only worth something if it catches bugs: each of these, planted, must break a promise."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from coordinator.engine.driver import Driver
from coordinator.engine.performer import Performer, _fact
from coordinator.engine.recovery import Recovery
from coordinator.engine.run import Run
from coordinator.engine.sweep import Sweep
from coordinator.engine.work import EngineWork
from coordinator.errors import InDoubt, Replaced, Unavailable
from coordinator.journal.memory import MemoryJournal, MemoryTransactionalIds, _Row
from coordinator.ports import OwnsIds
from coordinator.protocol import two_phase
from coordinator.protocol.ballot import Tally
from coordinator.protocol.events import Decided
from coordinator.protocol.model import Outcome, Vote
from participants.memory.database import MemoryDatabase
from tests.properties.cases import violations

Patch = Callable[[pytest.MonkeyPatch], None]


def decision_not_durable(patch: pytest.MonkeyPatch) -> None:
    """The journal says that it has written, and has not."""
    patch.setattr(MemoryJournal, "_insert", lambda self, record: record.standing)


def no_vote_ignored(patch: pytest.MonkeyPatch) -> None:
    """A NO counts as a YES."""

    def ballot(transaction):
        voters = two_phase._voters(transaction)
        return Tally.WON if all(branch.name in transaction.votes for branch in voters) else Tally.PENDING

    patch.setattr(two_phase, "_ballot", ballot)
    patch.setattr(two_phase, "_commits", lambda t: [two_phase.Commit(n) for n in t.branches if n not in t.endings])


def phase_two_before_the_journal(patch: pytest.MonkeyPatch) -> None:
    """Branches are committed, and then the decision is written."""
    write = Performer._write

    async def hasty(self, run, standing, *, reason=""):
        for name, vote in run.transaction.votes.items():
            if vote is Vote.YES:
                await self._participant(name).commit(run.transaction.prepared(name, run.reigns))
        return await write(self, run, standing, reason=reason)

    patch.setattr(Performer, "_write", hasty)


def unknown_taken_for_failed(patch: pytest.MonkeyPatch) -> None:
    """A commit without an answer is taken for one that failed."""

    async def assume(self, run):
        return Decided(Outcome.ABORT, "no answer")

    patch.setattr(Performer, "_what_stands", assume)


def absence_taken_for_abort(patch: pytest.MonkeyPatch) -> None:
    """A prepared branch without a record is rolled back at once, and nothing is written."""

    async def hasty(self, participant, doubtful):
        record = await self.journal.look_up(doubtful.prepared.gid)
        if record is None:
            await participant.abort(doubtful.prepared)
        else:
            await self._obey(participant, record)

    patch.setattr(Sweep, "_look_at", hasty)


def term_left_out(patch: pytest.MonkeyPatch) -> None:
    """A decision is written whoever holds the term by now."""

    def insert(self, record):
        row = self.world.rows.setdefault(record.gid, _Row(record, *self._owner(), self.world.now_s()))
        return row.record.standing

    patch.setattr(MemoryJournal, "_insert", insert)


def commits_after_being_replaced(patch: pytest.MonkeyPatch) -> None:
    """An owner that was told that it is replaced goes on as if it had decided."""

    async def write(self, run, standing, *, reason=""):
        try:
            stands = await self.journal.decide(run.record(standing, reason=reason))
        except Replaced:
            stands = standing
        return _fact(stands, reason)

    patch.setattr(Performer, "_write", write)


def decision_overwritten(patch: pytest.MonkeyPatch) -> None:
    """The last writer wins."""

    def insert(self, record):
        self.world.rows[record.gid] = _Row(record, *self._anyone(), self.world.now_s())
        return record.standing

    patch.setattr(MemoryJournal, "_insert", insert)


def ids_settled_before_decisions_are_read(patch: pytest.MonkeyPatch) -> None:
    """A takeover aborts what is open on the dead owner's ids before it knows what was decided."""
    once = Recovery.once

    async def all_of(self, owner):
        return sorted(pair for pair, owned_by in self._world.ids.items() if owned_by == owner)

    patch.setattr(MemoryTransactionalIds, "of", all_of)

    async def hasty(self):
        dead = await self.ownership.owners.take_over(self.ownership.lease)
        for owner in dead:
            for cluster, name in await self.ids.of(owner):
                participant = self.participants[cluster].participant
                assert isinstance(participant, OwnsIds)
                await participant.settle_id(name)
        await once(self)

    patch.setattr(Recovery, "once", hasty)


def decided_under_another_lease(patch: pytest.MonkeyPatch) -> None:
    """A process that was replaced, and became an owner anew, decides what its former self began."""
    record = Run.record
    patch.setattr(Run, "record", lambda self, *a, **k: replace(record(self, *a, **k), lease=None))


def intent_left_out(patch: pytest.MonkeyPatch) -> None:
    """The last resource is asked to commit before the intent is durable."""

    async def intend(self, run):
        return two_phase.Intended()

    patch.setattr(Performer, "_intend", intend)


def rows_released_before_they_are_there(patch: pytest.MonkeyPatch) -> None:
    """The outbox rows of a prepared branch are released before that branch has committed."""
    owed = two_phase.owed

    def hasty(transaction):
        if transaction.status is two_phase.Status.COMMITTING:
            return [*two_phase._releases(transaction), *two_phase._commits(transaction)][:1]
        return owed(transaction)

    patch.setattr("coordinator.engine.driver.owed", hasty)


def waiting_rows_left_out(patch: pytest.MonkeyPatch) -> None:
    """The deciding commit carries no outbox rows, so a lost Kafka transaction loses the messages."""
    within = MemoryJournal.decide_within

    async def without(self, connection, record, messages, *, ready):
        await within(self, connection, record, [m for m in messages if m.participant in ready], ready=ready)

    patch.setattr(MemoryJournal, "decide_within", without)


def second_phase_not_repeated(patch: pytest.MonkeyPatch) -> None:
    """A commit without an answer is taken for done."""
    perform = Driver._perform

    async def once(self, run, action):
        try:
            run.transaction = two_phase.evolve(run.transaction, await self.performer.perform(run, action))
        except (Unavailable, InDoubt, OSError):
            if not isinstance(action, two_phase.Commit):
                return await perform(self, run, action)
            run.transaction = two_phase.evolve(
                run.transaction, two_phase.Settled(action.branch, two_phase.Ending.COMMITTED)
            )

    patch.setattr(Driver, "_perform", once)


def late_prepare_left_behind(patch: pytest.MonkeyPatch) -> None:
    """Nobody looks for prepared branches that no record speaks of."""

    async def blind(self):
        return ()

    patch.setattr(MemoryDatabase, "in_doubt", blind)


def abort_before_written(patch: pytest.MonkeyPatch) -> None:
    """The sweep keeps its age rule, but acts before the abort it presumes is written."""

    async def hasty(self, participant, doubtful):
        record = await self.journal.look_up(doubtful.prepared.gid)
        if record is not None:
            await self._obey(participant, record)
        elif await self._presumable(doubtful):
            await participant.abort(doubtful.prepared)

    patch.setattr(Sweep, "_look_at", hasty)


TWO_PHASE = ["two-phase", "two-phase, two databases"]


def stopping_taken_for_a_rollback(patch: pytest.MonkeyPatch) -> None:
    """A process that stops tells its callers that what it lets go of was rolled back."""
    drive = EngineWork._drive

    async def hasty(self):
        transaction = await drive(self)
        if self.driver.stopped and self._undecided():
            raise Unavailable("this process is stopping")
        return transaction

    patch.setattr(EngineWork, "_drive", hasty)


BUGS: dict[str, tuple[Patch, list[str]]] = {
    "decision not durable": (decision_not_durable, TWO_PHASE),
    "NO vote ignored": (no_vote_ignored, ["two-phase, refused", "commit record, rollback, refused"]),
    "phase two before the journal": (phase_two_before_the_journal, TWO_PHASE),
    "unknown taken for failed": (unknown_taken_for_failed, ["commit record", *TWO_PHASE]),
    "absence taken for abort": (absence_taken_for_abort, TWO_PHASE),
    "term left out": (term_left_out, TWO_PHASE),
    "commits after being replaced": (commits_after_being_replaced, TWO_PHASE),
    "decision overwritten": (decision_overwritten, [*TWO_PHASE, "commit record"]),
    "ids settled before decisions are read": (ids_settled_before_decisions_are_read, TWO_PHASE),
    "decided under another lease": (decided_under_another_lease, TWO_PHASE),
    "intent left out": (intent_left_out, ["last resource", "last resource, two databases"]),
    "rows released too early": (rows_released_before_they_are_there, ["two-phase, refused, backup polling"]),
    "waiting rows left out": (waiting_rows_left_out, ["commit record"]),
    "second phase not repeated": (second_phase_not_repeated, ["commit record", *TWO_PHASE]),
    "stopping taken for a rollback": (stopping_taken_for_a_rollback, ["commit record", *TWO_PHASE]),
    "late PREPARE left behind": (late_prepare_left_behind, TWO_PHASE),
    "abort acted on before it is written": (abort_before_written, TWO_PHASE),
}


@pytest.mark.parametrize("bug", BUGS)
def test_the_suite_catches(bug: str, monkeypatch: pytest.MonkeyPatch):
    """With the bug planted, some strike breaks a promise."""
    plant, cases = BUGS[bug]
    plant(monkeypatch)
    assert violations(cases), f"{bug}: nothing was noticed"
