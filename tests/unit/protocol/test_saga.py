"""The saga machine, fact by fact. Expectations are written by hand."""

import pytest

from coordinator.errors import IllegalTransition
from coordinator.protocol.saga import (
    Cancelled,
    Done,
    Mark,
    Phase,
    Refused,
    Resumed,
    Run,
    SagaState,
    Settle,
    Skipped,
    Stuck,
    Undo,
    Undone,
    Unknown,
    Waiting,
    beginning,
    doubted,
    evolve,
    first_called,
    owed,
)
from coordinator.protocol.saga_shape import Kind, OnUnknown, Step, shape_of

LINE = shape_of(
    "line",
    [Step(name="a", undoable=True), Step(name="b", after=("a",), undoable=True), Step(name="c", after=("b",))],
)
DIAMOND = shape_of(
    "diamond",
    [
        Step(name="a", undoable=True),
        Step(name="left", after=("a",), undoable=True),
        Step(name="right", after=("a",), undoable=True),
        Step(name="end", after=("left", "right"), undoable=True),
    ],
)
PIVOT = shape_of(
    "pivot",
    [
        Step(name="a", undoable=True),
        Step(name="go", after=("a",), pivot=True, on_unknown=OnUnknown.RETRY),
        Step(name="b", after=("go",)),
    ],
)


def after(shape, *events):
    state = SagaState()
    for event in events:
        state = evolve(shape, state, event)
    return state


@pytest.mark.parametrize("shape", [LINE, DIAMOND, PIVOT])
def test_a_state_that_many_sagas_begin_in_is_one_like_any_other(shape):
    """It holds what follows while one step at a time is done; whoever leaves that way changes nothing of it."""
    shared, own = beginning(shape), SagaState()
    while actions := owed(shape, own):
        assert owed(shape, shared) == actions
        step = actions[0].step
        for other in (Refused(step, "no"), Unknown(step, "timeout"), Stuck(step, "down"), Waiting(step, 1.0)):
            assert evolve(shape, shared, other) == evolve(shape, own, other)
            assert owed(shape, evolve(shape, shared, other)) == owed(shape, evolve(shape, own, other))
        with pytest.raises(IllegalTransition):
            evolve(shape, shared, Resumed())
        assert owed(shape, doubted(shape, shared)) == owed(shape, doubted(shape, own))
        shared, own = evolve(shape, shared, Done(step)), evolve(shape, own, Done(step))
        assert shared == own
    assert shared.phase is Phase.COMPLETED
    assert not owed(shape, shared)


def test_a_step_that_is_not_owed_is_not_done_in_a_shared_state_either():
    with pytest.raises(IllegalTransition):
        evolve(LINE, beginning(LINE), Done("b"))


def test_steps_run_in_order_and_then_it_is_completed():
    state = SagaState()
    for name in "abc":
        assert owed(LINE, state) == [Run(name)]
        state = evolve(LINE, state, Done(name))
    assert state.phase is Phase.COMPLETED
    assert owed(LINE, state) == []


def test_what_happened_is_undone_in_reverse_and_a_refused_step_is_not():
    state = after(LINE, Done("a"), Done("b"), Refused("c", "no"))
    assert (state.phase, state.reason) == (Phase.BACKWARD, "c: no")
    assert owed(LINE, state) == [Undo("b")]
    state = evolve(LINE, state, Undone("b"))
    assert owed(LINE, state) == [Undo("a")]
    assert evolve(LINE, state, Undone("a")).phase is Phase.COMPENSATED


def test_a_step_that_may_have_happened_is_undone_too():
    state = after(LINE, Done("a"), Unknown("b", "timeout"))
    assert owed(LINE, state) == [Undo("b")]


def test_the_first_step_that_is_refused_leaves_nothing_to_undo():
    assert after(LINE, Refused("a")).phase is Phase.COMPENSATED


def test_siblings_run_together_and_settle_before_anything_is_undone():
    state = after(DIAMOND, Done("a"))
    assert owed(DIAMOND, state) == [Run("left"), Run("right")]
    state = evolve(DIAMOND, state, Refused("left"))
    assert owed(DIAMOND, state) == [Settle("right")]
    with pytest.raises(IllegalTransition):
        evolve(DIAMOND, state, Undone("a"))
    state = evolve(DIAMOND, state, Done("right"))
    assert owed(DIAMOND, state) == [Undo("right")]
    state = evolve(DIAMOND, state, Undone("right"))
    assert owed(DIAMOND, state) == [Undo("a")]


def test_siblings_are_undone_together():
    state = after(DIAMOND, Done("a"), Done("left"), Done("right"), Refused("end"))
    assert owed(DIAMOND, state) == [Undo("left"), Undo("right")]


def test_behind_the_pivot_there_is_no_way_back():
    state = after(PIVOT, Done("a"), Done("go"), Refused("b", "no"))
    assert (state.phase, state.reason) == (Phase.PARKED, "b: no")
    assert owed(PIVOT, state) == []
    resumed = evolve(PIVOT, state, Resumed())
    assert owed(PIVOT, resumed) == [Run("b")]
    assert evolve(PIVOT, state, Skipped("b", "by hand")).phase is Phase.COMPLETED
    with pytest.raises(IllegalTransition):
        evolve(PIVOT, resumed, Cancelled("too late"))


def test_a_parked_one_turns_back_where_it_still_can():
    asked = after(LINE, Done("a"), Stuck("b", "nobody could say"))
    assert (asked.phase, asked.parked) == (Phase.PARKED, (Phase.FORWARD, "b"))
    off = evolve(LINE, asked, Cancelled("no longer"))
    assert (off.phase, off.parked, off.reason) == (Phase.BACKWARD, None, "no longer")
    assert owed(LINE, off) == [Settle("b")]
    assert owed(LINE, evolve(LINE, off, Refused("b"))) == [Undo("a")]
    pivot = evolve(PIVOT, after(PIVOT, Done("a"), Unknown("go", "timeout")), Cancelled("no longer"))
    assert owed(PIVOT, pivot) == [Settle("go")]
    for shape, state in (
        (PIVOT, after(PIVOT, Done("a"), Done("go"), Refused("b", "no"))),
        (LINE, after(LINE, Done("a"), Refused("b"), Stuck("a", "down"))),
    ):
        with pytest.raises(IllegalTransition):
            evolve(shape, state, Cancelled("too late"))


def test_a_pivot_of_which_nobody_knows_is_an_operator_s():
    state = after(PIVOT, Done("a"), Unknown("go", "timeout"))
    assert state.phase is Phase.PARKED
    assert evolve(PIVOT, state, Resumed()).phase is Phase.FORWARD


def test_a_refused_pivot_is_a_way_back():
    state = after(PIVOT, Done("a"), Refused("go", "no"))
    assert owed(PIVOT, state) == [Undo("a")]


def test_a_pivot_that_was_passed_before_it_could_be_called_off_is_passed():
    state = after(PIVOT, Done("a"), Cancelled("changed my mind"))
    assert owed(PIVOT, state) == [Settle("go")]
    assert owed(PIVOT, evolve(PIVOT, state, Done("go"))) == [Run("b")]


def test_a_compensation_that_is_stuck_parks_and_others_wait_for_it():
    state = after(LINE, Done("a"), Done("b"), Refused("c"), Stuck("b", "down"))
    assert (state.phase, state.parked) == (Phase.PARKED, (Phase.BACKWARD, "b"))
    assert owed(LINE, evolve(LINE, state, Resumed())) == [Undo("b")]
    skipped = evolve(LINE, state, Skipped("b", "refunded by hand"))
    assert skipped.marks["b"] is Mark.SKIPPED
    assert owed(LINE, skipped) == [Undo("a")]
    with pytest.raises(IllegalTransition):
        evolve(LINE, state, Skipped("a", "another one"))


def test_a_wait_is_called_off_with_the_saga_and_nothing_of_it_is_undone():
    shape = shape_of("wait", [Step(name="a", undoable=True), Step(name="paid", after=("a",), kind=Kind.SIGNAL)])
    state = after(shape, Done("a"), Waiting("paid", 100.0))
    assert owed(shape, state) == [Run("paid")]
    assert owed(shape, evolve(shape, state, Cancelled("no"))) == [Undo("a")]


def test_a_wait_that_was_parked_goes_on_and_is_not_taken_for_a_call_of_which_nobody_knows():
    """Perhaps it was sent what it cannot read."""
    shape = shape_of("wait", [Step(name="a", undoable=True), Step(name="paid", after=("a",), kind=Kind.SIGNAL)])
    state = after(shape, Done("a"), Waiting("paid", None), Stuck("paid", "of another type"))
    assert owed(shape, state) == []
    assert owed(shape, evolve(shape, state, Resumed())) == [Run("paid")]
    assert owed(shape, evolve(shape, state, Cancelled("no"))) == [Undo("a")]


@pytest.mark.parametrize("event", [Done("b"), Undone("a"), Waiting("b", None), Resumed(), Skipped("a", ""), Stuck("c")])
def test_what_cannot_have_happened_changes_nothing(event):
    state = SagaState()
    with pytest.raises(IllegalTransition):
        evolve(LINE, state, event)
    assert state == SagaState()


POLICIES = shape_of(
    "policies",
    [
        Step(name="again", on_unknown=OnUnknown.RETRY),
        Step(name="asked", on_unknown=OnUnknown.ASK),
        Step(name="undone", undoable=True),
        Step(name="nap", kind=Kind.SLEEP),
        Step(name="later", after=("undone",)),
    ],
)


def test_after_a_crash_the_policy_of_each_step_says_what_is_done():
    """Of those that were ready; what is reached later was not begun, and waits have nothing to settle."""
    state = doubted(POLICIES, SagaState())
    assert owed(POLICIES, state) == [Run("again"), Settle("asked"), Settle("undone"), Run("nap")]
    assert first_called(POLICIES, state) == "again"
    done = evolve(POLICIES, state, Done("undone"))
    assert owed(POLICIES, done)[-1] == Run("later")
    undone = evolve(POLICIES, state, Unknown("undone", "lost"))
    assert undone.phase is Phase.BACKWARD
    assert owed(POLICIES, undone) == [Settle("again"), Settle("asked")]
    assert first_called(POLICIES, undone) == "asked"


def test_doubt_outlasts_being_parked_and_resumed():
    """What nobody could say is asked again; a step behind the pivot that cannot be undone is tried again."""
    state = after(POLICIES, Stuck("asked", "no answer"), Resumed())
    assert owed(POLICIES, state)[1] == Settle("asked")
    passed = after(PIVOT, Done("a"), Done("go"))
    parked = evolve(PIVOT, doubted(PIVOT, passed), Unknown("b", "lost"))
    assert parked.phase is Phase.PARKED
    assert owed(PIVOT, evolve(PIVOT, parked, Resumed())) == [Run("b")]


def test_what_may_have_happened_is_not_called_again_because_it_was_parked_and_resumed():
    """Before the pivot it can be undone: its policy holds, as after a crash."""
    state = after(POLICIES, Stuck("undone", "its output cannot be stored"), Resumed())
    assert Settle("undone") in owed(POLICIES, state)
    assert Run("undone") not in owed(POLICIES, state)


def test_the_doubt_about_a_pivot_outlasts_being_parked_and_resumed():
    """It may have been done at its first attempt, whatever its last one did: there is no way back until it is known."""
    state = after(PIVOT, Done("a"), Unknown("go", "timeout"), Resumed())
    assert state.doubtful == {"go"}
    assert evolve(PIVOT, state, Unknown("go", "down")).parked == (Phase.FORWARD, "go")


def test_a_time_that_is_waited_for_goes_on_while_a_sibling_is_parked_and_resumed():
    state = after(POLICIES, Waiting("nap", 7.0), Stuck("asked", "no answer"), Resumed())
    assert state.waits == {"nap": 7.0}


def test_who_only_waits_calls_nothing():
    shape = shape_of("wait", [Step(name="paid", kind=Kind.SIGNAL)])
    assert doubted(shape, SagaState()).doubtful == frozenset()
    assert first_called(shape, SagaState()) is None


def test_a_pivot_that_an_operator_takes_on_himself_is_passed():
    """Also where the saga was being called off: nothing is undone behind it."""
    state = after(PIVOT, Done("a"), Cancelled("enough"), Unknown("go"), Skipped("go", "it was done by hand"))
    assert (state.phase, owed(PIVOT, state)) == (Phase.FORWARD, [Run("b")])
