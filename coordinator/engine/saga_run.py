"""One saga as this process runs it: its state, its outputs, and what is in flight of it here."""

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import from_json, to_json

from coordinator import limits
from coordinator.errors import InvalidDefinition, Refused
from coordinator.keys import check_key
from coordinator.ports import Lease
from coordinator.protocol.saga import Done, Phase, Resumed, SagaState, Skipped, doubted, evolve, may_have_begun
from coordinator.protocol.saga_shape import StepName
from coordinator.sagas.definition import Saga
from coordinator.sagas.events import Happened, decode
from coordinator.sagas.log import Loaded, NewSaga, Signal
from coordinator.sagas.steps import REQUEST
from coordinator.sagas.values import kept, read, write


class Halted(Exception):
    """This process stops: a call was not made."""


class CalledOff(Halted):
    """A call was not made: its saga turned back, or is to, while it waited for its turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaOutcome:
    """How a saga ended, or where it stands: *outputs* by step, of those that are done."""

    gid: str
    phase: Phase
    outputs: Mapping[str, Any]
    reason: str = ""

    @property
    def completed(self) -> bool:
        """Whether every step happened."""
        return self.phase is Phase.COMPLETED


@dataclass(slots=True)
class SagaRun:
    """A saga being driven here."""

    saga: Saga
    number: int
    gid: str
    values: dict[str, Any]
    """The input, and the outputs of the steps that are done: what calls take their arguments from."""
    state: SagaState
    position: int = 0
    term: int = 1
    """Participants turn away whoever has a lower one: each who goes on with the saga has a higher one."""
    begun: set[StepName] = field(default_factory=set)
    """Actions that were called here, but for those of which it is known that nothing has happened yet."""
    deadline_s: float = float("inf")
    """On this process' monotonic clock. There is none any more once an operator has said how it goes on."""
    signalled: int = 0
    """How many signals have been read; what came later is still to be looked at."""
    signals: list[Signal] = field(default_factory=list)
    """Those that nothing has come of yet."""
    consumed: set[int] = field(default_factory=set)
    """The ids of those that something has come of."""
    flying: dict[StepName, "asyncio.Task[Happened]"] = field(default_factory=dict)
    held: dict[StepName, Happened] = field(default_factory=dict)
    """What will park it, once all that is in flight has settled."""
    nudged: asyncio.Event | None = None
    rushed: asyncio.Event | None = None
    """What cuts the pauses short that are made now."""
    doubted: bool = False
    """Whether somebody who drove it before was lost, or cut off, and left it in doubt."""
    let_go: bool = False
    """Whether what drives it here is cut off by us: no failure of its own."""
    told: bool = False
    """Whether a signal was sent to it here, and has not been read."""
    lease: Lease | None = None
    """Under which it was taken up here."""
    waiters: list["asyncio.Future[SagaOutcome]"] = field(default_factory=list)

    def hurry(self) -> None:
        """Cut short whatever pauses it makes now; later ones last as long as they do."""
        if self.rushed is not None:
            self.rushed.set()
            self.rushed = None

    def unsettled(self) -> frozenset[StepName]:
        """Actions that may have happened, and nobody has written yet what became of them."""
        return may_have_begun(self.saga.shape, self.state) & (self.begun | self.state.doubtful)

    def outcome(self) -> SagaOutcome:
        """Where it stands."""
        outputs = self.values.copy()
        outputs.pop(REQUEST, None)
        return SagaOutcome(gid=self.gid, phase=self.state.phase, outputs=outputs, reason=self.state.reason)


def restored(saga: Saga, loaded: Loaded, *, now_s: float, lease: Lease | None = None) -> SagaRun:
    """The run of a saga as its log has it, *doubtful* or not. *now_s*: this process' monotonic clock.

    *lease*: the one that it is driven under, if it is. Raises `InvalidDefinition` where this code cannot read what an
    earlier one has kept.
    """
    values: dict[str, Any] = {
        REQUEST: None if saga.input is None else _kept(saga.input, saga, loaded, "input", loaded.input)
    }
    deadline_s = float("inf") if loaded.left_s is None else now_s + loaded.left_s
    state, consumed = saga.beginning, set[int]()
    for text in loaded.events:
        event, output, signal = decode(text)
        state = evolve(saga.shape, state, event)
        if signal is not None:
            consumed.add(signal)
        if isinstance(event, Resumed | Skipped):
            deadline_s = float("inf")
        if '"o":' in text and isinstance(event, Done):
            kind = saga.steps[event.step].output
            # As JSON again: a strict type takes from it what it would not take from a plain value.
            values[event.step] = output if kind is None else _kept(kind, saga, loaded, event.step, to_json(output))
        elif isinstance(event, Skipped):
            values.setdefault(event.step, None)
    if loaded.doubtful:
        state = doubted(saga.shape, state)
    return SagaRun(
        saga=saga,
        number=loaded.number,
        gid=loaded.gid,
        values=values,
        state=state,
        position=len(loaded.events),
        term=loaded.reigns,
        consumed=consumed,
        lease=lease,
        deadline_s=deadline_s,
        doubted=loaded.doubtful,
    )


def _kept(kind: TypeAdapter[Any], saga: Saga, loaded: Loaded, what: str, text: str | bytes) -> Any:
    try:
        return read(kind, text)
    except ValueError as unreadable:
        raise InvalidDefinition(
            f"saga {loaded.gid} cannot be gone on with here: its {what!r} was kept as another type than "
            f"{saga.label} has by now. Give the changed definition another version, and register both",
            gid=loaded.gid,
        ) from unreadable


def new_saga(saga: Saga, value: Any, *, key: str | None, gid: str) -> tuple[NewSaga, Any]:
    """A saga to be begun, and its input as steps take it. Raises as `input_of` does, and for a key that is no text."""
    text, checked = input_of(saga, value)
    check_key(key)
    new = NewSaga(
        gid=gid,
        name=saga.name,
        definition=saga.identity,
        key=key,
        fingerprint=hashlib.sha256(text).hexdigest(),
        input=text.decode(),
        deadline_s=saga.deadline_s,
    )
    return new, checked


def input_of(saga: Saga, value: Any) -> tuple[bytes, Any]:
    """The input as JSON, and as steps take it.

    Raises `InvalidDefinition` for another type, and where steps would be given another value; `Refused` for its size.
    """
    if saga.input is None:
        if value is not None:
            raise InvalidDefinition(f"saga {saga.name!r} takes no input: none of its steps does")
        return b"null", None
    try:
        text, checked = kept(saga.input, value)  # What nobody could read is never written.
    except ValueError as wrong:
        raise InvalidDefinition(f"the input of saga {saga.name!r} is of another type: {wrong}") from wrong
    if len(text) > limits.SAGA_INPUT_BYTES_MAX:
        raise Refused(f"an input of {len(text)} bytes is above the limit of {limits.SAGA_INPUT_BYTES_MAX}")
    return text, checked


def same_input(saga: Saga, new: NewSaga, stands: Loaded | None) -> bool:
    """Whether the saga that *stands* has the same input after all: equal values may be written in another order, and
    a field that its type did not have yet has its default.

    What only Python takes for equal (1, 1.0 and True; what a class leaves out of its comparison) is not.
    """
    kind = saga.input
    if stands is None or kind is None:
        return False
    try:
        one, other = read(kind, stands.input), read(kind, new.input)
        return bool(one == other) and _unordered(write(kind, one)) == _unordered(write(kind, other))
    except ValueError:
        return False


def _unordered(text: bytes) -> str:
    """The same for JSON in which only the order differs, also of lists: they may be sets."""
    return _sorted(from_json(text))


def _sorted(value: Any) -> str:
    match value:
        case dict():
            return f"{{{sorted((name, _sorted(each)) for name, each in value.items())}}}"
        case list():
            return f"[{sorted(map(_sorted, value))}]"
        case _:
            return repr(value)
