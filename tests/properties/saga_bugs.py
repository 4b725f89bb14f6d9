"""Bugs to plant in the sagas, and for each of them the plan that is about it, and what is to be said then."""

import asyncio
from collections.abc import Callable

import pytest

from coordinator.alerts import AlertKind
from coordinator.engine import saga_calls, saga_listening, saga_signals, sagas
from coordinator.engine.saga_calls import Calls
from coordinator.engine.saga_listening import Listening
from coordinator.engine.sagas import SagaEngine
from coordinator.errors import CoordinatorError, Refused, Unavailable
from coordinator.faults.points import boundary
from coordinator.journal.memory_sagas import MemorySagas
from coordinator.protocol import saga
from coordinator.protocol.saga import Cancelled, Done, Phase, Settle, Stuck, Undo, Undone
from coordinator.sagas.events import Happened
from tests.properties.saga_oracle import Seen
from tests.properties.saga_participant import Participant

Patch = Callable[[pytest.MonkeyPatch], None]


def dedupe_outside_the_transaction(patch: pytest.MonkeyPatch) -> None:
    """A participant has its effect in one transaction, and the barrier's row in the next."""
    apply = Participant.apply

    def hasty(self, index, direction, attempt):
        there = self.__dict__.setdefault("there", set())
        if (index, direction) in self.rows and (index, direction) not in there:
            self.seen.append(Seen("effect", index, direction))
        else:
            apply(self, index, direction, attempt)
            asyncio.get_running_loop().call_later(0.001, there.add, (index, direction))

    patch.setattr(Participant, "apply", hasty)


def dedupe_by_attempt(patch: pytest.MonkeyPatch) -> None:
    """The barrier's key has the attempt in it."""
    apply = Participant.apply

    def by_attempt(self, index, direction, attempt):
        made = self.__dict__.setdefault("made", set())
        if (index, direction, attempt) not in made:
            made.add((index, direction, attempt))
            self.rows.discard((index, direction))
            apply(self, index, direction, attempt)

    patch.setattr(Participant, "apply", by_attempt)


def origin_row_missing(patch: pytest.MonkeyPatch) -> None:
    """An undoing leaves nothing behind that an action which comes late would find."""
    apply = Participant.apply

    def forgetful(self, index, direction, attempt):
        apply(self, index, direction, attempt)
        if direction == "compensation":
            self.closed.discard(index)

    patch.setattr(Participant, "apply", forgetful)


def sibling_in_flight_undone(patch: pytest.MonkeyPatch) -> None:
    """What happened is undone while its sibling is called: nobody waits until that has settled."""
    owed, happened = saga.owed, saga._HAPPENED

    def undos(shape, state):
        left = {n for n, step in shape.steps.items() if step.undoable and state.marks.get(n) in happened}
        return [n for n in shape.steps if n in left and not left & shape.dependents[n]]

    def hasty(shape, state):
        if state.phase is not Phase.BACKWARD:
            return owed(shape, state)
        settles = [Settle(name) for name in saga._in_flight(shape, state)]
        return [*settles, *(Undo(name) for name in undos(shape, state))]

    patch.setattr(saga, "_undos", undos)
    patch.setattr(saga, "owed", hasty)
    patch.setattr(sagas, "owed", hasty)


def undone_behind_the_pivot(patch: pytest.MonkeyPatch) -> None:
    """The pivot is a step like any other."""
    patch.setattr(saga, "_pivoted", lambda shape, state: False)


def _taken_for_a_no(patch: pytest.MonkeyPatch, is_transient: Callable[[Exception], bool]) -> None:
    call = Calls._call

    async def caching(self, run, step, *arguments):
        try:
            return await call(self, run, step, *arguments)
        except Exception as failure:
            if is_transient(failure):
                raise Refused(str(failure)) from failure
            raise

    patch.setattr(Calls, "_call", caching)


def transient_error_kept_as_the_result(patch: pytest.MonkeyPatch) -> None:
    """That a participant is down for a moment is its answer for good."""
    _taken_for_a_no(patch, lambda failure: isinstance(failure, Unavailable))


def serialisation_failure_kept_as_the_result(patch: pytest.MonkeyPatch) -> None:
    """A 40001 is an answer for good."""
    _taken_for_a_no(patch, lambda failure: getattr(failure, "sqlstate", "") == "40001")


def serialisation_failure_taken_for_unknown(patch: pytest.MonkeyPatch) -> None:
    """A 40001 leaves anyone in doubt: what can simply be tried again is undone."""
    patch.setattr(saga_calls, "_ROLLED_BACK", frozenset())


def believed_before_it_is_durable(patch: pytest.MonkeyPatch) -> None:
    """The log says that it has written, and writes a while later."""
    append = MemorySagas.append

    def hasty(self, number, position, event, **more):
        async def later():
            await asyncio.sleep(0.3)
            await append(self, number, position, event, **more)

        async def at_once():
            task = asyncio.create_task(later())
            task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())

        return at_once()

    patch.setattr(MemorySagas, "append", hasty)


def undone_in_forward_order(patch: pytest.MonkeyPatch) -> None:
    """What came first is undone first."""

    def forward(shape, state):
        if state.phase is not Phase.BACKWARD or saga._in_flight(shape, state):
            return []
        marks = state.marks
        return [n for n, step in shape.steps.items() if step.undoable and marks.get(n) in saga._HAPPENED][:1]

    patch.setattr(saga, "_undos", forward)


def undoing_skipped_after_its_attempts(patch: pytest.MonkeyPatch) -> None:
    """A compensation that keeps failing is taken for done."""
    undo = Calls.undo

    async def skipping(self, run, step):
        happened = await undo(self, run, step)
        return Happened(Undone(step.name)) if isinstance(happened.event, Stuck) else happened

    patch.setattr(Calls, "undo", skipping)


def unknown_read_as_not_done(patch: pytest.MonkeyPatch) -> None:
    """A timeout is a failure."""
    patch.setattr(saga_calls, "Unknown", saga.Refused)


def unknown_answer_read_as_never(patch: pytest.MonkeyPatch) -> None:
    """A participant that does not know is taken for one that says no."""

    async def hasty(self, run, step, reason):
        try:
            said = await self._call(run, step, step.ask, "status", 1)
        except CoordinatorError:
            said = "unknown"
        event = Done(step.name) if said == "done" else saga.Refused(step.name, reason)
        return Happened(event, b"null" if said == "done" else None)

    patch.setattr(Calls, "ask", hasty)


def doubt_forgotten(patch: pytest.MonkeyPatch) -> None:
    """The last attempt alone says what became of a step."""
    act = Calls.act

    async def forgetful(self, run, step):
        happened = await act(self, run, step)
        if isinstance(happened.event, saga.Unknown) and happened.event.reason == "down":
            return Happened(saga.Refused(step.name, "down"))
        return happened

    patch.setattr(Calls, "act", forgetful)


def takeover_forgotten(patch: pytest.MonkeyPatch) -> None:
    """A successor takes what its predecessor may have begun for what nobody has."""
    patch.setattr("coordinator.engine.saga_run.doubted", lambda shape, state: state)


def policy_forgotten_by_a_crash(patch: pytest.MonkeyPatch) -> None:
    """A successor calls whatever its predecessor may have begun, as if all steps were idempotent."""
    patch.setattr(saga, "_runs_again", lambda shape, step: True)


def stop_taken_for_a_crash(patch: pytest.MonkeyPatch) -> None:
    """A process that stops in an orderly way leaves everybody in doubt about what it had not begun."""
    patch.setattr(
        "coordinator.engine.saga_run.SagaRun.unsettled",
        lambda run: saga.may_have_begun(run.saga.shape, run.state),
    )


def place_in_the_log_overwritten(patch: pytest.MonkeyPatch) -> None:
    """Of two processes that write at one place of the log, under whatever term, the later one wins."""

    def blind(self, number, position, event, *, final=False, freed=None):
        async def write():
            stored = self._sagas[number]
            stored.events[position:] = [event]
            stored.ended = stored.ended or final

        return boundary("saga.append", write)

    patch.setattr(MemorySagas, "append", blind)


def driven_on_under_another_lease(patch: pytest.MonkeyPatch) -> None:
    """A process that was replaced, and became an owner anew, goes on with what others have adopted."""
    patch.setattr(SagaEngine, "let_go", lambda self: asyncio.sleep(0))


def parked_in_silence(patch: pytest.MonkeyPatch) -> None:
    """Nobody is told that a saga waits for an operator."""
    patch.setattr("coordinator.journal.memory.MemoryAlerts.raise_alert", lambda *_, **__: asyncio.sleep(0))


def alert_left_open(patch: pytest.MonkeyPatch) -> None:
    """Nobody closes the alert about a saga that goes on."""
    patch.setattr(sagas, "freed", lambda *_: None)


def alert_of_a_saga_that_is_another_one_s(patch: pytest.MonkeyPatch) -> None:
    """A process that was replaced, and does not know it yet, raises and closes alerts as before."""
    patch.setattr("coordinator.journal.memory.MemoryAlerts._holds", lambda *_: True)


def alert_closed_after_what_lets_it_go_on(patch: pytest.MonkeyPatch) -> None:
    """It is closed by a write of its own: who dies before that leaves it open, and nobody takes up what has ended."""
    write = SagaEngine.write
    patch.setattr(sagas, "freed", lambda *_: None)

    async def closing(self, run, happened):
        was_parked, signals = run.state.parked is not None, run.signals
        await write(self, run, happened)
        if was_parked:
            said = next(saga_signals.word(each) for each in signals if each.id == happened.signal)
            await self.alerts.resolve_alert(run.gid, AlertKind.PARKED_SAGA, by=said.by, reason=said.why)

    patch.setattr(SagaEngine, "write", closing)


def parked_ones_deaf_to_being_called_off(patch: pytest.MonkeyPatch) -> None:
    """What is parked is called off, and that is kept until somebody resumes it."""
    cancellable = saga.cancellable

    def deaf(shape, state):
        return state.parked is None and cancellable(shape, state)

    patch.setattr(saga_signals, "cancellable", deaf)
    patch.setattr("coordinator.sagas.client.refused_cancel", lambda *_: "")


def doubt_forgotten_where_it_parks(patch: pytest.MonkeyPatch) -> None:
    """Whoever resumes what was parked because nobody knew of it believes that nothing had been called."""
    patch.setattr(saga, "_in_doubt", lambda state, step: state)


def pivot_in_doubt_given_up(patch: pytest.MonkeyPatch) -> None:
    """A pivot that may have happened is not tried again once the saga is called off."""
    rest = Calls._rest_or_give_up

    async def hasty(self, run, step, seconds, doubtful):
        return await rest(self, run, step, seconds, doubtful and not step.pivot)

    patch.setattr(Calls, "_rest_or_give_up", hasty)


def parked_while_a_sibling_is_called(patch: pytest.MonkeyPatch) -> None:
    """What parks a saga is written at once, and cuts off what is being called beside it."""
    following = SagaEngine._next

    async def hasty(self, run, actions):
        happened = await following(self, run, actions)
        if happened is None or saga.evolve(run.saga.shape, run.state, happened.event).phase is not Phase.PARKED:
            return happened
        await self.write(run, happened)
        return None

    patch.setattr(SagaEngine, "_next", hasty)


def deaf_while_it_runs(patch: pytest.MonkeyPatch) -> None:
    """That it is called off is heard only by whoever wakes it."""
    hear = saga_listening.hear

    def deaf(run):
        heard = hear(run)
        return None if heard is not None and isinstance(heard.event, Cancelled) else heard

    patch.setattr(saga_listening, "hear", deaf)


def deadline_forgotten(patch: pytest.MonkeyPatch) -> None:
    """Its deadline passes, and nothing comes of it."""
    patch.setattr(Listening, "is_late", lambda self, run: False)
    patch.setattr(Listening, "wake_in_s", lambda self, run: None if not run.state.waits else 0.5)


TWICE, NOT_UNDONE, NO_REASON = "happened 2 times", "was not undone", "undone without a reason"
AGAIN, OPEN = "which was lost, and again by", "1 alerts are open"
BUGS: dict[str, tuple[Patch, str, str]] = {
    "dedupe outside the transaction": (dedupe_outside_the_transaction, "a nap", TWICE),
    "dedupe by attempt": (dedupe_by_attempt, "tried again", TWICE),
    "origin row missing": (origin_row_missing, "unknown, late", NOT_UNDONE),
    "sibling in flight undone": (
        sibling_in_flight_undone,
        "siblings, one refused and one slow",
        "s0 was undone while s1 was under way",
    ),
    "undone behind the pivot": (undone_behind_the_pivot, "behind the pivot", "the pivot happened, and s0 was undone"),
    "transient error kept as the result": (transient_error_kept_as_the_result, "down for a moment", NO_REASON),
    "serialisation failure kept as the result": (
        serialisation_failure_kept_as_the_result,
        "down for a moment",
        NO_REASON,
    ),
    "serialisation failure taken for unknown": (
        serialisation_failure_taken_for_unknown,
        "down for a moment",
        NO_REASON,
    ),
    "believed before it is durable": (
        believed_before_it_is_durable,
        "careful",
        "whoever waited was told completed, and it is compensated",
    ),
    "undone in forward order": (undone_in_forward_order, "undone", "s0 was undone before s1"),
    "undoing skipped after its attempts": (undoing_skipped_after_its_attempts, "an undoing is stuck", NOT_UNDONE),
    "unknown read as not done": (unknown_read_as_not_done, "unknown, done", NOT_UNDONE),
    "unknown answer read as never": (unknown_answer_read_as_never, "asked", NOT_UNDONE),
    "doubt forgotten": (doubt_forgotten, "unknown, then down", NOT_UNDONE),
    "doubt forgotten where it parks": (
        doubt_forgotten_where_it_parks,
        "a pivot of which nobody knows, and resumed",
        "the pivot happened, and s0 was undone",
    ),
    "pivot in doubt given up": (
        pivot_in_doubt_given_up,
        "called off between two attempts of the pivot",
        "the pivot happened, and s0 was undone",
    ),
    "takeover forgotten": (takeover_forgotten, "careful", AGAIN),
    "policy forgotten by a crash": (policy_forgotten_by_a_crash, "careful", AGAIN),
    "stop taken for a crash": (stop_taken_for_a_crash, "careful", NO_REASON),
    "place in the log overwritten": (
        place_in_the_log_overwritten,
        "careful",
        "it never ended: compensated, and then completed",
    ),
    "driven on under another lease": (driven_on_under_another_lease, "siblings, one refused", NOT_UNDONE),
    "parked in silence": (parked_in_silence, "an undoing is stuck", "parked without an alert"),
    "parked while a sibling is called": (
        parked_while_a_sibling_is_called,
        "one is stuck while its sibling is called, and resumed",
        "it is compensated, and not completed",
    ),
    "alert left open": (alert_left_open, "an undoing is stuck, and resumed", OPEN),
    "alert of a saga that is another one's": (
        alert_of_a_saga_that_is_another_one_s,
        "an undoing is stuck, and resumed",
        OPEN,
    ),
    "alert closed after what lets it go on": (
        alert_closed_after_what_lets_it_go_on,
        "the last undoing is stuck, and skipped",
        OPEN,
    ),
    "parked ones deaf to being called off": (
        parked_ones_deaf_to_being_called_off,
        "asked in vain, and called off",
        "it was called off where it was parked, and nothing came of it",
    ),
    "deaf while it runs": (
        deaf_while_it_runs,
        "called off while its last step is called",
        "completed, though it had been called off",
    ),
    "deadline forgotten": (deadline_forgotten, "past its deadline", "it is completed, and not compensated"),
}
