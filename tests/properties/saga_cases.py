"""Sagas with names, all strikes at them, and the first promise that is broken among them."""

import itertools
from collections.abc import Iterator
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
    "siblings, one refused and one slow": (
        "compensated",
        _plan(_undoable(), _undoable(answers=("slow",)), StepPlan((0,), answers=_REFUSED)),
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
        replace(_plan(_undoable(undo=_DOWN), StepPlan((0,), answers=_REFUSED)), operator="resume"),
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
    "called off between two attempts of the pivot": (
        "completed",
        _plan(_undoable(), StepPlan((0,), pivot=True, answers=_DONE), cancel_at_s=0.5),
    ),
    "a pivot of which nobody knows, and resumed": (
        "parked",
        replace(
            _plan(_undoable(), StepPlan((0,), pivot=True, answers=(*_DONE, "timeout, not done", *_DOWN))),
            operator="resume",
        ),
    ),
    "a pivot of which nobody knows, and skipped": (
        "completed",
        replace(
            _plan(_undoable(), StepPlan((0,), pivot=True, answers=("timeout, not done",) * 2), StepPlan((1,))),
            operator="skip",
        ),
    ),
    "an undoing is stuck, and skipped": (
        "compensated",
        replace(
            _plan(_undoable(), _undoable(0, undo=_DOWN), StepPlan((1,), pivot=True, answers=_REFUSED)), operator="skip"
        ),
    ),
    "the last undoing is stuck, and skipped": (
        "compensated",
        replace(_plan(_undoable(undo=_DOWN), StepPlan((0,), answers=_REFUSED)), operator="skip"),
    ),
    "one is stuck while its sibling is called, and resumed": (
        "completed",
        replace(
            _plan(
                _undoable(on_unknown="ask", answers=_DONE, asked=("unknown", "unknown", "ok")),
                _undoable(answers=("slow",)),
                _undoable(1, on_unknown="compensate", answers=("slow",)),
                _undoable(2, on_unknown="compensate"),
                StepPlan((0, 3)),
            ),
            operator="resume",
        ),
    ),
    "told in time": ("completed", _plan(_undoable(), StepPlan((0,), told_at_s=4.0), StepPlan((1,)))),
    "told too late": ("compensated", _plan(_undoable(), StepPlan((0,), told_at_s=9.0), StepPlan((1,)))),
    "past its deadline": (
        "compensated",
        replace(_plan(_undoable(), _undoable(0, answers=("slow",)), StepPlan((1,), nap_s=3.0)), deadline_s=0.5),
    ),
    "past its deadline while siblings are called": (
        "compensated",
        replace(_plan(_undoable(answers=("slow",)), _undoable(answers=("slow",))), deadline_s=0.5),
    ),
    "called off while its last step is called": (
        "compensated",
        _plan(_undoable(), _undoable(0, answers=("slow",)), cancel_at_s=0.5),
    ),
    "called off": ("compensated", _plan(_undoable(), StepPlan((0,), nap_s=8.0), _undoable(1), cancel_at_s=2.5)),
}


def single_strikes(plan: Plan, writes: int) -> Iterator[Plan]:
    """Every action in every cell of every one of its *writes*, and of a few beyond."""
    for at, cell, action in itertools.product(range(writes + 2), ("before", "after"), LOG_ACTIONS):
        yield replace(plan, strikes=(Strike(at, cell, action),))


def crashes(plan: Plan, writes: int) -> Iterator[Plan]:
    """Its process dies before and after every one of its *writes*."""
    for at, cell in itertools.product(range(writes), ("before", "after")):
        yield replace(plan, strikes=(Strike(at, cell, "crash"),))


def broken_promises(name: str) -> Iterator[str]:
    """Every promise of a plan that is broken, undisturbed and under every single strike."""
    ending, plan = PLANS[name]
    plain = verdict(plan)
    if plain.ending != ending:
        yield f"it is {plain.ending}, and not {ending}"
    for struck in (plan, *single_strikes(plan, plain.writes)):
        yield from verdict(struck).problems(struck)
