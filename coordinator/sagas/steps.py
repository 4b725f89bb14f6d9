"""A step as it is written: an async function and what undoes it, a pause, or a signal that is waited for.

What it is told is looked at here; how it goes together with other steps is looked at by the saga that it is part of.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, Literal
from uuid import UUID

from pydantic import TypeAdapter

from coordinator import limits
from coordinator.errors import InvalidDefinition
from coordinator.protocol.saga_shape import CONTROL, RESERVED, Kind, OnUnknown, StepName
from coordinator.sagas import checked
from coordinator.sagas.attempts import PATIENT, USUAL, Attempts
from coordinator.sagas.values import adapter, kept, misfit

StepFunction = Callable[..., Awaitable[Any]]
_IMMUTABLE = frozenset({type(None), bool, int, float, str, bytes, Decimal, date, datetime, time, timedelta, UUID})
REQUEST, CONTEXT = RESERVED
REPLY = "reply:"
"""What the signals begin with that replies to commands are; so nobody else's does, and a reply is no other signal."""


class Status(StrEnum):
    """What a participant that is asked (`status=`) says of a step."""

    DONE = "done"
    NEVER = "never"
    """It did not happen, and never will: also not by a request that is still under way."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepContext:
    """What a call is about: the key for idempotency is (*gid*, *step*, *direction*), and never the *attempt*."""

    gid: str
    saga: str
    step: str
    direction: Literal["action", "compensation", "status"]
    attempt: int
    term: int
    """Higher with each who goes on with the saga: participants turn a lower one away (see the barrier)."""
    coordinator: Any = None
    """The coordinator that makes the call: a step may run a transaction of its own."""


@dataclass(slots=True)
class Call:
    """A function of a step, and where each of its arguments comes from."""

    function: StepFunction
    arguments: tuple[str, ...]
    takes_context: bool
    participant: str = ""
    """Whom it calls, for its budget and breaker; empty is nobody."""

    def keywords(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Its arguments, out of the input and the outputs so far; None where nobody knows one (or it was skipped).

        Each is its own: what a call changes in them, neither its next attempt nor another step has. (Where a class
        will not be copied, all have the one.)
        """
        return {name: value if type(value := given.get(name)) in _IMMUTABLE else _own(value) for name in self.arguments}


def _own(value: Any) -> Any:
    """A copy; or the value itself, where its class will not be copied.

    To read it again from its JSON is faster, and no copy: its validators would see it twice, and may convert it each
    time, or refuse by now what was right when it was given.
    """
    try:
        return deepcopy(value)
    except Exception:  # noqa: BLE001 - whatever a class of its user's own makes of it.
        return value


@dataclass(slots=True, kw_only=True)
class StepDefinition:
    """One step as it was written. Made by `step`, `sleep` and `await_signal`."""

    name: StepName
    kind: Kind
    action: StepFunction | None = None
    compensate: StepFunction | None = None
    status: StepFunction | None = None
    after: tuple[str, ...] | None = None
    pivot: bool = False
    on_unknown: OnUnknown = OnUnknown.COMPENSATE
    retry: Attempts | None = None
    undo_retry: Attempts = PATIENT
    timeout_s: float = limits.STEP_TIMEOUT_S
    participant: str = ""
    wait_s: float | None = None
    signal: str = ""
    # Filled in by the saga that it is part of:
    run: Call | None = None
    undo: Call | None = None
    ask: Call | None = None
    output: TypeAdapter[Any] | None = None
    attempts: Attempts = USUAL
    attempts_in_doubt: Attempts = USUAL
    """Once nobody knows what an earlier one did."""

    def written(self, value: Any) -> bytes:
        """*value* as JSON. Raises `ValueError` where it is of another type than its output, or would be read so."""
        assert self.output is not None, "an action and a signal have a type"
        return kept(self.output, value)[0]  # What nobody could read is never sent.

    def misfit(self, text: str | bytes) -> str:
        """Why *text* (JSON) is not of the type of its output, and could not be read again; empty where it is."""
        assert self.output is not None, "an action and a signal have a type"
        return misfit(self.output, text)


def step(
    action: StepFunction,
    *,
    name: str | None = None,
    compensate: StepFunction | None = None,
    status: StepFunction | None = None,
    after: Iterable[str] | str | None = None,
    pivot: bool = False,
    on_unknown: OnUnknown | str | None = None,
    retry: Attempts | None = None,
    undo_retry: Attempts | None = None,
    timeout_s: float = limits.STEP_TIMEOUT_S,
    participant: str = "",
) -> StepDefinition:
    """A step that calls *action*; its name is the function's unless *name* is given.

    *compensate* undoes it, and must bear that there is nothing to undo (see the barrier). *pivot*: once it is done, the
    saga only goes forward. *on_unknown*: what is done where nobody knows whether it happened: "compensate" (the default
    of a step with a compensation), "retry" it (it is idempotent; the default otherwise), or "ask" *status*, which
    returns a `Status`, and the step's output with `Status.DONE`. *retry* and *undo_retry*: how often. *participant*:
    whom it calls; calls to one participant share a budget (`Settings.budgets`) and a breaker.

    An action raises `Refused` for a no that stays a no, and `Unavailable` where nothing happened and asking again can
    help; anything else that it raises means that nobody knows.
    """
    for function, role in ((action, "action"), (compensate, "compensation"), (status, "status")):
        if function is not None or role == "action":
            checked.function(function, role)
    called = checked.step_name(_own_name(action) if name is None else name)
    if on_unknown is None:
        chosen = OnUnknown.ASK if status else OnUnknown.COMPENSATE if compensate and not pivot else OnUnknown.RETRY
    elif on_unknown in tuple(OnUnknown):
        chosen = OnUnknown(on_unknown)
    else:
        known = ", ".join(repr(each.value) for each in OnUnknown)
        raise InvalidDefinition(f"step {called!r}: on_unknown is one of {known}, not {on_unknown!r}")
    if type(pivot) is not bool:
        raise InvalidDefinition(f"step {called!r}: pivot is True or False, not {pivot!r}")
    if chosen is OnUnknown.ASK and status is None:
        raise InvalidDefinition(f"step {called!r} is to be asked about (on_unknown='ask'), and has no status=")
    checked.seconds(f"step {called!r}: timeout_s", timeout_s, above=0.0)
    checked.attempts(called, "retry", retry)
    checked.attempts(called, "undo_retry", undo_retry)
    if not isinstance(participant, str):
        raise InvalidDefinition(f"step {called!r}: a participant is named by text, not by {participant!r}")
    return StepDefinition(
        name=StepName(called),
        kind=Kind.ACTION,
        action=action,
        compensate=compensate,
        status=status,
        after=_names(after),
        pivot=pivot,
        on_unknown=chosen,
        retry=retry,
        undo_retry=undo_retry or PATIENT,
        timeout_s=timeout_s,
        participant=participant,
    )


def sleep(name: str, seconds: float, *, after: Iterable[str] | str | None = None) -> StepDefinition:
    """A step that is done *seconds* after it was reached, whatever restarts meanwhile."""
    checked.seconds(f"step {name!r} sleeps for", seconds)
    return StepDefinition(name=StepName(checked.step_name(name)), kind=Kind.SLEEP, after=_names(after), wait_s=seconds)


def await_signal(
    name: str, *, within: float | None = None, of: Any = None, after: Iterable[str] | str | None = None
) -> StepDefinition:
    """A step that is done when the signal *name* comes; its output is the signal's payload, of the type *of*.

    Without it *within* seconds the step is refused, and the saga is undone. (None waits for ever.)
    """
    if within is not None:
        checked.seconds(f"step {name!r} waits for its signal for", within, above=0.0)
    made = StepDefinition(
        name=StepName(signal_name(name)), kind=Kind.SIGNAL, after=_names(after), wait_s=within, signal=name
    )
    made.output = adapter(f"the signal {name!r}", Any if of is None else of)
    return made


def signal_name(given: Any) -> str:
    """The name of a signal that whoever knows its saga may send. Raises `InvalidDefinition` where it is none."""
    name = checked.step_name(given)
    if not name or name.startswith((CONTROL, REPLY)):
        raise InvalidDefinition(
            f"a signal's name does not begin with {CONTROL!r}, as operators' words do, or with {REPLY!r}, as replies "
            f"do, and is not empty: {name!r}"
        )
    return name


def _names(after: Iterable[str] | str | None) -> tuple[str, ...] | None:
    if after is None:
        return None
    names = (after,) if isinstance(after, str) else tuple(after) if isinstance(after, Iterable) else (after,)
    for each in names:
        if not isinstance(each, str):
            raise InvalidDefinition(f"after= takes the names of steps, and not {each!r}")
    return names


def title(function: StepFunction) -> str:
    """What it is called, for people."""
    return str(_own_name(function) or repr(function))


def _own_name(function: StepFunction) -> str | None:
    """The name that it has in every process; None where it has none. (A `partial` has its function's.)"""
    return getattr(getattr(function, "func", function), "__name__", None)
