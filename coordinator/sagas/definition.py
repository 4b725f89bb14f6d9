"""A saga in code: async functions as steps, with what undoes them, put together and checked at once.

    checkout = Saga(
        "checkout",
        step(reserve_stock, compensate=release_stock),
        step(charge_card, compensate=refund),
        step(ship, pivot=True, on_unknown="retry"),
        step(send_receipt),
    )

A step's function takes the saga's input as `request`, the outputs of earlier steps by their names, and `context` where
it wants one (see `StepContext`). What it returns is the step's output: its type is annotated, and is stored as JSON.
Without `after=` a step comes after the one that is listed before it.
"""

import hashlib
import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_type_hints

from pydantic import TypeAdapter

from coordinator import limits
from coordinator.errors import InvalidDefinition
from coordinator.keys import check_name
from coordinator.protocol.saga import SagaState, beginning
from coordinator.protocol.saga_shape import Kind, Shape, Step, StepName, shape_of
from coordinator.sagas import checked, drawing
from coordinator.sagas.attempts import PATIENT, USUAL
from coordinator.sagas.same import files, same_function
from coordinator.sagas.steps import CONTEXT, REQUEST, Call, StepDefinition, StepFunction, title
from coordinator.sagas.values import adapter

_ANYTHING: TypeAdapter[Any] = TypeAdapter(Any)


class Saga:
    """A checked definition. Raises `InvalidDefinition`, which quotes it, where it breaks a rule.

    *version* names it for people, and tells apart definitions of one shape (their types differ, say). A saga that runs
    is pinned to the *identity* of the one that it began with: name, version, and the *digest* of its shape.
    *deadline_s*: seconds after which it is undone, if its pivot is not done. *parallel*: how many of its steps may run
    at once.
    """

    def __init__(
        self,
        name: str,
        *steps: StepDefinition,
        version: str = "",
        deadline_s: float | None = None,
        parallel: int = limits.SAGA_PARALLEL_MAX,
    ) -> None:
        self.name, self.version, self.deadline_s, self.parallel = name, version, deadline_s, parallel
        self._check_bounds()
        listed = _with_order(name, steps)
        self.shape: Shape = shape_of(name, [_as_rule(each) for each in listed])
        by_name = {each.name: each for each in listed}
        self.steps: Mapping[StepName, StepDefinition] = {each: by_name[each] for each in self.shape.steps}
        self.beginning: SagaState = beginning(self.shape)
        self.input: TypeAdapter[Any] | None = None
        for each in self.steps.values():
            self._bind(each)
        self._files = files(each for step in self.steps.values() for each in _functions(step))
        self.digest = _digest(self)
        self.label = f"{name}@{version or self.digest}"
        """What people call it."""
        self.identity = f"{name}@{version}#{self.digest}" if version else self.label
        """What a running saga is pinned to. (The digest is part of it: a version that was forgotten to be raised would
        otherwise be gone on with in another shape, and leave out a compensation.)
        """

    def __repr__(self) -> str:
        return f"<Saga {self.label}: {', '.join(self.steps)}>"

    def text(self) -> str:
        """The definition as text: its steps by layers (those of one layer may run together), and what undoes them."""
        return drawing.text(self._picture())

    def svg(self) -> str:
        """The definition as an SVG document."""
        return drawing.svg(self._picture())

    def _check_bounds(self) -> None:
        name = self.name
        if not isinstance(name, str) or not name or not name.isprintable() or "@" in name:
            raise InvalidDefinition(f"a saga has a name, of printable characters without '@': {name!r}")
        check_name(name)
        if not isinstance(self.version, str) or not self.version.isprintable():
            raise InvalidDefinition(f"saga {name!r}: a version is text, of printable characters: {self.version!r}")
        if type(self.parallel) is not int or self.parallel < 1:
            raise InvalidDefinition(f"saga {name!r}: parallel={self.parallel!r} is not how many of its steps may run")
        if self.deadline_s is not None:
            checked.seconds(f"saga {name!r}: deadline_s", self.deadline_s, above=0.0)

    def _picture(self) -> drawing.Picture:
        return drawing.Picture(
            title=self.label,
            shape=self.shape,
            undone_by={name: title(each.compensate) for name, each in self.steps.items() if each.compensate},
            waits={name: _awaited(each) for name, each in self.steps.items() if each.kind is not Kind.ACTION},
        )

    def _bind(self, each: StepDefinition) -> None:
        """Find out where the arguments of its functions come from, and how its output is stored."""
        earlier = {name for name in self.shape.steps if each.name in self.shape.dependents[name]}
        behind = (
            each.name in self.shape.behind_pivot
        )  # There is no way back from there: giving up is an operator's work.
        each.attempts = each.retry or (PATIENT if behind else USUAL)
        each.attempts_in_doubt = each.retry or (PATIENT if behind or each.pivot else USUAL)
        if each.action is not None:
            each.run = self._call(each, each.action, earlier)
            each.run.participant = each.participant or _participant(each.action)
            each.output = _stored(self.name, each.name, each.action)
        if each.compensate is not None:
            each.undo = self._call(each, each.compensate, earlier | {each.name})
        if each.status is not None:
            each.ask = self._call(each, each.status, earlier)

    def calls_the_same(self, other: "Saga") -> bool:
        """Whether its steps are the functions of *other*'s, as far as can be seen: one that goes on calls either."""
        known = {**self._files, **other._files}
        return all(
            same_function(mine, theirs, known)
            for name, step in self.steps.items()
            for mine, theirs in zip(_functions(step), _functions(other.steps[name]), strict=True)
        )

    def _call(self, each: StepDefinition, function: StepFunction, known: set[StepName]) -> Call:
        if not inspect.iscoroutinefunction(function):
            raise InvalidDefinition(f"saga {self.name!r}: {title(function)} of step {each.name!r} is no async function")
        parameters = inspect.signature(function).parameters
        names = list(parameters)
        for name in names:
            if name not in known and name not in (REQUEST, CONTEXT):
                others = ", ".join(sorted(known)) or "none yet"
                raise InvalidDefinition(
                    f"saga {self.name!r}: {title(function)} of step {each.name!r} takes {name!r}, which is neither "
                    f"{REQUEST!r}, {CONTEXT!r}, nor a step before it (those are: {others}; defaults are not taken)"
                )
            if parameters[name].kind is inspect.Parameter.POSITIONAL_ONLY:
                raise InvalidDefinition(
                    f"saga {self.name!r}: {title(function)} of step {each.name!r} takes {name!r} by its position "
                    "only, and is given what it takes by name"
                )
        if REQUEST in names:
            self._take_input(function)
        arguments = tuple(name for name in names if name != CONTEXT)
        return Call(function, arguments, CONTEXT in names, _participant(function) or each.participant)

    def _take_input(self, function: StepFunction) -> None:
        """The type of the input, on which all agree that name one."""
        hint = _hints(self.name, function).get(REQUEST, Any)
        found = adapter(f"saga {self.name!r}: the input of {title(function)}", hint)
        if self.input is None or self.input.core_schema == _ANYTHING.core_schema:
            self.input = found
        elif found.core_schema not in (self.input.core_schema, _ANYTHING.core_schema):
            raise InvalidDefinition(
                f"saga {self.name!r}: its steps do not agree on the type of {REQUEST!r}: "
                f"{title(function)} takes {hint!r}, one before it another"
            )


def listed(sagas: Any) -> tuple[Saga, ...]:
    """The definitions that a coordinator is given. Raises `InvalidDefinition` for what is no list of them."""
    given = (sagas,) if isinstance(sagas, str) or not isinstance(sagas, Iterable) else tuple(sagas)
    if isinstance(sagas, Saga) or not all(isinstance(each, Saga) for each in given):
        raise InvalidDefinition(f"sagas= takes a list of definitions, sagas=[Saga(...)], and not {sagas!r}")
    return given


def _with_order(saga: str, steps: Sequence[Any]) -> list[StepDefinition]:
    """Each after the one before it, where it does not say after which it comes. (Copies: several may have a step.)"""
    listed: list[StepDefinition] = []
    for each in steps:
        if not isinstance(each, StepDefinition):
            remedy = "*steps" if isinstance(each, list | tuple) else "step(...), sleep(...), await_signal(...)"
            raise InvalidDefinition(f"saga {saga!r}: {repr(each)[:100]} is no step: write {remedy}")
        before = (listed[-1].name,) if listed else ()
        listed.append(replace(each, after=before if each.after is None else each.after))
    return listed


def _as_rule(each: StepDefinition) -> Step:
    return Step(
        name=each.name,
        after=tuple(StepName(name) for name in each.after or ()),
        kind=each.kind,
        undoable=each.compensate is not None,
        pivot=each.pivot,
        on_unknown=each.on_unknown,
    )


def _stored(saga: str, name: str, function: StepFunction) -> TypeAdapter[Any]:
    hints = _hints(saga, function)
    if "return" not in hints:
        raise InvalidDefinition(
            f"saga {saga!r}: write down what {title(function)} of step {name!r} returns (-> None, a model, ...): "
            "it is stored, and is the input of later steps"
        )
    return adapter(f"saga {saga!r}: what {title(function)} of step {name!r} returns", hints["return"])


def _hints(saga: str, function: StepFunction) -> dict[str, Any]:
    try:
        # `functools.partial` has none of its own. What `Annotated` adds is a part of a type: `Field(gt=0)`, say.
        return get_type_hints(getattr(function, "func", function), include_extras=True)
    except NameError as unknown:
        raise InvalidDefinition(f"saga {saga!r}: a type of {title(function)} is not known: {unknown}") from unknown


def _digest(saga: Saga) -> str:
    """A fingerprint of the shape: names, order, kinds, and what can be undone; not of the functions' code."""
    shape = [
        [each.name, sorted(each.after), each.kind, each.undoable, each.pivot, each.on_unknown]
        for each in saga.shape.steps.values()
    ]
    return hashlib.sha256(json.dumps(shape).encode()).hexdigest()[:12]


def _awaited(each: StepDefinition) -> str:
    if each.kind is Kind.SLEEP:
        return f"sleeps for {each.wait_s:g} s"
    return "waits for a signal" + ("" if each.wait_s is None else f", at most {each.wait_s:g} s")


def _functions(step: StepDefinition) -> tuple[StepFunction | None, ...]:
    return step.action, step.compensate, step.status


def _participant(function: StepFunction) -> str:
    return str(getattr(function, "participant", ""))
