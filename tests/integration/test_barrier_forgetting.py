"""What a barrier forgets: nothing that was delivered lately, and no half of a step that is being delivered."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from coordinator import InvalidDefinition
from participants.barrier import Barrier, Call, Direction, Verdict
from tests.integration.test_barrier import CALL, DRIVERS, UNDO, WAITS, by_asyncpg, records, url

__all__ = ["url"]

AGE = "UPDATE unanimity.barrier SET recorded_at = now() - make_interval(days => $1)"
TRY, CONFIRM = Call("g", "pay", Direction.TRY), Call("g", "pay", Direction.CONFIRM)
CANCEL = Call("g", "pay", Direction.CANCEL)


async def deliver(connection, call, **options):
    """One delivery, with its own transaction."""
    async with connection.transaction():
        verdict = (await Barrier("s").enter(connection, call)).verdict
        if options:
            await Barrier("s").keep(connection, call, b"answer", **options)
    return verdict


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_step_is_remembered_after_its_last_delivery(url, driver):
    """A message that comes again and again would have its effect a second time, once it was forgotten."""
    kind, connected = DRIVERS[driver]
    barrier = Barrier("s", kind)
    async with by_asyncpg(url) as looking, connected(url, autocommit=False) as connection:
        await deliver(looking, CALL)
        for _ in range(3):
            await looking.execute(AGE, 3)
            async with kind.transaction(connection):
                assert (await barrier.enter(connection, CALL)).verdict is Verdict.DUPLICATE
                with pytest.raises(InvalidDefinition, match="has not entered"):  # It is no younger than that.
                    await barrier.keep(connection, CALL, b"no", refused=True)
            assert await looking.fetchval("SELECT now() - recorded_at < interval '1 minute' FROM unanimity.barrier")
    assert await records(url) == {"action": "done"}


async def test_a_question_is_remembered_as_a_delivery_is(url):
    async with by_asyncpg(url) as connection:
        await deliver(connection, CALL)
        await connection.execute(AGE, 3)
        async with connection.transaction():
            await Barrier("s").ask(connection, CALL)
        assert await connection.fetchval("SELECT now() - recorded_at < interval '1 minute' FROM unanimity.barrier")


async def test_the_usual_duplicate_writes_nothing(url):
    """It comes soon after the first."""
    async with by_asyncpg(url) as connection:
        await deliver(connection, CALL)
        before = await connection.fetchval("SELECT xmin::text FROM unanimity.barrier")
        assert await deliver(connection, CALL) is Verdict.DUPLICATE
        assert await connection.fetchval("SELECT xmin::text FROM unanimity.barrier") == before


@asynccontextmanager
async def old_step(url, calls, **options):
    """Two connections, and a step that may be forgotten."""
    async with by_asyncpg(url) as first, by_asyncpg(url) as second:
        for call in calls:
            await deliver(first, call, **options)
        await first.execute(AGE, 8)
        yield first, second


MET = {
    "an undo": ((CALL,), {}, UNDO, {"action": "undone", "compensation": "done"}),
    "an undo of a refusal": ((CALL,), {"refused": True}, UNDO, {"action": "refused", "compensation": "done"}),
    "a confirmation": ((TRY,), {}, CONFIRM, {"try": "confirmed", "confirm": "done"}),
    "a cancellation of nothing": ((TRY,), {"refused": True}, CANCEL, {"try": "refused", "cancel": "done"}),
    "a duplicate": ((CALL,), {}, CALL, {"action": "done"}),
}


@pytest.mark.parametrize(("before", "options", "call", "after"), MET.values(), ids=MET)
async def test_a_purge_that_meets_a_delivery_leaves_the_step(url, before, options, call, after):
    """Without its origin, an undo would keep nothing out that comes late."""
    async with old_step(url, before, **options) as (first, second):
        delivery = first.transaction()
        await delivery.start()
        await Barrier("s").enter(first, call)
        purging = asyncio.create_task(Barrier("s").purge(second))
        while not await first.fetchval(WAITS):
            assert not purging.done()
        await delivery.commit()
        assert await purging == 0
        assert await deliver(first, before[0]) is not Verdict.PROCEED
    assert await records(url) == after


async def test_a_delivery_that_meets_a_purge_finds_a_step_that_is_not_there(url):
    """It is decided again: also an undo, whose origin then stands there so that nothing comes late."""
    async with old_step(url, (CALL,), refused=True) as (first, second):
        purge = second.transaction()
        await purge.start()
        assert await Barrier("s").purge(second) == 1
        undoing = asyncio.create_task(deliver(first, UNDO))
        while not await second.fetchval(WAITS):
            assert not undoing.done()
        await purge.commit()
        assert await undoing is Verdict.NOTHING_TO_UNDO
        assert await deliver(first, CALL) is Verdict.TOO_LATE
    assert await records(url) == {"action": "blocked", "compensation": "done"}
