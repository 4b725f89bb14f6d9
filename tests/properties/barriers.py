"""Barriers with a planted bug each, and a world that delivers to a barrier in any order, at once, and broken off."""

import asyncio
import dataclasses
import itertools
import math
from dataclasses import dataclass
from functools import partial

import asyncpg

from participants.barrier import Barrier, Direction, Passage, Verdict
from participants.barrier.decision import State
from participants.barrier.memory import Memory
from participants.barrier.subject import Broken, again, fresh
from tests.conformance.barriers import MemorySubject, SqlSubject

TURNS = 60
ROUNDS_MAX = 2000


class RecordsApart(MemorySubject):
    """The record is one transaction, and the effect another one."""

    async def deliver(self, call, effect, *, result=None, refuses=False, before_commit=None):
        async with self.connected() as connection, self.driver.transaction(connection):
            passage = await self.barrier.enter(connection, call)
        async with self.connected() as connection, self.driver.transaction(connection):
            if passage.verdict is Verdict.PROCEED:
                await self.add(connection, call, effect)
            if before_commit is not None:
                await before_commit()
        return passage


class CountsAttempts(MemorySubject):
    """The key tells one attempt from the next."""

    attempts = itertools.count()

    async def deliver(self, call, effect, **options):
        return await super().deliver(
            dataclasses.replace(call, step=f"{call.step}/{next(self.attempts)}"), effect, **options
        )


class KeepsErrors(MemorySubject):
    """A transient error is kept as the answer."""

    async def deliver(self, call, effect, **options):
        try:
            return await super().deliver(call, effect, **options)
        except Broken:
            async with self.connected() as connection, self.driver.transaction(connection):
                passage = await self.barrier.enter(connection, call)
                if passage.verdict is Verdict.PROCEED:
                    await self.barrier.keep(connection, call, b"error")
            raise


class TakesConflictsForAnswers(SqlSubject):
    """A serialisation failure is thought to say that another delivery has done it."""

    async def deliver(self, call, effect, **options):
        try:
            return await super().deliver(call, effect, **options)
        except asyncpg.SerializationError:
            return Passage(Verdict.DUPLICATE)


class _NoOrigin(Memory):
    async def _place(self, connection, step, rows, term):
        placed = await super()._place(connection, step, rows, term)
        for row in placed:
            if row[0] and row[2] is State.BLOCKED.value:
                connection.written.pop((*step, row[1]))
        return placed


class _LooksAtWhatIsNotCommitted(Memory):
    async def _alone(self, connection, key):
        return

    def _read(self, connection, key):
        holder = self._holders.get(key, connection)
        return super()._read(holder if holder.written is not None else connection, key)


class _LetsBothEnd(Memory):
    async def _update(self, connection, key, before, **changes):
        return await super()._update(connection, key, before, **changes) or [(key[-1],)]


class _NoTerms(Barrier):
    async def enter(self, connection, call):
        return await super().enter(connection, dataclasses.replace(call, term=0))


class _NoFingerprints(Barrier):
    async def enter(self, connection, call):
        return await super().enter(connection, dataclasses.replace(call, payload=b""))


class _CapsTerms(Barrier):
    async def enter(self, connection, call):
        return await super().enter(connection, dataclasses.replace(call, term=min(call.term, 9)))


class _StripsPayloads(Barrier):
    async def enter(self, connection, call):
        return await super().enter(connection, dataclasses.replace(call, payload=call.payload.strip()))


class _DecodesPayloads(Barrier):
    async def enter(self, connection, call):
        payload = call.payload.decode(errors="replace").encode()
        return await super().enter(connection, dataclasses.replace(call, payload=payload))


class _KeepsText(Barrier):
    async def keep(self, connection, call, result, *, refused=False):
        await super().keep(connection, call, result.decode(errors="replace").encode(), refused=refused)


class _CutsResults(Barrier):
    async def keep(self, connection, call, result, *, refused=False):
        await super().keep(connection, call, result[:255], refused=refused)


class _MarksWithin(Barrier):
    async def intend(self, connection, call):
        return Passage(Verdict.PROCEED)  # The marker is a matter of the local transaction, which was rolled back.


def with_memory(memory):
    """A subject on a table that is not what it should be."""
    subject = MemorySubject()
    subject.driver = memory
    subject.barrier = Barrier("suite", memory)
    return subject


def with_barrier(kind):
    """A subject behind a barrier that is not what it should be."""
    subject = MemorySubject()
    subject.barrier = kind("suite", subject.driver)
    return subject


BUGS = {
    "dedupe outside the transaction": RecordsApart,
    "dedupe by attempt": CountsAttempts,
    "missing origin row": lambda: with_memory(_NoOrigin()),
    "caching a transient error as the result": KeepsErrors,
    "a concurrent duplicate assumes success": lambda: with_memory(_LooksAtWhatIsNotCommitted()),
    "confirmation and cancellation do not meet": lambda: with_memory(_LetsBothEnd()),
    "no terms": lambda: with_barrier(_NoTerms),
    "no fingerprints": lambda: with_barrier(_NoFingerprints),
    "terms of one digit": lambda: with_barrier(_CapsTerms),
    "fingerprints of what was stripped": lambda: with_barrier(_StripsPayloads),
    "fingerprints of what was decoded": lambda: with_barrier(_DecodesPayloads),
    "results that are text": lambda: with_barrier(_KeepsText),
    "results in a short column": lambda: with_barrier(_CutsResults),
    "a marker inside the local transaction": lambda: with_barrier(_MarksWithin),
    "what was forgotten never came": lambda: with_barrier(partial(Barrier, retention_s=math.inf)),
}


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery: of an action or of its undo, and whether its transaction is rolled back in the end."""

    direction: Direction
    breaks: bool = False


async def turns():
    """Turns of the event loop in which everything that is not held comes to rest, where all is in memory."""
    for _ in range(TURNS):
        await asyncio.sleep(0)


class Gates:
    """Where deliveries wait until the schedule lets one of them go on."""

    def __init__(self):
        self.waiting = []

    async def wait(self):
        gate = asyncio.get_running_loop().create_future()
        self.waiting.append(gate)
        await gate

    async def let_go(self, tasks, choices, rest=turns):
        """Let one go on after the other, as *choices* say, until all *tasks* are done; yields when the others rest."""
        choices = iter(choices)
        for _ in range(ROUNDS_MAX):
            await rest()
            if self.waiting:
                yield
                self.waiting.pop(next(choices, 0) % len(self.waiting)).set_result(None)
            elif all(task.done() for task in tasks):
                return
        raise AssertionError("it does not end")


async def deliver_all(subject, deliveries, choices, rest=turns):
    """Deliver them to one step, interleaved by *choices*; every moment of it must be as it should be."""
    gates, action, undone = Gates(), fresh(Direction.ACTION), False
    answers = []

    async def one(delivery):
        nonlocal undone
        await gates.wait()

        async def before_commit():
            await gates.wait()
            if delivery.breaks:
                raise Broken

        undoes = delivery.direction.undoes
        try:
            call = again(action, delivery.direction)
            passage = await subject.deliver(call, -1 if undoes else 1, before_commit=before_commit)
        except Broken:
            return
        undone = undone or undoes
        answers.append((delivery.direction, passage.verdict))

    tasks = [asyncio.create_task(one(delivery)) for delivery in deliveries]
    try:
        async for _ in gates.let_go(tasks, choices, rest):
            allowed = (0,) if undone else (0, 1)
            effects = await subject.effects(action.gid)
            assert effects in allowed, (effects, answers)
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert answers.count((Direction.ACTION, Verdict.PROCEED)) <= 1, answers
    last = again(action, Direction.COMPENSATION) if undone else again(action)
    await subject.deliver(last, -1 if undone else 1)
    await subject.deliver(again(action), 1)
    assert await subject.effects(action.gid) == (0 if undone else 1), answers
