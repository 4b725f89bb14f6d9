"""The barrier's table in memory: its rows, its unique index, and transactions that wait for each other at both.

For tests of handlers without a database: `Barrier("scope", Memory())`, on connections that are `MemoryConnection()`.
It is a driver, so everything above the table is the real barrier. Nothing is ever purged.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from participants.barrier.barrier import SQL
from participants.barrier.decision import Direction, Record, State

Key = tuple[str, ...]
Row = tuple[bool, str, str, int, bytes | None, bytes | None]


class MemoryConnection:
    """A connection to the rows of a `Memory`; what its caller puts into *at_commit* is called with them."""

    def __init__(self) -> None:
        self.written: dict[Key, Record] | None = None
        self.at_commit: list[Callable[[], None]] = []
        self.ended = asyncio.Event()


class Memory:
    """The committed rows, and who holds one that is not committed yet. *now_s* is the server's clock, in Unix time."""

    def __init__(self, now_s: Callable[[], float] = time.time) -> None:
        self._now_s = now_s
        self.committed: dict[Key, Record] = {}
        self._holders: dict[Key, MemoryConnection] = {}

    async def in_transaction(self, connection: MemoryConnection) -> bool:
        """Whether a block of it is open."""
        return self.is_open(connection)

    def is_open(self, connection: MemoryConnection) -> bool:
        """Whether a block of it is open."""
        return connection.written is not None

    def transaction(self, connection: MemoryConnection) -> AbstractAsyncContextManager[Any]:
        """A block: committed at its end, and rolled back by any error."""
        return self._transaction(connection)

    async def rows(self, connection: MemoryConnection, statement: str, *arguments: Any) -> Sequence[Any]:
        """What the statement would give."""
        assert connection.written is not None, "a statement has a transaction"
        (name,) = [name for name, text in SQL.items() if text == statement]
        step, more = arguments[:3], arguments[3:]
        match name:
            case "place":
                return await self._place(connection, step, [(more[0], more[1], more[3])], more[2])
            case "place_undo":
                rows = [(more[4], State.BLOCKED, None), (more[0], more[1], more[3])]
                return await self._place(connection, step, rows, more[2])
            case "unplace":
                return self._unplace(connection, step, *more)
            case "look":
                return self._look(connection, step)
            case "move":
                direction, before, after = more
                return await self._update(connection, (*step, direction), before, state=State(after))
            case "keep":
                direction, before, after, result = more
                if before != State.INTENDED and (*step, direction) not in connection.written:
                    return []
                return await self._update(connection, (*step, direction), before, state=State(after), result=result)
            case "refresh":
                direction, term = more
                return await self._update(connection, (*step, direction), None, term=term)
            case _:
                raise AssertionError(f"the barrier has a statement {name!r} that its twin in memory does not know")

    @asynccontextmanager
    async def _transaction(self, connection: MemoryConnection) -> AsyncIterator[None]:
        connection.written, connection.at_commit, connection.ended = {}, [], asyncio.Event()
        try:
            yield
            self.committed |= connection.written
            for effect in connection.at_commit:
                effect()
        finally:
            connection.written = None
            self._holders = {key: holder for key, holder in self._holders.items() if holder is not connection}
            connection.ended.set()

    async def _place(self, connection: MemoryConnection, step: Key, rows: Any, term: int) -> Sequence[Row]:
        snapshot = self._look(connection, step)  # Taken before it waits, as PostgreSQL does.
        placed = []
        for direction, state, fingerprint in rows:
            key = (*step, direction)
            await self._alone(connection, key)
            if self._read(connection, key) is None:
                record = Record(State(state), term, fingerprint)
                self._write(connection, key, record)
                placed.append(_row(True, direction, record))
        return [*placed, *snapshot]

    def _unplace(
        self, connection: MemoryConnection, step: Key, directions: Sequence[str], made_s: float, young_s: float
    ) -> Sequence[tuple[float]]:
        assert connection.written is not None
        age_s = self._now_s() - made_s
        if age_s <= young_s:
            return []
        for direction in directions:
            del connection.written[(*step, direction)]
        return [(age_s,)]

    async def _update(
        self, connection: MemoryConnection, key: Key, before: str | None, **changes: Any
    ) -> Sequence[tuple[str]]:
        await self._alone(connection, key)
        record = self._read(connection, key)
        if record is None or before not in (None, record.state):
            return []
        values: dict[str, Any] = {"state": record.state, "term": record.term, "result": record.result} | changes
        if values["term"] < record.term:
            return []
        self._write(connection, key, Record(values["state"], values["term"], record.fingerprint, values["result"]))
        return [(key[-1],)]

    async def _alone(self, connection: MemoryConnection, key: Key) -> None:
        while (holder := self._holders.get(key)) is not None and holder is not connection:
            await holder.ended.wait()

    def _look(self, connection: MemoryConnection, step: Key) -> list[Row]:
        found = [(direction, self._read(connection, (*step, direction))) for direction in Direction]
        return [_row(False, direction, record) for direction, record in found if record is not None]

    def _read(self, connection: MemoryConnection, key: Key) -> Record | None:
        assert connection.written is not None
        return connection.written.get(key, self.committed.get(key))

    def _write(self, connection: MemoryConnection, key: Key, record: Record) -> None:
        assert connection.written is not None
        connection.written[key] = record
        self._holders[key] = connection


def _row(placed: bool, direction: str, record: Record) -> Row:
    return (placed, direction, record.state.value, record.term, record.fingerprint, record.result)
