"""Sagas that are tried: what their steps come after, what each call of them is answered, and what strikes when.

Plain data, and small when printed: a failure is read from it.
"""

from dataclasses import dataclass, field

from hypothesis import strategies as st

ATTEMPTS = 2
"""How often a call is made before its step is taken for failed; the same for a compensation and a question."""
ANSWERS = ("ok", "refused", "unavailable", "conflict", "timeout, done", "timeout, not done", "twice", "late", "slow")
"""`conflict` is a serialisation failure of the participant's database; `late` is given up first, and arrives then;
`slow` is a yes that comes when others have long been answered."""
GOOD = frozenset({"ok", "twice", "slow"})
NOTHING = frozenset({"unavailable", "conflict"})
"""After these it is known that the call did nothing, and that another may."""
UNDO_ANSWERS = tuple(answer for answer in ANSWERS if answer != "refused")
ASKED = ("ok", "unknown", "unavailable")
LOG_ACTIONS = ("crash", "lost", "late", "takeover", "reborn", "stop")
LOST_ACTIONS = ("crash", "takeover", "reborn")
"""After these, whoever goes on with a saga does not know what its former driver had begun; after a `stop` it does."""
WITHIN_S = 6.0
"""How long a signal is waited for."""


@dataclass(frozen=True)
class StepPlan:
    """One step. *answers* are those to its first calls, *undo* and *asked* to its compensation's and its question's."""

    after: tuple[int, ...] = ()
    undoable: bool = False
    pivot: bool = False
    on_unknown: str = "retry"
    nap_s: float | None = None
    """It is no call, but sleeps so long."""
    told_at_s: float | None = None
    """It is no call, but waits for a signal that is sent then: in time before `WITHIN_S`, whenever the wait begins."""
    answers: tuple[str, ...] = ()
    undo: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()

    @property
    def calls(self) -> bool:
        """Whether it calls anybody."""
        return self.nap_s is None and self.told_at_s is None

    @property
    def told_in_vain(self) -> bool:
        """Whether its signal may come too late."""
        return self.told_at_s is not None and self.told_at_s >= WITHIN_S


@dataclass(frozen=True)
class Strike:
    """What happens at the *at*-th write of the log, before or after it."""

    at: int
    cell: str  # before | after
    action: str  # one of LOG_ACTIONS


@dataclass(frozen=True)
class Plan:
    """A saga of *steps* (named s0, s1, ...), what strikes it, and when it is called off (None: it is not)."""

    steps: tuple[StepPlan, ...]
    strikes: tuple[Strike, ...] = field(default=())
    cancel_at_s: float | None = None
    operator: str = ""
    """What an operator says, once, where it is parked: nothing, `resume`, or `skip` (the step that it is parked at)."""
    deadline_s: float | None = None

    def before(self, index: int) -> set[int]:
        """All steps that *index* comes after, directly or not."""
        found = set(self.steps[index].after)
        for earlier in self.steps[index].after:
            found |= self.before(earlier)
        return found

    @property
    def loses(self) -> bool:
        """Whether a process is lost (or taken for lost) on the way."""
        return any(strike.action in LOST_ACTIONS for strike in self.strikes)

    @property
    def pivot(self) -> int | None:
        """The step that decides."""
        return next((index for index, step in enumerate(self.steps) if step.pivot), None)


def _answers(draw: st.DrawFn, allowed: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(draw(st.lists(st.sampled_from(allowed), max_size=2 * ATTEMPTS)))


@st.composite
def _step(draw: st.DrawFn, index: int, pivot: int | None) -> StepPlan:
    after = set(draw(st.lists(st.integers(0, index - 1), max_size=3))) if index else set()
    behind = pivot is not None and index > pivot
    if index == pivot:
        after = set(range(index))  # What is neither before nor behind the pivot is no saga.
    elif behind and not any(earlier >= pivot for earlier in after):
        after.add(pivot)
    if index != pivot and (kind := draw(st.integers(0, 9))) > 7:
        if kind == 8:
            return StepPlan(after=tuple(sorted(after)), nap_s=draw(st.sampled_from([0.0, 3.0])))
        return StepPlan(after=tuple(sorted(after)), told_at_s=draw(st.sampled_from([0.5, 4.0, 9.0])))
    undoable = index != pivot and not behind and draw(st.booleans())
    policies = ["retry", "ask"] if index == pivot else ["retry", "ask", "compensate"]
    return StepPlan(
        after=tuple(sorted(after)),
        undoable=undoable,
        pivot=index == pivot,
        on_unknown=draw(st.sampled_from(policies)),
        answers=_answers(draw, ANSWERS),
        undo=_answers(draw, UNDO_ANSWERS) if undoable else (),
        asked=_answers(draw, ASKED),
    )


@st.composite
def plans(draw: st.DrawFn, *, strikes_max: int = 2) -> Plan:
    """Any saga of up to six steps, with up to so many strikes."""
    count = draw(st.integers(1, 6))
    pivot = draw(st.none() | st.integers(0, count - 1))
    steps = tuple(draw(_step(index, pivot)) for index in range(count))
    strike = st.builds(
        Strike, at=st.integers(0, 2 * count + 3), cell=st.sampled_from(["before", "after"]),
        action=st.sampled_from(LOG_ACTIONS),
    )  # fmt: skip
    strikes = draw(st.lists(strike, max_size=strikes_max, unique_by=lambda s: s.at))
    return Plan(
        steps=steps,
        strikes=tuple(sorted(strikes, key=lambda s: s.at)),
        cancel_at_s=draw(st.none() | st.sampled_from([0.5, 2.5, 8.0])),
        operator=draw(st.sampled_from(["", "resume", "skip"])),
        deadline_s=draw(st.sampled_from([None, None, 0.5, 2.5, 8.0])),
    )
