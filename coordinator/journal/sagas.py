"""The log of sagas in PostgreSQL: append-only, and concurrent sagas share every durable write.

A saga costs one row when it begins and one for each step; nothing of it is updated while it runs. The statements are in
`sagas.sql`.
"""

from collections.abc import Awaitable, Collection, Mapping, Sequence
from functools import partial
from json import dumps
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from coordinator import limits
from coordinator.alerts import AlertKind
from coordinator.errors import KeyReused, Replaced
from coordinator.faults.points import boundary
from coordinator.journal.database import JournalConnection
from coordinator.journal.group_commit import GroupCommit, close_all
from coordinator.journal.postgres import PostgresJournal
from coordinator.protocol.saga_shape import CONTROL
from coordinator.sagas.log import Freed, Loaded, NewSaga, Rest, Signal, Standing
from coordinator.sagas.steps import REPLY
from coordinator.schema import queries

SQL = queries(Path(__file__).with_name("sagas.sql"))

WRITERS = 2
"""Writers at once: while one waits for the disk, the other one's statement is carried out."""

_Append = tuple[int, int, str, bool]


class PostgresSagas:
    """`sagas.log.SagaLog` beside a journal, whose lease it writes under."""

    def __init__(self, journal: PostgresJournal, url: str) -> None:
        self._journal = journal
        self._forced = JournalConnection(url)
        self._writers = [JournalConnection(url) for _ in range(WRITERS)]
        self._queue: GroupCommit[NewSaga | _Append, Any] = GroupCommit(
            "journal: sagas", *(partial(self._flush, writer) for writer in self._writers)
        )
        self._resting: GroupCommit[Rest, None] = GroupCommit("journal: sagas that rest", self._suspend)

    async def open(self) -> None:
        """Nothing to open: the journal has brought the tables up to date."""

    async def close(self) -> None:
        """Write what waits, and let go of the connection. Idempotent."""
        await close_all([self._queue, self._resting], (*self._writers, self._forced))

    def start(self, saga: NewSaga) -> Awaitable[Standing]:
        """Begin *saga*, unless one of its name and key stands. See `SagaLog`."""
        return boundary("saga.start", partial(self._queue.put, saga), gid=saga.gid)

    def crowded(self) -> str | None:
        """Why nothing should begin: the log is behind."""
        return self._queue.crowded()

    def append(
        self, number: int, position: int, event: str, *, final: bool = False, freed: Freed | None = None
    ) -> Awaitable[None]:
        """Write that *event* happened. See `SagaLog`."""
        item = (number, position, event, final)
        write = partial(self._queue.write, item) if freed is None else partial(self._append_freed, item, freed)
        return boundary("saga.append", write)

    async def suspend(self, rest: Rest) -> None:
        """It is nobody's until its time comes. See `SagaLog`."""
        await boundary("saga.suspend", lambda: self._resting.put(rest))

    async def awake(self, definitions: Collection[str], at_most: int) -> Sequence[Loaded]:
        """Make sagas ours whose time has come."""
        return await boundary("saga.awake", lambda: self._take(SQL["awake"], definitions, at_most))

    async def adopt(self, definitions: Collection[str], at_most: int, *, suspects: bool = False) -> Sequence[Loaded]:
        """Make unfinished sagas of the dead ours. See `SagaLog`."""
        suspected = (limits.SAGA_SUSPECT, limits.ADOPTIONS_MAX, suspects)
        return await boundary("saga.adopt", lambda: self._take(SQL["adopt"], definitions, at_most, *suspected))

    async def release(self, numbers: Collection[int], doubtful: Collection[int] = ()) -> None:
        """Let others have these sagas at once. See `SagaLog`."""
        arguments = (list(numbers), *self._owner(), list(doubtful))
        await self._forced.run(lambda c: c.execute(SQL["release"], *arguments))

    async def load(self, gid: str) -> Loaded | None:
        """One saga, whoever drives it."""
        found = await self._load([], gid=gid)
        return found[0] if found else None

    async def find(self, name: str, key: str) -> Loaded | None:
        """The saga of this name and key."""
        found = await self._load([], name=name, key=key)
        return found[0] if found else None

    async def send(self, gid: str, name: str, payload: str) -> bool:
        """Send a signal. See `SagaLog`."""
        arguments = (gid, name, payload, limits.SAGA_SIGNALS_MAX, CONTROL, REPLY)
        sent = await boundary(
            "saga.signal", lambda: self._journal.questions.run(lambda c: c.fetchval(SQL["send"], *arguments))
        )
        return sent is not None

    async def signals(self, number: int) -> Sequence[Signal]:
        """All signals that the saga was sent."""
        rows = await self._journal.questions.run(lambda c: c.fetch(SQL["signals"], number))
        return [Signal(id=row["id"], name=row["name"], payload=row["payload"]) for row in rows]

    async def unheard(self, heard: Mapping[int, int]) -> Sequence[int]:
        """Those that were sent more signals than so many."""
        arguments = (list(heard), list(heard.values()))
        rows = await self._journal.questions.run(lambda c: c.fetch(SQL["unheard"], *arguments))
        return [row["number"] for row in rows]

    async def strays(self, definitions: Collection[str], busy: Collection[int], at_most: int) -> Sequence[Loaded]:
        """Unfinished sagas of ours that nobody here drives. See `SagaLog`."""
        arguments = (*self._owner(), list(definitions), list(busy), limits.OWN_RECORD_IDLE_S, at_most)
        rows = await self._forced.run(lambda c: c.fetch(SQL["strays"], *arguments))
        return await self._load([row["number"] for row in rows]) if rows else []

    async def purge(self, older_than_s: float = limits.SAGA_RETENTION_S) -> int:
        """Forget sagas that ended longer ago than this, a batch at a time; how many."""
        arguments = (older_than_s, limits.JOURNAL_BATCH_MAX)
        return int(await self._journal.lazy.run(lambda c: c.fetchval(SQL["purge"], *arguments)))

    async def now_s(self) -> float:
        """Seconds since 1970, by the database's clock."""
        return float(await self._journal.questions.run(lambda c: c.fetchval(SQL["now"])))

    async def know(self, pivots: Mapping[str, str | None]) -> None:
        """Let operators see which definitions this process has. See `SagaLog`."""
        owner, _ = self._owner()
        arguments = (owner, list(pivots), list(pivots.values()))
        await self._journal.questions.run(lambda c: c.execute(SQL["know"], *arguments))

    async def tidy(self) -> None:
        """Remember where our unfinished sagas begin."""
        owner, _ = self._owner()

        async def settled(connection: Any) -> Any:
            async with connection.transaction():
                await connection.execute(SQL["settled"], owner)
                return await connection.fetchrow(SQL["first"], owner)

        stood = await self._forced.run(settled)
        arguments = (owner, stood["first"], stood["taken"], stood["last"])
        await self._forced.run(lambda c: c.execute(SQL["tidy"], *arguments))

    async def _take(self, query: str, definitions: Collection[str], at_most: int, *suspected: int) -> Sequence[Loaded]:
        arguments = (*self._owner(), list(definitions), at_most, *suspected)
        rows = await self._forced.run(lambda c: c.fetch(query, *arguments))
        return await self._load([row["number"] for row in rows]) if rows else []

    async def _load(self, numbers: list[int], *, gid: str = "", name: str = "", key: str = "") -> Sequence[Loaded]:
        rows = await self._journal.questions.run(lambda c: c.fetch(SQL["load"], numbers, gid, name, key))
        return [Loaded(**dict(row)) for row in rows]

    async def _suspend(self, batch: Sequence[Rest]) -> Sequence[None]:
        arguments = (*self._owner(), to_json(batch).decode())
        await self._forced.run(lambda c: c.execute(SQL["suspend"], *arguments))
        return [None] * len(batch)

    async def _flush(self, writer: JournalConnection, batch: Sequence[NewSaga | _Append]) -> Sequence[Any]:
        if len(batch) == 1 and (alone := await self._flush_one(writer, batch[0])) is not None:
            return alone
        started: list[NewSaga] = []
        appended: list[_Append] = []
        for item in batch:
            started.append(item) if isinstance(item, NewSaga) else appended.append(item)
        rows = ("\x1e".join(map(_start_text, started)), "\x1e".join(map(_append_text, appended)))
        row = await writer.first(SQL["flush"], *self._owner(), *rows)
        if not row["held"]:
            raise Replaced("this process has lost its term: its sagas are another one's")
        refused = await self._refused(appended) if row["appended"] < len(appended) else {}
        numbers = dict(zip(row["gids"] or (), row["numbers"] or (), strict=True))
        standing = {
            saga.gid: _ours(saga, numbers[saga.gid]) if saga.gid in numbers else await self._stands(saga)
            for saga in started
        }
        return [standing[item.gid] if isinstance(item, NewSaga) else refused.get(item) for item in batch]

    async def _flush_one(self, writer: JournalConnection, item: NewSaga | _Append) -> Sequence[Any] | None:
        """What `_flush` returns; None where nothing was written, for whichever reason."""
        if isinstance(item, NewSaga):
            row = (item.gid, item.name, item.definition, item.key, item.fingerprint, item.input, item.deadline_s)
            begun = await writer.first(SQL["start_one"], *self._owner(), *row)
            return None if begun is None else [_ours(item, begun["number"])]
        return None if await writer.first(SQL["append_one"], *self._owner(), *item) is None else [None]

    async def _append_freed(self, item: _Append, freed: Freed) -> None:
        """Beside the queue: it is rare, and no other write closes alerts."""
        arguments = (*self._owner(), *item, freed.by, freed.why, AlertKind.PARKED_SAGA)
        if await self._forced.run(lambda c: c.fetchval(SQL["append_freed"], *arguments)) is None:
            for refused in (await self._refused([item])).values():
                raise refused

    async def _stands(self, saga: NewSaga) -> Standing | BaseException:
        """What stands in its place."""
        row: Any = await self._forced.run(lambda c: c.fetchrow(SQL["standing"], saga.gid, saga.name, saga.key))
        if row is None:
            return KeyReused(f"saga {saga.name!r} with key {saga.key!r} stood, and is gone", gid=saga.gid)
        return Standing(
            number=row["number"], gid=row["gid"], fingerprint=row["fingerprint"], ours=row["gid"] == saga.gid
        )

    async def _refused(self, appended: Sequence[_Append]) -> Mapping[_Append, Replaced]:
        """A write that is repeated finds itself; anything else at its place is another process' doing.

        Those that share the flush with such a one are none the worse for it.
        """
        places = ([item[0] for item in appended], [item[1] for item in appended])
        rows = await self._forced.run(lambda c: c.fetch(SQL["written"], *places))
        found = {(row["number"], row["position"]): row["event"] for row in rows}
        return {
            item: Replaced(f"saga {item[0]} is driven by another process: its event {item[1]} is not ours")
            for item in appended
            if found.get(item[:2]) != item[2]
        }

    def _owner(self) -> tuple[str, int]:
        lease = self._journal.lease
        if lease is None:
            raise Replaced("this process is no owner: it has not registered, or it has resigned")
        return lease.owner, lease.term


def _ours(saga: NewSaga, number: int) -> Standing:
    return Standing(number=number, gid=saga.gid, fingerprint=saga.fingerprint, ours=True)


def _start_text(saga: NewSaga) -> str:
    key = "null" if saga.key is None else dumps(saga.key)
    due = "" if saga.deadline_s is None else str(saga.deadline_s)
    return f"{saga.gid}\x1f{saga.name}\x1f{saga.definition}\x1f{key}\x1f{saga.fingerprint}\x1f{saga.input}\x1f{due}"


def _append_text(item: _Append) -> str:
    number, position, event, final = item
    return f"{number}\x1f{position}\x1f{event}\x1f{final}"
