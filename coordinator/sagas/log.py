"""What the saga engine asks of its log: a small port, with an in-memory twin that is held to the same tests."""

from collections.abc import Awaitable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(slots=True, kw_only=True)
class NewSaga:
    """A saga to be started: *definition* is what it is pinned to, *fingerprint* is of its input (JSON).

    Treat it as a value. (A frozen one takes twice as long to make, and each saga makes one.)
    """

    gid: str
    name: str
    definition: str
    key: str | None
    fingerprint: str
    input: str
    deadline_s: float | None = None
    """Seconds from now, by the database's clock."""


@dataclass(slots=True, kw_only=True)
class Standing:
    """The saga that stands for a name and key: ours, or an earlier one. Treat it as a value, as `NewSaga`."""

    number: int
    gid: str
    fingerprint: str
    ours: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A saga as its log has it. *at_s*: when that was, by `SagaLog.now_s`. *left_s*: seconds until its deadline.

    *signalled*: how many signals it was sent. *doubtful*: what was ready when its last driver let go of it, or was
    lost, may have been begun. *adoptions*: how often in a row it was taken over from a process that was lost, and
    nothing was written of it. *reigns*: how often somebody began to drive it, or to go on with it.
    """

    number: int
    gid: str
    name: str
    definition: str
    key: str | None
    input: str
    events: Sequence[str]
    ended: bool
    owner: str
    at_s: float
    signalled: int = 0
    left_s: float | None = None
    doubtful: bool = False
    adoptions: int = 0
    reigns: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """One signal that was sent to a saga; *payload* is JSON."""

    id: int
    name: str
    payload: str


@dataclass(frozen=True, slots=True)
class Freed:
    """By whom a parked saga is let go on, and why."""

    by: str
    why: str


@dataclass(frozen=True, slots=True)
class Rest:
    """A saga that is to be nobody's: until so many seconds from now, or until it was sent more than *seen* signals.

    *reign*: the one that lets go. Where another one has begun meanwhile, nothing is changed: it came late.
    """

    number: int
    reign: int
    seen: int
    wake_in_s: float | None
    doubtful: bool = False


class SagaLog(Protocol):
    """The durable memory of sagas. Everything is written only while this process holds its term: else `Replaced`."""

    def start(self, saga: NewSaga) -> Awaitable[Standing]:
        """Begin *saga*, unless one of its name and key stands: the first one wins, and is returned, once durable."""
        ...

    def crowded(self) -> str | None:
        """Why nothing should begin that would have to wait here; None while it keeps up."""
        ...

    def append(
        self, number: int, position: int, event: str, *, final: bool = False, freed: Freed | None = None
    ) -> Awaitable[None]:
        """Write that *event* happened, as number *position* of its saga; done once it is durable. May be repeated.

        *freed*: it was parked until now. Its alert is closed in the same commit: the event may be its last one, and
        then nobody takes it up any more who could close it.
        """
        ...

    async def suspend(self, rest: Rest) -> None:
        """Nobody drives it any more until its time comes. May be repeated."""
        ...

    async def awake(self, definitions: Collection[str], at_most: int) -> Sequence[Loaded]:
        """Make sagas ours whose time has come, of these definitions only; each by exactly one process."""
        ...

    async def adopt(self, definitions: Collection[str], at_most: int, *, suspects: bool = False) -> Sequence[Loaded]:
        """Make unfinished sagas of owners ours that were taken over, by whomever, of these definitions only.

        They are doubtful from here on. Each time is counted but for owners that stopped in an orderly way: one that
        kills whoever drives it is told by that. *suspects* are those that it has been counted of often, and may be
        called; they are adopted by themselves, and all others without them.
        """
        ...

    async def release(self, numbers: Collection[int], doubtful: Collection[int] = ()) -> None:
        """Let others have these sagas at once, some of them *doubtful*: this process stops."""
        ...

    async def load(self, gid: str) -> Loaded | None:
        """One saga, whoever drives it."""
        ...

    async def find(self, name: str, key: str) -> Loaded | None:
        """The saga of this name and key."""
        ...

    async def send(self, gid: str, name: str, payload: str) -> bool:
        """Send a signal; whether there is such a saga that has not ended, nor was sent too many.

        Operators' words are never too many, nor is the first reply to a command.
        """
        ...

    async def signals(self, number: int) -> Sequence[Signal]:
        """All signals that the saga was sent, the oldest first."""
        ...

    async def unheard(self, heard: Mapping[int, int]) -> Sequence[int]:
        """The numbers of those of these sagas that were sent more signals than so many."""
        ...

    async def strays(self, definitions: Collection[str], busy: Collection[int], at_most: int) -> Sequence[Loaded]:
        """Take up unfinished sagas of ours that are none of *busy*: the answer to their start or takeover was lost."""
        ...

    async def purge(self) -> int:
        """Forget sagas that ended longer ago than is remembered, a batch at a time; how many."""

    async def now_s(self) -> float:
        """Seconds since 1970, by the one clock that all who use this log go by."""
        ...

    async def know(self, pivots: Mapping[str, str | None]) -> None:
        """Let operators see which definitions this process has, and the pivot of each that has one."""
        ...

    async def tidy(self) -> None:
        """Remember where our unfinished sagas begin, so that a successor need not look at all that have ended."""
        ...
