"""What a delivery may do, from the records of its step alone. No database, no clock.

Each delivery has a record of its own, and the first one of a step (an action, a try, a message) is the step's *origin*.
An undo that finds no origin puts one there, `blocked`, in the transaction of its own record: so a late action meets it.
How the step ended stands in the origin too, because a confirmation and a cancellation then meet at one row.
"""

import hashlib
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from enum import StrEnum

from coordinator import limits
from coordinator.errors import InDoubt, InvalidDefinition, KeyReused, Refused, Replaced
from coordinator.sagas.messages import Headers, command_of


class Direction(StrEnum):
    """What a delivery does for its step."""

    ACTION = "action"
    COMPENSATION = "compensation"
    TRY = "try"
    CONFIRM = "confirm"
    CANCEL = "cancel"
    MESSAGE = "message"

    @property
    def origin(self) -> "Direction":
        """The delivery that this one answers to; itself where it is the first of its step."""
        return _ORIGINS.get(self, self)

    @property
    def undoes(self) -> bool:
        """Whether it takes the origin back, and so must be safe where the origin never came."""
        return self in (Direction.COMPENSATION, Direction.CANCEL)


_ORIGINS = {
    Direction.COMPENSATION: Direction.ACTION,
    Direction.CONFIRM: Direction.TRY,
    Direction.CANCEL: Direction.TRY,
}


class State(StrEnum):
    """What a record says."""

    INTENDED = "intended"
    DONE = "done"
    REFUSED = "refused"
    BLOCKED = "blocked"
    UNDONE = "undone"
    CONFIRMED = "confirmed"


class Verdict(StrEnum):
    """What the handler of a delivery does now. Whatever it is, its transaction is committed."""

    PROCEED = "proceed"
    """Have the effect: nobody had it before."""
    DUPLICATE = "duplicate"
    """Have none: it was had, or refused, before. Answer with the stored result."""
    NOTHING_TO_UNDO = "nothing-to-undo"
    """Have none: what is to be undone never happened, and never will. That is success."""
    TOO_LATE = "too-late"
    """Have none: the step has ended the other way. Refuse the delivery."""
    UNSETTLED = "unsettled"
    """Repeat the effect, idempotently: an earlier delivery wrote its marker, and nobody knows how far it got."""


class Standing(StrEnum):
    """What became of an action, a try or a message, for whoever asks (a step's `status=`)."""

    DONE = "done"
    NEVER = "never"
    """It has no effect and never will have: also not by a delivery that is still under way."""
    UNKNOWN = "unknown"
    """Its marker is open: how far it got is known only outside of this database."""


@dataclass(frozen=True, slots=True)
class Call:
    """One delivery: which step of which transaction, what it does, for whom. There is no attempt in it."""

    gid: str
    step: str
    direction: Direction
    payload: bytes = b""
    term: int = 0

    @classmethod
    def message(cls, identifier: str, payload: bytes | None = b"") -> "Call":
        """The delivery of a message, whose id is all its key."""
        return cls(identifier, "", Direction.MESSAGE, payload or b"")

    @classmethod
    def command(cls, headers: Headers) -> "Call":
        """The delivery of a saga's command, or of what undoes it. Raises `ValueError` for a record that is neither.

        What it says is not compared: a saga may have built it again, and it is the same command.
        """
        gid, step, direction = command_of(headers)
        return cls(gid, step, Direction(direction))

    @property
    def fingerprint(self) -> bytes:
        """What tells another payload under the same key."""
        return hashlib.sha256(self.payload).digest()

    def __str__(self) -> str:
        return f"{self.direction} of {self.gid}" + (f", step {self.step}" if self.step else "")


def key_of(scope: str, call: Call) -> tuple[str, str, str]:
    """What a step's records stand under. Raises `InvalidDefinition` where no index takes it: too long, or no text."""
    key = (scope, call.gid, call.step)
    text = "".join(key)
    stored = text.encode(errors="replace")
    if "\0" in text or stored.decode() != text:
        raise InvalidDefinition(f"a NUL, or half of a surrogate pair, is in scope, id or step: {str(call)!r:.200}")
    if len(stored) > (bound := limits.BARRIER_KEY_BYTES_MAX):
        raise InvalidDefinition(f"scope, id and step are {len(stored)} bytes, above {bound}: {str(call)!r:.200}")
    return key


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a step. A `blocked` origin has no fingerprint: nobody knows its payload yet."""

    state: State
    term: int
    fingerprint: bytes | None = None
    result: bytes | None = None
    age_s: float = field(default=0.0, compare=False)
    """For how long nothing was recorded here. Nothing is decided by it."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict, and the move of the origin that it depends on: where another was faster, it is decided again."""

    verdict: Verdict
    origin_from: State | None = None
    origin_to: State | None = None


def decide(call: Call, placed: Set[Direction], records: Mapping[Direction, Record]) -> Decision:
    """The verdict for *call*, given every record of its step, and which of them the call itself has just *placed*.

    Raises `Replaced` where a higher term was here, `KeyReused` where the same key had another payload, and `Refused`
    where something is confirmed that is not there or not settled. The call's transaction must then be rolled back.
    """
    _refuse_zombie(call, records)
    own = records[call.direction]
    first = call.direction in placed
    if not first and own.fingerprint not in (None, call.fingerprint):
        raise KeyReused(f"the {call} came before, with another payload")
    if call.direction is call.direction.origin:
        return Decision(Verdict.PROCEED if first else _ON_ORIGIN_AGAIN[own.state])
    origin = records.get(call.direction.origin)
    if call.direction.undoes:
        assert origin is not None, "an undo puts the origin there that it does not find"
        return _undo(first, own, origin)
    return _confirm(call, first, own, origin)


_ON_ORIGIN_AGAIN = {
    State.INTENDED: Verdict.UNSETTLED,
    State.DONE: Verdict.DUPLICATE,
    State.REFUSED: Verdict.DUPLICATE,
    State.CONFIRMED: Verdict.DUPLICATE,
    State.BLOCKED: Verdict.TOO_LATE,
    State.UNDONE: Verdict.TOO_LATE,
}


def _undo(first: bool, own: Record, origin: Record) -> Decision:
    match origin.state:
        case State.DONE | State.INTENDED:  # Intended: it may have happened, so it is undone.
            return Decision(Verdict.PROCEED, origin.state, State.UNDONE)
        case State.BLOCKED | State.REFUSED:
            return Decision(Verdict.NOTHING_TO_UNDO if first else Verdict.DUPLICATE)
        case State.UNDONE:
            return Decision(_repeated(first, own))
        case State.CONFIRMED:
            return Decision(Verdict.TOO_LATE)


def _confirm(call: Call, first: bool, own: Record, origin: Record | None) -> Decision:
    if origin is None:
        raise Refused(f"the {call} came, and its try is not here: it was lost, or forgotten")
    match origin.state:
        case State.DONE:
            return Decision(Verdict.PROCEED, origin.state, State.CONFIRMED)
        case State.INTENDED:
            raise Refused(f"the {call} came, and its try is not settled")
        case State.CONFIRMED:
            return Decision(_repeated(first, own))
        case State.BLOCKED | State.REFUSED | State.UNDONE:
            return Decision(Verdict.TOO_LATE)


def _repeated(first: bool, own: Record) -> Verdict:
    return Verdict.UNSETTLED if own.state is State.INTENDED and not first else Verdict.DUPLICATE


def _refuse_zombie(call: Call, records: Mapping[Direction, Record]) -> None:
    highest = max(record.term for record in records.values())
    if call.term < highest:
        raise Replaced(f"the {call} came from term {call.term}, and term {highest} was here before")


def forgotten(call: Call, age_s: float, retention_s: float) -> InDoubt:
    """What is said of a step that is not here, where its transaction is *age_s* old, and that is not young enough."""
    return InDoubt(
        f"of the {call} no action, try or message is here. It may never have come; or it came and the barrier has "
        f"forgotten it, since that forgets after {_days(retention_s)}, and the transaction is {_days(age_s)} old. Look "
        "whether its effect stands; take that back by hand, and `coordinator sagas skip` the step. Give the barrier a "
        "retention_s that is longer than the longest saga",
        gid=call.gid,
    )


def _days(seconds: float) -> str:
    return f"{seconds / 86_400:.1f} days" if seconds >= 86_400 else f"{seconds:.0f} s"


def standing(call: Call, records: Mapping[Direction, Record]) -> Standing:
    """What became of an origin. Raises `Replaced` where a higher term was here."""
    _refuse_zombie(call, records)
    return STANDING[records[call.direction].state]


STANDING = {
    State.INTENDED: Standing.UNKNOWN,
    State.DONE: Standing.DONE,
    State.CONFIRMED: Standing.DONE,
    State.REFUSED: Standing.NEVER,
    State.BLOCKED: Standing.NEVER,
    State.UNDONE: Standing.NEVER,
}


def settled(call: Call, own: Record | None) -> Verdict:
    """What settling finds where the marker is not `intended` any more, or was never there."""
    if own is None:
        raise Refused(f"the {call} is settled, and its marker is not here: intend it first")
    return Verdict.TOO_LATE if own.state in (State.UNDONE, State.BLOCKED) else Verdict.DUPLICATE
