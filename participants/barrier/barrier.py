"""The barrier: one call inside a participant's own transaction tells what a delivery may do there.

*Within*: the record and the effect are one transaction, so a rollback takes both back. *Intent*: the effect is outside
of the database, so a marker is committed before it; then an undo runs even where the local transaction, which would
have recorded the effect, was rolled back after it.

Deliveries of one step meet at the unique index, where the second one waits for the first, and then reads again.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from coordinator import limits
from coordinator.errors import Conflict, InvalidDefinition
from coordinator.faults.points import boundary
from coordinator.gids import made_at
from coordinator.schema import apply, queries
from participants.barrier.decision import (
    Call,
    Decision,
    Direction,
    Record,
    Standing,
    State,
    Verdict,
    decide,
    forgotten,
    key_of,
    settled,
    standing,
)
from participants.barrier.drivers import Asyncpg, Driver

SQL = queries(Path(__file__).with_name("queries.sql"))
RETENTION_S = 7 * 24 * 3600.0
"""How long a step is remembered, unless it is said otherwise: longer than the longest saga, or its undo is in doubt."""
_PURGE_BATCH = 1000
_OLD_SHARE = 0.1
"""Of the retention: a delivery of a step that is younger need not be remembered."""
_LOOKS_MAX = 5


@dataclass(frozen=True, slots=True)
class Passage:
    """What a delivery may do, and what its first passage answered, where that was kept."""

    verdict: Verdict
    result: bytes | None = None
    refused: bool = False
    """Whether that answer was a refusal."""
    answers: tuple[Any, ...] = field(default=(), compare=False)
    """What the effect's commands answered, on Redis, where the barrier carries them out."""


class Barrier:
    """The deliveries that one *scope* (a service, a consumer, a tenant's endpoint) has let pass.

    *driver* is that of the connections: `Asyncpg()`, `SqlAlchemy()` or `Psycopg()`. *retention_s* is how long a step is
    remembered after its first delivery (and nine tenths of that after its last), the same in every process of the
    scope. What is not here was never here only where its transaction is younger than that (by the time in an id of
    ours; any other id is taken for young).
    """

    def __init__(self, scope: str, driver: Driver | None = None, *, retention_s: float = RETENTION_S) -> None:
        self.scope = scope
        self.retention_s = retention_s
        self._driver = driver or Asyncpg()

    async def create(self, connection: Any) -> None:
        """Create the table where it is missing, on an asyncpg connection. Outside of a transaction.

        With another driver: `coordinator schema apply barrier`.
        """
        await apply(connection, "barrier")

    async def enter(self, connection: Any, call: Call) -> Passage:
        """What *call* may do; recorded on the caller's open transaction, which carries the effect as well.

        Commit it whatever the verdict is, and roll it back on any error. Raises `InvalidDefinition` outside of a
        transaction and for a key that no index takes, `Replaced`, `KeyReused` and `Refused` as `decide` does,
        `InDoubt` where what is to be undone is not here and may have been forgotten, and the driver's own errors: an
        error is never an answer, so the delivery comes again.
        """
        if not await self._driver.in_transaction(connection):
            raise InvalidDefinition("a delivery is recorded inside the transaction of its effect: open one first")
        return await self._pass(connection, call, State.DONE)

    async def intend(self, connection: Any, call: Call) -> Passage:
        """Commit the marker of an effect outside of this database, before the effect. Outside of a transaction.

        After `PROCEED` and `UNSETTLED` have the effect, and then `settle` the marker. A marker that the local
        transaction could take back would be worth nothing, so this has a transaction of its own.
        """
        if self._driver.is_open(connection):
            raise InvalidDefinition("a marker is committed by itself, before the effect: outside of a transaction")
        async with self._driver.transaction(connection):
            passage = await self._pass(connection, call, State.INTENDED)
            if passage.verdict not in (Verdict.PROCEED, Verdict.UNSETTLED):
                await self._end(connection, call, State.INTENDED, None, refused=False)  # There is nothing to settle.
        return passage

    async def keep(self, connection: Any, call: Call, result: bytes | None, *, refused: bool = False) -> None:
        """Keep the answer of a delivery that entered on this open transaction, for its duplicates.

        Only a final answer: never an error after which it would be done again. *refused*: it had no effect, and never
        will have; an undo then finds nothing to undo. Raises `InvalidDefinition` outside of a transaction, and where
        the delivery entered on another one: what that committed stands.
        """
        refuse_refusal(call, refused)
        if not await self._driver.in_transaction(connection):
            raise InvalidDefinition("an answer is kept inside the transaction of the effect: open one first")
        if not await self._end(connection, call, State.DONE, result, refused):
            raise InvalidDefinition(f"the {call} has not entered on this transaction: of what is this the answer?")

    async def settle(
        self, connection: Any, call: Call, result: bytes | None = None, *, refused: bool = False
    ) -> Verdict:
        """Settle the marker on the caller's open transaction, which may carry local effects as well.

        `PROCEED`: have the local effects. `DUPLICATE`: have none, another delivery has settled it. `TOO_LATE`: have
        none, and undo the effect again: it was undone meanwhile, perhaps before it had happened.
        """
        refuse_refusal(call, refused)
        if not await self._driver.in_transaction(connection):
            raise InvalidDefinition("a marker is settled inside the transaction of the local effects: open one first")
        end = partial(self._end, connection, call, State.INTENDED, result, refused)
        if await boundary("barrier.settle", end):
            return Verdict.PROCEED
        rows = await self._rows(connection, "look", call)
        return settled(call, _records(rows).get(call.direction))

    async def ask(self, connection: Any, call: Call) -> tuple[Standing, bytes | None]:
        """What became of the action, try or message *call*, and its answer; on the caller's open transaction.

        One that is under way is waited for. One that has not come yet is kept out from then on: commit, and only then
        tell anybody `NEVER`. Raises `InDoubt` where it is not here and may have been forgotten.
        """
        if call.direction is not call.direction.origin:
            raise InvalidDefinition(f"what became of a {call.direction} is not asked: repeat it until it is done")
        if not await self._driver.in_transaction(connection):
            raise InvalidDefinition("the barrier keeps out what has not come yet inside a transaction: open one first")
        arguments, placed = (call.direction.value, State.BLOCKED.value, call.term, None), set[Direction]()
        records = await self._look(connection, call, "place", arguments, {call.direction}, placed)
        told = standing(call, records)
        if call.direction in placed:
            await self._refuse_forgotten(connection, call, placed)
        if not await self._remember(connection, call, placed, records):
            raise Conflict(f"a question about the {call} met other deliveries of its step")
        return told, records[call.direction].result

    async def purge(self, connection: Any, older_than_s: float | None = None) -> int:
        """Forget steps that are older; how many records, of at most a thousand steps a call. Open markers stay.

        *older_than_s* is the barrier's retention, or more: with less, a step that is not here could be one that was
        forgotten before its time, and `InvalidDefinition` is raised. The retention must be longer than any delivery can
        take to come again: an action that comes after its undo was forgotten has its effect.
        """
        older_than_s = self.retention_s if older_than_s is None else older_than_s
        if older_than_s < self.retention_s:
            raise InvalidDefinition(
                f"what is {older_than_s:g} s old is not forgotten: the barrier's retention_s is {self.retention_s:g}"
            )
        rows = await self._driver.rows(connection, SQL["purge"], self.scope, older_than_s, _PURGE_BATCH)
        return len(rows)

    async def _pass(self, connection: Any, call: Call, state: State) -> Passage:
        statement, needed, more = "place", {call.direction}, tuple[str, ...]()
        if call.direction.undoes:
            origin = call.direction.origin
            statement, needed, more = "place_undo", {call.direction, origin}, (origin.value,)
        arguments = (call.direction.value, state.value, call.term, call.fingerprint, *more)
        placed: set[Direction] = set()
        for _ in range(_LOOKS_MAX):
            records = await self._look(connection, call, statement, arguments, needed, placed)
            decision = decide(call, placed, records)
            if call.direction.undoes and call.direction.origin in placed:
                await self._refuse_forgotten(connection, call, placed)
            remembered = await self._remember(connection, call, placed, records)
            if remembered and await self._move_origin(connection, call, decision):
                return _passage(call, decision.verdict, records)
        raise Conflict(f"the {call} met other deliveries of its step again and again")

    async def _look(
        self,
        connection: Any,
        call: Call,
        statement: str,
        arguments: Sequence[Any],
        needed: Set[Direction],
        placed: set[Direction] | None = None,
    ) -> dict[Direction, Record]:
        """Place what is not there, and read the step. What is *needed* and missing was waited for: look at it now."""
        for _ in range(_LOOKS_MAX):
            look = partial(self._rows, connection, statement, call, *arguments)
            rows = await boundary("barrier.enter", look)
            if placed is not None:
                placed |= {Direction(row[1]) for row in rows if row[0]}
            records = _records(rows)
            if needed <= records.keys():
                return records
        raise Conflict(f"the {call} met other deliveries of its step again and again")

    async def _move_origin(self, connection: Any, call: Call, decision: Decision) -> bool:
        if decision.origin_from is None or decision.origin_to is None:
            return True
        arguments = (call.direction.origin.value, decision.origin_from.value, decision.origin_to.value)
        return bool(await self._rows(connection, "move", call, *arguments))

    async def _refuse_forgotten(self, connection: Any, call: Call, placed: Set[Direction]) -> None:
        """Raise `InDoubt` where so old a transaction's origin, which *call* has not found, may have been forgotten.

        What the call has recorded is gone then, also where its transaction is committed: nobody takes it for an answer.
        """
        if (made := made_at(call.gid)) is None:
            return
        young_s = self.retention_s - limits.CLOCKS_APART_S
        arguments = ([direction.value for direction in placed], made.timestamp(), young_s)
        rows = await self._rows(connection, "unplace", call, *arguments)
        if rows:
            raise forgotten(call, rows[0][0], self.retention_s)

    async def _remember(self, connection: Any, call: Call, placed: Set[Direction], records: Any) -> bool:
        """Remember what *call* met from now on, where it was old; False where it has changed meanwhile.

        The origin of an undo or a confirmation as well: a purge could forget it while the other one stands, and what
        comes late would then have its effect.
        """
        for direction in dict.fromkeys((call.direction, call.direction.origin)):
            known = records[direction]
            old = known.age_s > self.retention_s * _OLD_SHARE
            changes = direction not in placed and (old or (direction is call.direction and call.term > known.term))
            if changes and not await self._rows(connection, "refresh", call, direction.value, call.term):
                return False
        return True

    async def _end(self, connection: Any, call: Call, state: State, result: bytes | None, refused: bool) -> bool:
        ended = State.REFUSED if refused else State.DONE
        arguments = (call.direction.value, state.value, ended.value, result)
        return bool(await self._rows(connection, "keep", call, *arguments))

    async def _rows(self, connection: Any, name: str, call: Call, *arguments: Any) -> Sequence[Any]:
        return await self._driver.rows(connection, SQL[name], *key_of(self.scope, call), *arguments)


def _records(rows: Sequence[Any]) -> dict[Direction, Record]:
    return {Direction(row[1]): Record(State(row[2]), *row[3:]) for row in rows}


def _passage(call: Call, verdict: Verdict, records: dict[Direction, Record]) -> Passage:
    own = records[call.direction]
    if verdict is not Verdict.DUPLICATE:
        return Passage(verdict)
    return Passage(verdict, own.result, own.state is State.REFUSED)


def refuse_refusal(call: Call, refused: bool) -> None:
    """Refuse the refusal of what must succeed in the end: an undo, a confirmation."""
    if refused and call.direction is not call.direction.origin:
        raise InvalidDefinition(f"a {call.direction} is repeated until it is done: it cannot be refused")
