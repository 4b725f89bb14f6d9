"""The log of sagas in memory, held to the same tests as the one in PostgreSQL."""

import json
from collections.abc import Awaitable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from coordinator import limits
from coordinator.alerts import AlertKind
from coordinator.errors import Refused, Replaced
from coordinator.faults.points import boundary
from coordinator.journal.memory import MemoryAlerts, MemoryJournal
from coordinator.protocol.model import Gid
from coordinator.protocol.saga_shape import CONTROL
from coordinator.sagas.log import Freed, Loaded, NewSaga, Rest, Signal, Standing
from coordinator.sagas.steps import REPLY


@dataclass(slots=True)
class StoredSaga:
    """A saga in memory: its row, and what happened to it."""

    number: int
    saga: NewSaga
    owner: str
    term: int
    deadline_at_s: float | None
    created_s: float
    wake_at_s: float | None = None
    signalled: int = 0
    events: list[str] = field(default_factory=list)
    ended: bool = False
    signals: list[Signal] = field(default_factory=list)
    doubtful: bool = False
    adoptions: int = 0
    stood: int = 0
    reigns: int = 1


class MemorySagas:
    """`sagas.log.SagaLog` in a `MemoryWorld`."""

    def __init__(self, journal: MemoryJournal) -> None:
        self._journal, self._world = journal, journal.world
        self._sagas: dict[int, StoredSaga] = self._world.sagas

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close."""

    async def start(self, saga: NewSaga) -> Standing:
        """Begin *saga*, unless one of its name and key stands. See `SagaLog`."""

        async def insert() -> Standing:
            owner, term = self._owner()
            _check(saga.input)
            for stored in self._sagas.values():
                same_key = saga.key is not None and (stored.saga.name, stored.saga.key) == (saga.name, saga.key)
                if stored.saga.gid == saga.gid or same_key:
                    return self._standing(stored, saga)
            number = max(self._sagas, default=0) + 1
            at_s = None if saga.deadline_s is None else self._world.now_s() + saga.deadline_s
            self._sagas[number] = StoredSaga(number, saga, owner, term, at_s, self._world.now_s())
            return self._standing(self._sagas[number], saga)

        return await boundary("saga.start", insert, gid=saga.gid)

    def crowded(self) -> None:
        """It is never behind."""

    def append(
        self, number: int, position: int, event: str, *, final: bool = False, freed: Freed | None = None
    ) -> Awaitable[None]:
        """Write that *event* happened. See `SagaLog`."""

        async def write() -> None:
            self._owner()
            _check(event)
            stored = self._sagas[number]
            if position < len(stored.events):
                if stored.events[position] != event:
                    raise Replaced(f"saga {number} is driven by another process: its event {position} is not ours")
                return
            assert position == len(stored.events), "events are written in order"
            stored.events.append(event)
            stored.ended = stored.ended or final
            if freed is not None:
                alert = (Gid(stored.saga.gid), AlertKind.PARKED_SAGA)
                await MemoryAlerts(self._world).resolve_alert(*alert, by=freed.by, reason=freed.why)

        return boundary("saga.append", write)

    async def suspend(self, rest: Rest) -> None:
        """It is nobody's until its time comes."""

        async def let_go() -> None:
            stored, mine = self._sagas[rest.number], self._owner()
            if (stored.owner, stored.term, stored.reigns) != (*mine, rest.reign):
                return
            now_s = self._world.now_s()
            stored.owner, stored.doubtful = "", rest.doubtful
            stored.wake_at_s = None if rest.wake_in_s is None else now_s + rest.wake_in_s
            if stored.signalled > rest.seen:
                stored.wake_at_s = now_s

        await boundary("saga.suspend", let_go)

    async def awake(self, definitions: Collection[str], at_most: int) -> Sequence[Loaded]:
        """Make sagas ours whose time has come."""

        async def take() -> Sequence[Loaded]:
            now_s = self._world.now_s()
            due = [
                s for s in self._sagas.values() if s.owner == "" and s.wake_at_s is not None and s.wake_at_s <= now_s
            ]
            return self._take([s for s in due if s.saga.definition in definitions][:at_most])

        return await boundary("saga.awake", take)

    async def adopt(self, definitions: Collection[str], at_most: int, *, suspects: bool = False) -> Sequence[Loaded]:
        """Make unfinished sagas of the dead ours."""

        async def take() -> Sequence[Loaded]:
            self._owner()
            terms = {name: owner.term for name, owner in self._world.owners.items() if owner.taken_by is not None}
            found = [s for s in self._sagas.values() if terms.get(s.owner, 0) > s.term and not s.ended]
            suspected = range(limits.SAGA_SUSPECT, limits.ADOPTIONS_MAX)
            found = [s for s in found if (s.adoptions in suspected) is suspects]
            taken = [s for s in found if s.saga.definition in definitions][:at_most]
            for stored in taken:
                died = self._world.owners[stored.owner].lease_until_s != float("-inf")
                since = stored.adoptions if stored.stood == len(stored.events) else 0
                stored.doubtful, stored.stood, stored.adoptions = True, len(stored.events), since + died
            return self._take(taken)

        return await boundary("saga.adopt", take)

    async def release(self, numbers: Collection[int], doubtful: Collection[int] = ()) -> None:
        """Let others have these sagas at once."""
        mine = self._owner()
        for number in numbers:
            stored = self._sagas[number]
            if (stored.owner, stored.term) == mine:
                stored.owner, stored.wake_at_s, stored.doubtful = "", self._world.now_s(), number in doubtful

    async def load(self, gid: str) -> Loaded | None:
        """One saga, whoever drives it."""
        return next((self._loaded(s) for s in self._sagas.values() if s.saga.gid == gid), None)

    async def find(self, name: str, key: str) -> Loaded | None:
        """The saga of this name and key."""
        return next((self._loaded(s) for s in self._sagas.values() if (s.saga.name, s.saga.key) == (name, key)), None)

    async def send(self, gid: str, name: str, payload: str) -> bool:
        """Send a signal. See `SagaLog`."""

        async def tell() -> bool:
            _check(payload)
            stored = next((s for s in self._sagas.values() if s.saga.gid == gid and not s.ended), None)
            if stored is None:
                return False
            first = name.startswith(REPLY) and all(name != signal.name for signal in stored.signals)
            if stored.signalled >= limits.SAGA_SIGNALS_MAX and not (first or name.startswith(CONTROL)):
                return False
            stored.signalled += 1
            stored.signals.append(Signal(id=stored.signalled, name=name, payload=payload))
            if stored.owner == "":
                stored.wake_at_s = self._world.now_s()
            return True

        return await boundary("saga.signal", tell)

    async def signals(self, number: int) -> Sequence[Signal]:
        """All signals that the saga was sent."""
        return list(self._sagas[number].signals)

    async def unheard(self, heard: Mapping[int, int]) -> Sequence[int]:
        """Those that were sent more signals than so many."""
        return [number for number, read in heard.items() if self._sagas[number].signalled > read]

    async def strays(self, definitions: Collection[str], busy: Collection[int], at_most: int) -> Sequence[Loaded]:
        """Unfinished sagas of ours that nobody here drives. See `SagaLog`."""
        mine, now_s = self._owner(), self._world.now_s()
        found = [
            s
            for s in self._sagas.values()
            if (s.owner, s.term) == mine
            and not s.ended
            and s.number not in busy
            and s.created_s + limits.OWN_RECORD_IDLE_S < now_s
            and s.saga.definition in definitions
        ]
        return self._take(found[:at_most])

    async def purge(self, older_than_s: float = limits.SAGA_RETENTION_S) -> int:
        """Forget sagas that began longer ago than this and have ended; how many."""
        now_s = self._world.now_s()
        old = [s.number for s in self._sagas.values() if s.ended and s.created_s + older_than_s < now_s]
        for number in old:
            del self._sagas[number]
        return len(old)

    async def now_s(self) -> float:
        """Seconds since 1970."""
        return self._world.wall_s()

    async def know(self, pivots: Mapping[str, str | None]) -> None:
        """Nobody looks into this memory from outside."""

    async def tidy(self) -> None:
        """Nothing is to be saved: looking at all of memory costs nothing."""

    def _take(self, sagas: Sequence[StoredSaga]) -> Sequence[Loaded]:
        owner, term = self._owner()
        for stored in sagas:
            stored.owner, stored.term, stored.wake_at_s = owner, term, None
            stored.reigns += 1
        return [self._loaded(stored) for stored in sagas]

    def _loaded(self, stored: StoredSaga) -> Loaded:
        saga, at_s = stored.saga, stored.deadline_at_s
        return Loaded(
            number=stored.number,
            gid=saga.gid,
            name=saga.name,
            definition=saga.definition,
            key=saga.key,
            input=saga.input,
            events=list(stored.events),
            ended=stored.ended,
            owner=stored.owner,
            at_s=self._world.wall_s(),
            signalled=stored.signalled,
            left_s=None if at_s is None else at_s - self._world.now_s(),
            doubtful=stored.doubtful,
            reigns=stored.reigns,
            adoptions=stored.adoptions if stored.stood == len(stored.events) else 0,
        )

    def _standing(self, stored: StoredSaga, asked: NewSaga) -> Standing:
        found = stored.saga
        return Standing(number=stored.number, gid=found.gid, fingerprint=found.fingerprint, ours=found.gid == asked.gid)

    def _owner(self) -> tuple[str, int]:
        lease = self._journal.lease
        holder = None if lease is None else self._world.owners.get(lease.owner)
        if lease is None or holder is None or holder.term != lease.term:
            raise Replaced("this process has lost its term, or is no owner")
        return lease.owner, lease.term


def _check(text: str) -> None:
    """Refuses what PostgreSQL would not take for JSON."""
    try:
        json.loads(text, parse_constant=_none_such)
    except ValueError as wrong:
        raise Refused(f"the journal cannot store this: {wrong}") from wrong


def _none_such(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
