"""What happened to a saga, as its log keeps it: one JSON object for each fact, with the step's output if it has one."""

import json
from typing import Any, NamedTuple

from coordinator.protocol.saga import (
    Cancelled,
    Done,
    Refused,
    Resumed,
    SagaEvent,
    Skipped,
    Stuck,
    Undone,
    Unknown,
    Waiting,
)
from coordinator.protocol.saga_shape import StepName

_NAMES: dict[type[Any], str] = {
    Done: "done",
    Refused: "refused",
    Unknown: "unknown",
    Undone: "undone",
    Stuck: "stuck",
    Waiting: "waiting",
    Cancelled: "cancelled",
    Resumed: "resumed",
    Skipped: "skipped",
}


class Happened(NamedTuple):
    """A fact; the step's output as JSON, where it has one; the id of the signal that it comes from, if it does; and the
    output as later steps take it.
    """

    event: SagaEvent
    output: bytes | None = None
    signal: int | None = None
    value: Any = None


def encode(happened: Happened) -> str:
    """As JSON."""
    event, output, signal, _ = happened
    if type(event) is Done and signal is None:  # What happens most often, and by far.
        return f'{{"t":"done","s":"{event.step}","o":{output.decode() if output else "null"}}}'
    told: dict[str, object] = {"t": _NAMES[type(event)]}
    if not isinstance(event, Cancelled | Resumed):
        told["s"] = event.step
    if isinstance(event, Waiting):
        told["u"] = event.until_s
    elif not isinstance(event, Done | Undone):
        told["r"] = event.reason
    if signal is not None:
        told["n"] = signal
    text = json.dumps(told, separators=(",", ":"))
    return f'{text[:-1]},"o":{output.decode()}}}' if output else text


def decode(text: str) -> tuple[SagaEvent, Any, int | None]:
    """The event, the step's output as plain JSON (None where it has none), and the signal that it comes from."""
    told = json.loads(text)
    step, reason = StepName(told.get("s", "")), told.get("r", "")
    made: SagaEvent
    match told["t"]:
        case "done":
            made = Done(step)
        case "undone":
            made = Undone(step)
        case "waiting":
            made = Waiting(step, told["u"])
        case "cancelled":
            made = Cancelled(reason)
        case "resumed":
            made = Resumed(reason)
        case "refused":
            made = Refused(step, reason)
        case "unknown":
            made = Unknown(step, reason)
        case "stuck":
            made = Stuck(step, reason)
        case "skipped":
            made = Skipped(step, reason)
        case other:
            raise ValueError(f"this code knows no event {other!r} of a saga: it was written by a later version")
    return made, told.get("o"), told.get("n")
