"""Sagas with names, all strikes at them, and the first promise that is broken among them."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace

from tests.properties.saga_plans import LOG_ACTIONS, Plan, StepPlan, Strike
from tests.properties.saga_world import verdict


def _undoable(*after: int, on_unknown: str = "retry", **answers: tuple[str, ...]) -> StepPlan:
    return StepPlan(after=after, undoable=True, on_unknown=on_unknown, **answers)


def _plan(*steps: StepPlan, cancel_at_s: float | None = None) -> Plan:
    return Plan(steps, cancel_at_s=cancel_at_s)


_REFUSED, _DONE, _DOWN = ("refused",), ("timeout, done",), ("unavailable", "unavailable")
PLANS: dict[str, tuple[str, Plan]] = {
    "careful": ("completed", _plan(_undoable(on_unknown="compensate"), _undoable(0, on_unknown="ask"), StepPlan((1,)))),
    "straight": ("completed", _plan(_undoable(), _undoable(0), StepPlan((1,), pivot=True), StepPlan((2,)))),
    "undone": ("compensated", _plan(_undoable(), _undoable(0), StepPlan((1,), pivot=True, answers=_REFUSED))),
    "siblings, one refused": (
        "compensated",
        _plan(
            _undoable(), _undoable(0, answers=_REFUSED), _undoable(0, answers=("unavailable", "ok")), _undoable(1, 2)
        ),
    ),
    "unknown, done": ("compensated", _plan(_undoable(), _undoable(0, on_unknown="compensate", answers=_DONE))),
    "unknown, late": ("compensated", _plan(_undoable(), _undoable(0, on_unknown="compensate", answers=("late",)))),
    "unknown, then down": (
        "compensated",
        _plan(_undoable(), _undoable(0, answers=(*_DONE, *_DOWN))),
    ),
    "asked": (
        "completed",
        _plan(_undoable(on_unknown="ask", answers=_DONE, asked=("unknown", "ok")), StepPlan((0,))),
    ),
    "down for a moment": (
        "completed",
        _plan(_undoable(answers=("unavailable",)), _undoable(0, on_unknown="compensate", answers=("conflict",))),
    ),
    "down for long": ("compensated", _plan(_undoable(), _undoable(0, answers=_DOWN))),
    "tried again": ("completed", _plan(_undoable(answers=_DONE), _undoable(0, answers=("timeout, not done", "ok")))),
    "an undoing is stuck": ("parked", _plan(_undoable(undo=_DOWN), StepPlan((0,), answers=_REFUSED))),
    "an undoing is stuck, and resumed": (
        "compensated",
        replace(_plan(_undoable(undo=_DOWN), StepPlan((0,), answers=_REFUSED)), resumes=True),
    ),
    "behind the pivot": ("parked", _plan(_undoable(), StepPlan((0,), pivot=True), StepPlan((1,), answers=_REFUSED))),
    "a nap": ("completed", _plan(_undoable(), StepPlan((0,), nap_s=3.0), _undoable(1, answers=("twice",)))),
    "asked in vain, and called off": (
        "compensated",
        _plan(
            _undoable(),
            _undoable(0, on_unknown="ask", answers=_DONE, asked=("unknown", "unknown", "ok")),
            cancel_at_s=8.0,
        ),
    ),
    "called off": ("compensated", _plan(_undoable(), StepPlan((0,), nap_s=8.0), _undoable(1), cancel_at_s=2.5)),
}


def single_strikes(plan: Plan) -> Iterator[Plan]:
    """Every action in every cell of every write that an undisturbed run has, and a few beyond."""
    for at, cell, action in itertools.product(range(verdict(plan).writes + 2), ("before", "after"), LOG_ACTIONS):
        yield replace(plan, strikes=(Strike(at, cell, action),))


def violations(names: Iterable[str]) -> str | None:
    """The first broken promise of these plans: of all of them undisturbed, and then under every single strike."""
    plans = [(name, PLANS[name][1]) for name in names]
    struck = ((name, one) for name, plan in plans for one in single_strikes(plan))
    for name, plan in itertools.chain(plans, struck):
        if problems := verdict(plan).problems(plan):
            return f"{name}: {plan.strikes}: {'; '.join(problems)}"
    return None
