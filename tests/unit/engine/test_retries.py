"""A brown-out: a participant is not asked much more often for being down, and all that is owed is finished later."""

import asyncio
import random

import pytest

from coordinator import CoordinatorError, Retry, limits
from coordinator.limits import RETRY_COSTS_ATTEMPTS, RETRY_RESERVE
from coordinator.protocol.model import Status
from tests.properties.world import Case, World, _process

EVENTS = "events"


@pytest.fixture
async def process():
    """One process in the small world, whose broker prepares: votes and second phases both ask it."""
    token = _process.set("A")
    yield await World(Case(prepares=True)).process("A")
    _process.reset(token)


async def transact(process, number) -> bool:
    try:
        async with process.client.transaction("t", recipe="two-phase", policy=Retry(attempts=5)) as transaction:
            (await transaction.enlist("db0")).insert("t", str(number))
            await transaction.publish(EVENTS, topic="t", value=str(number))
    except CoordinatorError:
        return False
    return True


async def test_a_brown_out_costs_a_tenth_of_the_attempts_and_the_reserve(process, monkeypatch):
    """Before the decision and after it together; what is owed waits its longest, and is finished when it is over."""
    waits, chance, clock = [], random.Random(3), process.world.clock
    sleep = clock.sleep

    async def noting(seconds):
        waits.append(seconds)
        await sleep(seconds)

    for number in range(50):
        assert await transact(process, number)
    budgets = process.driver.performer.budgets
    healthy = budgets.first_attempts[EVENTS]
    assert not budgets.retries
    process.broker.down, answer = True, process.broker._answer

    def brown_out():
        """Nine of ten calls fail."""
        process.broker.down = chance.random() < 0.9
        answer()

    monkeypatch.setattr(process.broker, "_answer", brown_out)
    monkeypatch.setattr(type(clock), "sleep", lambda _, seconds: noting(seconds))
    await asyncio.gather(*(transact(process, number) for number in range(50, 650)))
    first, retries = budgets.first_attempts[EVENTS] - healthy, budgets.retries[EVENTS]
    assert retries > 0
    assert budgets.refused[EVENTS] > retries, "without the budget all of them would have been made at once"
    assert RETRY_COSTS_ATTEMPTS * retries <= first + healthy + RETRY_COSTS_ATTEMPTS * RETRY_RESERVE
    assert max(waits) <= limits.FINISH_BACKOFF_MAX_S, "what is owed is never given up, only slowed"
    monkeypatch.undo()
    process.broker.down = False
    await process.settle()
    owing = [run for run in process.driver.runs.values() if run.transaction.status is not Status.PARKED]
    assert owing == []
    assert not process.world.topics.open
    assert all(row.done for row in process.world.memory.rows.values())
    clock.now_s += 2 * limits.BREAKER_REST_S
    await process.ownership.renew()
    assert await transact(process, 1000), "and the next one is served"
