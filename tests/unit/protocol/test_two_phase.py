"""Every status meets every event; each recipe's story; and what an illegal event does: nothing."""

from dataclasses import replace

import pytest

from coordinator.errors import IllegalTransition
from coordinator.protocol.actions import Abort, Commit, Decide, Hold, Intend, Prepare, Release
from coordinator.protocol.events import Decided, Event, HeldForOperator, Intended, Settled, Voted
from coordinator.protocol.model import (
    Branch,
    BranchName,
    Ending,
    Gid,
    OnNo,
    Outcome,
    Recipe,
    Role,
    Status,
    Transaction,
    Vote,
)
from coordinator.protocol.two_phase import evolve, owed, restored

DB, OTHER, EVENTS = BranchName("db"), BranchName("other"), BranchName("events")


def transaction(*branches: Branch, recipe: Recipe = Recipe.TWO_PHASE) -> Transaction:
    return Transaction(
        gid=Gid("unan:01"), name="t", recipe=recipe, branches={branch.name: branch for branch in branches}
    )


def after(start: Transaction, *events: Event) -> Transaction:
    for event in events:
        start = evolve(start, event)
    return start


def two_phase() -> Transaction:
    return transaction(Branch(name=DB, role=Role.PREPARED), Branch(name=EVENTS, role=Role.PREPARED))


def last_resource(on_no: OnNo = OnNo.ABORT) -> Transaction:
    backed = on_no is not OnNo.ABORT
    return transaction(
        Branch(name=DB, role=Role.PREPARED), Branch(name=EVENTS, role=Role.LAST, on_no=on_no, backed=backed)
    )


def commit_record(on_no: OnNo = OnNo.ABORT) -> Transaction:
    return transaction(
        Branch(name=DB, role=Role.DECIDER), Branch(name=EVENTS, role=Role.PREPARED, on_no=on_no, backed=True)
    )


YES_DB, YES_EVENTS, NO_EVENTS = Voted(DB, Vote.YES), Voted(EVENTS, Vote.YES), Voted(EVENTS, Vote.NO)
COMMIT, ABORT = Decided(Outcome.COMMIT), Decided(Outcome.ABORT)


def test_two_phase_prepares_in_parallel_decides_and_then_commits_in_parallel():
    """PREPARE on all, one durable decision, COMMIT on all."""
    state = two_phase()
    assert owed(state) == [Prepare(DB), Prepare(EVENTS)]
    state = after(state, YES_DB)
    assert owed(state) == [Prepare(EVENTS)]
    state = after(state, YES_EVENTS)
    assert owed(state) == [Decide(Outcome.COMMIT)]
    state = after(state, COMMIT)
    assert owed(state) == [Commit(DB), Commit(EVENTS)]
    state = after(state, Settled(EVENTS, Ending.COMMITTED), Settled(DB, Ending.COMMITTED))
    assert state.status is Status.COMMITTED
    assert owed(state) == []
    assert not state.heuristic


def test_one_no_aborts_all_without_a_write():
    """Presumed abort: nothing is journalled before an intent, and every branch is told."""
    state = after(two_phase(), NO_EVENTS)
    assert owed(state) == [Decide(Outcome.ABORT, forced=False)]
    state = after(state, ABORT)
    assert owed(state) == [Abort(DB), Abort(EVENTS)]
    state = after(state, Settled(DB, Ending.ABORTED), Settled(EVENTS, Ending.ABORTED))
    assert state.status is Status.ABORTED


def test_read_only_branches_are_never_asked_again():
    """A branch that did nothing has ended with the decision."""
    state = after(two_phase(), Voted(DB, Vote.READ_ONLY), YES_EVENTS, COMMIT)
    assert owed(state) == [Commit(EVENTS)]
    nothing = after(two_phase(), Voted(DB, Vote.READ_ONLY), Voted(EVENTS, Vote.READ_ONLY))
    assert owed(nothing) == [Decide(Outcome.COMMIT, forced=False)]
    assert after(nothing, COMMIT).status is Status.COMMITTED


def test_last_resource_is_asked_only_after_its_intent_and_its_answer_is_the_decision():
    """INTENT before EndTxn; then what Kafka did decides for the databases."""
    state = after(last_resource(), YES_DB, YES_EVENTS)
    assert owed(state) == [Intend()]
    state = after(state, Intended())
    assert owed(state) == [Commit(EVENTS)]
    committed = after(state, Settled(EVENTS, Ending.COMMITTED))
    assert committed.status is Status.COMMITTING
    assert owed(committed) == [Commit(DB)]
    aborted = after(state, Settled(EVENTS, Ending.ABORTED))
    assert aborted.status is Status.ABORTING
    assert owed(aborted) == [Abort(DB)]


def test_last_resource_that_did_not_commit_can_be_delivered_later():
    """Under backup polling the database commits, and its waiting rows are released."""
    state = after(last_resource(OnNo.DEFER), YES_DB, YES_EVENTS, Intended(), Settled(EVENTS, Ending.ABORTED))
    assert state.status is Status.COMMITTING
    assert owed(state) == [Commit(DB)], "the rows are not there before their database has committed"
    state = after(state, Settled(DB, Ending.COMMITTED))
    assert owed(state) == [Release(EVENTS)]
    state = after(state, Settled(EVENTS, Ending.DEFERRED))
    assert state.status is Status.COMMITTED
    assert not state.heuristic


def test_an_unreadable_last_resource_waits_for_an_operator():
    """Nobody guesses: the databases stay prepared, and the alert is raised."""
    state = after(last_resource(), YES_DB, YES_EVENTS, Intended(), Settled(EVENTS, Ending.HAZARD))
    assert isinstance(owed(state)[0], Hold)
    state = after(state, HeldForOperator())
    assert owed(state) == []
    assert owed(after(state, COMMIT)) == [Commit(DB)]
    assert owed(after(state, ABORT)) == [Abort(DB)]


def test_a_lone_last_resource_needs_no_intent():
    """Publishing only: its own answer can be asked for again, and nobody else waits for it."""
    state = after(transaction(Branch(name=EVENTS, role=Role.LAST)), YES_EVENTS)
    assert owed(state) == [Commit(EVENTS)]
    assert after(state, Settled(EVENTS, Ending.COMMITTED)).status is Status.COMMITTED
    assert after(state, Settled(EVENTS, Ending.ABORTED)).status is Status.ABORTED


def test_commit_record_decides_through_the_database_after_every_other_vote():
    """The decider does not vote: its commit carries the decision."""
    state = commit_record()
    assert owed(state) == [Prepare(EVENTS)]
    state = after(state, YES_EVENTS)
    assert owed(state) == [Decide(Outcome.COMMIT, through=DB)]
    state = after(state, COMMIT)
    assert state.endings == {DB: Ending.COMMITTED}
    assert owed(state) == [Commit(EVENTS)]
    lost = after(state, Settled(EVENTS, Ending.ABORTED))
    assert owed(lost) == [Release(EVENTS)]
    assert after(lost, Settled(EVENTS, Ending.DEFERRED)).status is Status.COMMITTED


def test_commit_record_whose_commit_is_refused_aborts():
    """A serialisation failure at the deciding commit is a NO of the decider."""
    state = after(commit_record(), YES_EVENTS, Voted(DB, Vote.NO))
    assert owed(state) == [Decide(Outcome.ABORT, forced=False)]
    assert owed(after(state, ABORT)) == [Abort(DB), Abort(EVENTS)]


def test_commit_record_defers_what_could_not_be_published():
    """Under backup polling a NO of the broker is a commit whose rows are the relay's at once."""
    state = after(commit_record(OnNo.DEFER), NO_EVENTS)
    assert owed(state) == [Decide(Outcome.COMMIT, through=DB)]
    state = after(state, COMMIT)
    assert state.status is Status.COMMITTED
    assert state.endings == {DB: Ending.COMMITTED, EVENTS: Ending.DEFERRED}


def test_park_holds_until_an_operator_decides():
    """Everything stays prepared; commit releases the rows, abort rolls back."""
    state = after(last_resource(OnNo.PARK), YES_DB, NO_EVENTS)
    assert isinstance(owed(state)[0], Hold)
    state = after(state, HeldForOperator())
    assert owed(state) == []
    assert owed(after(state, COMMIT)) == [Commit(DB)]
    assert owed(after(state, COMMIT, Settled(DB, Ending.COMMITTED))) == [Release(EVENTS)]
    assert owed(after(state, ABORT)) == [Abort(DB), Abort(EVENTS)]


def test_a_branch_that_ended_against_the_decision_is_heuristic():
    """An administrator's rollback of a branch that should have committed is never reported as clean."""
    state = after(two_phase(), YES_DB, YES_EVENTS, COMMIT, Settled(DB, Ending.ABORTED))
    state = after(state, Settled(EVENTS, Ending.COMMITTED))
    assert state.status is Status.COMMITTED
    assert state.heuristic


def test_messages_whose_end_nobody_can_tell_are_delivered_again():
    """Twice is better than never: a backed branch that ended as a hazard is released."""
    state = after(commit_record(), YES_EVENTS, COMMIT, Settled(EVENTS, Ending.HAZARD))
    assert owed(state) == [Release(EVENTS)]
    assert after(state, Settled(EVENTS, Ending.DEFERRED)).status is Status.COMMITTED


def test_only_messages_in_an_outbox_can_be_deferred():
    """A branch without waiting rows cannot promise to be delivered later."""
    with pytest.raises(AssertionError):
        Branch(name=EVENTS, role=Role.LAST, on_no=OnNo.DEFER)


STATES = {
    "preparing": two_phase(),
    "preparing, won": after(two_phase(), YES_DB, YES_EVENTS),
    "preparing, lost": after(two_phase(), YES_DB, NO_EVENTS),
    "preparing, last resource won": after(last_resource(), YES_DB, YES_EVENTS),
    "intending": after(last_resource(), YES_DB, YES_EVENTS, Intended()),
    "parked": after(last_resource(OnNo.PARK), YES_DB, NO_EVENTS, HeldForOperator()),
    "committing": after(two_phase(), YES_DB, YES_EVENTS, COMMIT),
    "aborting": after(two_phase(), YES_DB, NO_EVENTS, ABORT),
    "committed": replace(two_phase(), status=Status.COMMITTED),
    "aborted": replace(two_phase(), status=Status.ABORTED),
}
EVENTS_OF_ALL_KINDS = {
    "voted": YES_DB,
    "voted by a stranger": Voted(OTHER, Vote.YES),
    "intended": Intended(),
    "held": HeldForOperator(),
    "decided commit": COMMIT,
    "decided abort": ABORT,
    "settled": Settled(EVENTS, Ending.COMMITTED),
    "settled by a stranger": Settled(OTHER, Ending.COMMITTED),
}
LEGAL = {
    ("preparing", "voted"),
    ("preparing", "decided abort"),
    ("preparing, won", "decided commit"),
    ("preparing, won", "decided abort"),
    ("preparing, lost", "decided abort"),
    ("preparing, last resource won", "intended"),
    ("preparing, last resource won", "decided abort"),
    ("intending", "settled"),
    ("parked", "decided commit"),
    ("parked", "decided abort"),
    ("committing", "settled"),
    ("aborting", "settled"),
}


@pytest.mark.parametrize("event", EVENTS_OF_ALL_KINDS)
@pytest.mark.parametrize("state", STATES)
def test_every_status_meets_every_event(state: str, event: str):
    """What is not listed as legal raises and changes nothing."""
    before = STATES[state]
    if (state, event) in LEGAL:
        assert evolve(before, EVENTS_OF_ALL_KINDS[event]) != before
        return
    with pytest.raises(IllegalTransition):
        evolve(before, EVENTS_OF_ALL_KINDS[event])
    assert owed(before) == owed(STATES[state])


def test_the_table_above_covers_every_status():
    """A status that is added must be enumerated here."""
    assert {state.status for state in STATES.values()} == set(Status)


@pytest.mark.parametrize("build", [two_phase, commit_record])
def test_a_restored_transaction_owes_what_the_original_owed(build):
    """Recovery is the ordinary loop: the record alone gives the same obligations."""
    original = build()
    votes = [YES_DB] if original.branches[DB].role is Role.PREPARED else []
    original = after(original, *votes, YES_EVENTS, COMMIT)
    again = restored(replace(original, endings={}))
    assert owed(again) == owed(original)
