"""The shape of a saga: its steps, what each comes after, and the rules that a definition must keep.

Pure data, and checked once, when it is built: every error quotes the definition.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

from coordinator.errors import InvalidDefinition
from coordinator.limits import SAGA_STEPS_MAX

StepName = NewType("StepName", str)
"""The name of a step, unique in its saga."""

RESERVED = ("request", "context")
"""What functions of steps call the saga's input, and the `StepContext`; so no step is called that."""
CONTROL = "!"
"""What the names of operators' words begin with, which travel like signals; so no signal's does."""
_IN_JSON = frozenset('"\\')  # Facts are written as JSON with names as they stand: see `sagas.events`.


class Kind(StrEnum):
    """What a step does."""

    ACTION = "action"
    SLEEP = "sleep"
    SIGNAL = "signal"


class OnUnknown(StrEnum):
    """What is done about a step of which nobody knows whether it happened (a timeout, a reset, a crash)."""

    COMPENSATE = "compensate"
    """Its compensation is run, which must bear that there is nothing to undo."""
    RETRY = "retry"
    """It is idempotent: it is run again until it answers."""
    ASK = "ask"
    """Its participant is asked what became of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step, as the rules see it: *undoable* is that it has a compensation."""

    name: StepName
    after: tuple[StepName, ...] = ()
    kind: Kind = Kind.ACTION
    undoable: bool = False
    pivot: bool = False
    on_unknown: OnUnknown = OnUnknown.COMPENSATE


@dataclass(frozen=True, slots=True)
class Shape:
    """A checked definition: *steps* in an order in which each comes after what it depends on."""

    steps: Mapping[StepName, Step]
    dependents: Mapping[StepName, frozenset[StepName]]
    """Of each step, all that come after it, directly or not."""
    pivot: StepName | None

    @property
    def behind_pivot(self) -> frozenset[StepName]:
        """Steps that only run once the pivot has: from there a saga only goes forward."""
        return self.dependents[self.pivot] if self.pivot is not None else frozenset()


def shape_of(saga: str, steps: Iterable[Step]) -> Shape:
    """The checked shape of *steps*. Raises `InvalidDefinition` that quotes *saga* and the step that breaks a rule."""
    listed = list(steps)
    by_name: dict[StepName, Step] = {}
    for step in listed:
        if not step.name or not step.name.isprintable() or set(step.name) & _IN_JSON or step.name in RESERVED:
            raise InvalidDefinition(
                f"saga {saga!r}: a step cannot be called {step.name!r}: its name is printable, without quotation marks "
                f"and backslashes, and none of {', '.join(RESERVED)}"
            )
        if step.name in by_name:
            raise InvalidDefinition(f"saga {saga!r}: two steps are called {step.name!r}")
        by_name[step.name] = step
    if not 0 < len(listed) <= SAGA_STEPS_MAX:
        raise InvalidDefinition(
            f"saga {saga!r} has {len(listed) or 'no'} steps; from 1 to {SAGA_STEPS_MAX} are allowed"
        )
    for step in listed:
        for name in step.after:
            if name not in by_name:
                known = ", ".join(by_name)
                raise InvalidDefinition(f"saga {saga!r}: {step.name!r} comes after {name!r}, which is none of {known}")
    ordered = _in_order(saga, by_name)
    dependents = _dependents(ordered)
    pivots = [step.name for step in listed if step.pivot]
    if len(pivots) > 1:
        raise InvalidDefinition(f"saga {saga!r} has two pivots, {pivots[0]!r} and {pivots[1]!r}; one decides")
    shape = Shape(steps=ordered, dependents=dependents, pivot=pivots[0] if pivots else None)
    _check_pivot(saga, shape)
    return shape


def _in_order(saga: str, by_name: Mapping[StepName, Step]) -> dict[StepName, Step]:
    ordered: dict[StepName, Step] = {}
    left = dict(by_name)
    while left:
        ready = [step for step in left.values() if all(name in ordered for name in step.after)]
        if not ready:
            raise InvalidDefinition(f"saga {saga!r} has a cycle: {' -> '.join(_cycle(left))}")
        for step in ready:
            ordered[step.name] = left.pop(step.name)
    return ordered


def _cycle(left: Mapping[StepName, Step]) -> list[StepName]:
    """One cycle among steps that all wait for each other."""
    path = [next(iter(left))]
    while True:
        following = next(name for name in left[path[-1]].after if name in left)
        if following in path:
            return [*path[path.index(following) :], following]
        path.append(following)


def _dependents(ordered: Mapping[StepName, Step]) -> dict[StepName, frozenset[StepName]]:
    found: dict[StepName, set[StepName]] = {name: set() for name in ordered}
    for name in reversed(list(ordered)):
        for before in ordered[name].after:
            found[before] |= {name} | found[name]
    return {name: frozenset(after) for name, after in found.items()}


def _check_pivot(saga: str, shape: Shape) -> None:
    if shape.pivot is None:
        return
    pivot = shape.steps[shape.pivot]
    if pivot.undoable:
        raise InvalidDefinition(f"saga {saga!r}: the pivot {pivot.name!r} has a compensation, and is never undone")
    if pivot.on_unknown is OnUnknown.COMPENSATE:
        raise InvalidDefinition(
            f"saga {saga!r}: nobody can undo the pivot {pivot.name!r} where its outcome is unknown; give it "
            "on_unknown='retry' (it is idempotent) or a status="
        )
    for name, step in shape.steps.items():
        if name == pivot.name:
            continue
        if name in shape.behind_pivot:
            if step.undoable:
                raise InvalidDefinition(
                    f"saga {saga!r}: {name!r} is behind the pivot {pivot.name!r}, so its compensation can never run"
                )
        elif pivot.name not in shape.dependents[name]:
            raise InvalidDefinition(
                f"saga {saga!r}: {name!r} is neither before nor behind the pivot {pivot.name!r}: nobody could say "
                "whether it may still be undone"
            )
