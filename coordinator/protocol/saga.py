"""The saga machine: steps that each commit for themselves, and what is owed when one of them did not.

    FORWARD ──all steps done──────────────────────► COMPLETED
       │ └─ refused, unknown, cancelled, expired ─► BACKWARD ──all undone──► COMPENSATED
       └─── stuck, or behind the pivot ───────────► PARKED (and from BACKWARD, where an undo is stuck)
                                                        ├─ resumed, or the step is skipped: on from where it was
                                                        └─ cancelled on its way forward ──────► BACKWARD

Going backward, steps that may be in flight settle first; then what happened, or may have happened, is undone in the
reverse order of what depends on what. Once the pivot is done, a saga only goes forward.

Whoever takes a saga over from a process that died `doubted` it: each step that was ready may have been begun, and its
outcome is unknown. What is done about that is its policy's to say, after a crash as after a timeout: an idempotent one
runs again, and any other one settles.
(H. Garcia-Molina and K. Salem, "Sagas", 1987; the pivot is C. Richardson's, "Microservices Patterns", chapter 4.)

Rule: everything that moves a saga lives in this file. `evolve` takes facts, `owed` derives obligations from the state
alone, and neither knows a clock, a socket or a chance. An illegal fact raises and changes nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from coordinator.errors import IllegalTransition
from coordinator.protocol.saga_shape import Kind, OnUnknown, Shape, Step, StepName


class Phase(StrEnum):
    """Where a saga is."""

    FORWARD = "forward"
    BACKWARD = "backward"
    PARKED = "parked"
    """It waits for an operator; nothing is skipped or forgotten."""
    COMPLETED = "completed"
    COMPENSATED = "compensated"


class Mark(StrEnum):
    """What is known of one step."""

    DONE = "done"
    REFUSED = "refused"
    """It did not happen, and never will."""
    UNKNOWN = "unknown"
    """It may have happened: where it can be undone, it is."""
    UNDONE = "undone"
    SKIPPED = "skipped"
    """An operator took it on himself, with a reason."""


# ── facts ──


@dataclass(frozen=True, slots=True)
class Done:
    """The step happened."""

    step: StepName


@dataclass(frozen=True, slots=True)
class Refused:
    """The step did not happen, and never will."""

    step: StepName
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nobody knows whether the step happened, and its policy is not to find out."""

    step: StepName
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Undone:
    """The step's compensation happened."""

    step: StepName


@dataclass(frozen=True, slots=True)
class Stuck:
    """The step, or its compensation, could not be brought to an end by all the attempts that its policy allows."""

    step: StepName
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Waiting:
    """The step waits for a time, or for a signal, until *until_s* (seconds since 1970); None is for ever."""

    step: StepName
    until_s: float | None


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Somebody wants it undone, or its deadline has passed."""

    reason: str


@dataclass(frozen=True, slots=True)
class Resumed:
    """An operator lets a parked saga go on."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Skipped:
    """An operator takes a parked saga's step (or its compensation) on himself."""

    step: StepName
    reason: str


SagaEvent = Done | Refused | Unknown | Undone | Stuck | Waiting | Cancelled | Resumed | Skipped

# ── obligations ──


@dataclass(frozen=True, slots=True)
class Run:
    """Run the step (or let its wait go on)."""

    step: StepName


@dataclass(frozen=True, slots=True)
class Settle:
    """Find out about a step that may be in flight, as its policy says: nothing is undone before it has settled."""

    step: StepName


@dataclass(frozen=True, slots=True)
class Undo:
    """Run the step's compensation."""

    step: StepName


SagaAction = Run | Settle | Undo


@dataclass(slots=True)
class SagaState:
    """The state of one saga: everything that `owed` needs. Treat it as a value: `evolve` makes another one."""

    phase: Phase = Phase.FORWARD
    marks: Mapping[StepName, Mark] = field(default_factory=dict)
    waits: Mapping[StepName, float | None] = field(default_factory=dict)
    """Until when a step waits that has begun to."""
    reason: str = ""
    parked: tuple[Phase, StepName] | None = None
    """Where it was when it was parked, and because of which step."""
    doubtful: frozenset[StepName] = frozenset()
    """Steps that somebody may have begun and of which nobody knows what became; also those that have settled since."""
    owes: Sequence[SagaAction] | None = field(default=None, compare=False, repr=False)
    """What is owed in this state, where `beginning` has found that out."""
    then: "SagaState | None" = field(default=None, compare=False, repr=False)
    """The state once the first of that is done, where `beginning` has found that out."""

    @property
    def ended(self) -> bool:
        """Whether nothing will be owed any more."""
        return self.phase is Phase.COMPLETED or self.phase is Phase.COMPENSATED


def beginning(shape: Shape) -> SagaState:
    """The state that sagas of this shape begin in.

    All of them may begin in the same one: it holds the states that follow for as long as one step at a time is owed and
    is done, so that a saga which nothing disturbs only looks up what `owed` and `evolve` would find out again.
    """
    first = state = SagaState()
    while len(actions := owed(shape, state)) == 1:
        following = evolve(shape, state, Done(actions[0].step))
        state.owes, state.then = actions, following
        state = following
    state.owes = actions
    return first


def evolve(shape: Shape, state: SagaState, event: SagaEvent) -> SagaState:
    """The state after *event*. Raises `IllegalTransition`, and changes nothing, where it cannot have happened."""
    if state.then is not None and state.owes and type(event) is Done and event.step == state.owes[0].step:
        return state.then
    match event:
        case Done() if _open(shape, state, event.step):
            return _settled(shape, state, event.step, Mark.DONE, "")
        case Refused() if _open(shape, state, event.step):
            return _settled(shape, state, event.step, Mark.REFUSED, event.reason)
        case Unknown() if _open(shape, state, event.step):
            return _settled(shape, state, event.step, Mark.UNKNOWN, event.reason)
        case Undone() if state.phase is Phase.BACKWARD and event.step in _undos(shape, state):
            return _marked(shape, state, event.step, Mark.UNDONE)
        case Stuck() if _open(shape, state, event.step):
            return _parked(_in_doubt(state, event.step), event.step, event.reason)
        case Stuck() if event.step in _undos(shape, state):
            return _parked(state, event.step, event.reason)
        case Waiting() if state.phase is Phase.FORWARD and _open(shape, state, event.step):
            return _changed(state, waits={**state.waits, event.step: event.until_s})
        case Cancelled() if cancellable(shape, state):
            reason = event.reason if state.parked is not None else state.reason or event.reason
            return _ended(shape, _changed(state, phase=Phase.BACKWARD, reason=reason))
        case Resumed() if state.parked is not None:
            return _resumed(shape, state, *state.parked)
        case Skipped() if state.parked is not None and event.step == state.parked[1]:
            # Whoever takes the pivot on himself has passed it: there is no way back from there.
            phase = Phase.FORWARD if event.step == shape.pivot else state.parked[0]
            return _marked(shape, _going(shape, state, phase), event.step, Mark.SKIPPED)
    raise IllegalTransition(f"{event} cannot happen to a saga that is {state.phase} with {dict(state.marks)}")


def owed(shape: Shape, state: SagaState) -> Sequence[SagaAction]:
    """What must be done next, all of it at once if there is room. Empty: parked, or ended."""
    if state.owes is not None:
        return state.owes
    match state.phase:
        case Phase.FORWARD:
            settle = {name for name in state.doubtful if not _runs_again(shape, name)}
            return [Settle(name) if name in settle else Run(name) for name in _ready(shape, state)]
        case Phase.BACKWARD:
            in_flight = _in_flight(shape, state)
            return [Settle(name) for name in in_flight] or [Undo(name) for name in _undos(shape, state)]
        case _:
            return []


def cancellable(shape: Shape, state: SagaState) -> bool:
    """Whether it may still be undone as a whole: it goes forward, or waits on its way, and its pivot is not done."""
    phase = state.phase if state.parked is None else state.parked[0]
    return phase is Phase.FORWARD and not _pivoted(shape, state)


def _ready(shape: Shape, state: SagaState) -> list[StepName]:
    """Steps that have not settled, and whose dependencies all have happened: they run, or may be running."""
    return [n for n, step in shape.steps.items() if n not in state.marks and _reached(step, state.marks)]


def _reached(step: Step, marks: Mapping[StepName, Mark]) -> bool:
    """Whether all that it comes after has happened."""
    return all(marks.get(before) in _PASSED for before in step.after)


def may_have_begun(shape: Shape, state: SagaState) -> frozenset[StepName]:
    """Actions that whoever drove the saga so far may have begun, and has not settled."""
    return frozenset(_in_flight(shape, state))


def doubted(shape: Shape, state: SagaState) -> SagaState:
    """The state as a successor has it, of a process that was lost: whatever was ready may have been begun."""
    return _changed(state, parked=state.parked, doubtful=state.doubtful | may_have_begun(shape, state))


def first_called(shape: Shape, state: SagaState) -> StepName | None:
    """The first step that whoever drives the saga now calls; None where it only waits, or its policy calls nothing."""
    for action in owed(shape, state):
        step = shape.steps[action.step]
        asked = step.on_unknown is OnUnknown.ASK or step.pivot
        if step.kind is Kind.ACTION and (asked or not isinstance(action, Settle)):
            return step.name
    return None


def _runs_again(shape: Shape, step: StepName) -> bool:
    """Whether a step that may have been begun is simply run (again): it is idempotent, or only waits."""
    found = shape.steps[step]
    return found.on_unknown is OnUnknown.RETRY or found.kind is not Kind.ACTION


def _in_flight(shape: Shape, state: SagaState) -> list[StepName]:
    """Steps that may be running, whichever way the saga goes. (A wait is over when nobody waits any more.)"""
    return [name for name in _ready(shape, state) if shape.steps[name].kind is Kind.ACTION]


def _undos(shape: Shape, state: SagaState) -> list[StepName]:
    """Steps to be undone now: what happened or may have, and of what depends on it nothing is left to be undone."""
    if state.phase is not Phase.BACKWARD or _in_flight(shape, state):
        return []
    left = {name for name, step in shape.steps.items() if step.undoable and state.marks.get(name) in _HAPPENED}
    return [name for name in shape.steps if name in left and not left & shape.dependents[name]]


def _open(shape: Shape, state: SagaState, step: StepName) -> bool:
    if step in state.marks or state.phase not in _MOVING:
        return False
    found = shape.steps.get(step)
    return found is not None and _reached(found, state.marks)


def _pivoted(shape: Shape, state: SagaState) -> bool:
    return shape.pivot is not None and state.marks.get(shape.pivot) in _PASSED


def _settled(shape: Shape, state: SagaState, step: StepName, mark: Mark, reason: str) -> SagaState:
    happened, is_pivot = mark is Mark.DONE, step == shape.pivot
    if not happened and (_pivoted(shape, state) or (is_pivot and mark is Mark.UNKNOWN)):
        if mark is Mark.UNKNOWN:
            state = _in_doubt(state, step)
        return _parked(state, step, reason)  # There is no way back, or may be none: an operator says how it goes on.
    if happened and is_pivot and state.phase is Phase.BACKWARD:
        state = _changed(state, phase=Phase.FORWARD, reason="")  # It was passed before anyone could hold it.
    elif not happened and state.phase is Phase.FORWARD:
        state = _changed(
            state, phase=Phase.BACKWARD, reason=f"{step}: {reason}" if reason else f"{step} did not happen"
        )
    return _marked(shape, state, step, mark)


def _marked(shape: Shape, state: SagaState, step: StepName, mark: Mark) -> SagaState:
    return _ended(shape, _changed(state, marks={**state.marks, step: mark}))


def _ended(shape: Shape, state: SagaState) -> SagaState:
    """COMPLETED or COMPENSATED, where nothing is owed any more."""
    if state.phase is Phase.FORWARD:
        passed = len(state.marks) == len(shape.steps) and _PASSED.issuperset(state.marks.values())
        return _changed(state, phase=Phase.COMPLETED) if passed else state
    if state.phase is Phase.BACKWARD and not owed(shape, state):
        return _changed(state, phase=Phase.COMPENSATED)
    return state


def _resumed(shape: Shape, state: SagaState, phase: Phase, step: StepName) -> SagaState:
    """On from where it was. Where nothing else is left to find out about its step, the operator has it tried again."""
    doubtful = state.doubtful
    if shape.steps[step].on_unknown is OnUnknown.COMPENSATE and _pivoted(shape, state):
        doubtful -= {step}
    return _changed(_going(shape, state, phase), doubtful=doubtful)


def _going(shape: Shape, state: SagaState, phase: Phase) -> SagaState:
    """On its way again, by an operator's word. For as long as it was parked nobody listened: each wait begins anew."""
    waits = {name: until_s for name, until_s in state.waits.items() if shape.steps[name].kind is not Kind.SIGNAL}
    return _changed(state, phase=phase, parked=None, waits=waits, reason="" if phase is Phase.FORWARD else None)


def _in_doubt(state: SagaState, step: StepName) -> SagaState:
    return _changed(state, parked=state.parked, doubtful=state.doubtful | {step})


def _parked(state: SagaState, step: StepName, reason: str) -> SagaState:
    return _changed(state, phase=Phase.PARKED, parked=(state.phase, step), reason=f"{step}: {reason}")


def _changed(
    state: SagaState,
    *,
    phase: Phase | None = None,
    marks: Mapping[StepName, Mark] | None = None,
    waits: Mapping[StepName, float | None] | None = None,
    reason: str | None = None,
    parked: tuple[Phase, StepName] | None = None,
    doubtful: frozenset[StepName] | None = None,
) -> SagaState:
    """Another state."""
    return SagaState(
        state.phase if phase is None else phase,
        state.marks if marks is None else marks,
        state.waits if waits is None else waits,
        state.reason if reason is None else reason,
        parked,
        state.doubtful if doubtful is None else doubtful,
    )


_MOVING = frozenset({Phase.FORWARD, Phase.BACKWARD})
_PASSED = frozenset({Mark.DONE, Mark.SKIPPED})
_HAPPENED = frozenset({Mark.DONE, Mark.UNKNOWN})
