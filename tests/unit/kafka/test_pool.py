"""The rested pool: first in first out, grown while ids do not rest long enough, and bounded."""

import asyncio

import pytest

from coordinator import limits
from coordinator.errors import Overloaded, Unavailable
from participants.kafka.codec import Producer
from participants.kafka.pool import IdPool


class Registry:
    """Claims names; initialises each once, or fails, or waits until it may."""

    def __init__(self) -> None:
        self.claimed: list[str] = []
        self.initialised: list[str] = []
        self.failure: Exception | None = None
        self.may = asyncio.Event()
        self.may.set()

    async def claim(self, count: int) -> list[str]:
        names = [f"id-{len(self.claimed) + n}" for n in range(count)]
        self.claimed += names
        return names

    async def initialise(self, name: str) -> Producer:
        await self.may.wait()
        if self.failure is not None:
            raise self.failure
        assert name in self.claimed, "an id is durable as ours before it is initialised"
        self.initialised.append(name)
        return Producer(len(self.initialised), 0)


@pytest.fixture
def registry():
    """A fresh registry."""
    return Registry()


@pytest.fixture
async def pool(registry):
    """A pool on it."""
    made = IdPool(claim=registry.claim, initialise=registry.initialise)
    yield made
    await made.close()


async def test_ids_are_used_in_the_order_in_which_they_came_back(pool):
    """The one that has rested longest is next; it carries the producer that it came back with."""
    first, second = await pool.take(), await pool.take()
    others = [await pool.take() for _ in range(pool.size - 2)]
    pool.give_back(second, Producer(2, 9))
    pool.give_back(first, Producer(1, 9))
    assert (await pool.take()).producer == Producer(2, 9)
    assert (await pool.take()).producer == Producer(1, 9)
    assert len(others) == limits.KAFKA_POOL_MIN - 2


async def test_no_id_is_used_by_two_transactions_at_once(pool):
    """A hundred that begin together have a hundred ids, and each was initialised exactly once."""
    taken = await asyncio.gather(*(pool.take() for _ in range(100)))
    assert len({pooled.transactional_id for pooled in taken}) == 100


async def test_each_id_is_initialised_once_however_often_it_is_used(pool, registry):
    """Between transactions the epoch comes from the broker's answer, never from another initialisation."""
    for n in range(50):
        pooled = await pool.take()
        pool.give_back(pooled, Producer(pooled.producer.producer_id, n))
    assert len(registry.initialised) == len(set(registry.initialised))


async def test_it_grows_until_ids_have_rested(pool):
    """A pool that hands out ids younger than the markers' time grows behind the caller's back."""
    for _ in range(limits.KAFKA_POOL_MIN + 1):
        pooled = await pool.take()
        pool.give_back(pooled, pooled.producer)
    await _until(lambda: pool.size > limits.KAFKA_POOL_MIN)


async def test_it_does_not_grow_where_ids_rest_long_enough(registry):
    """No more ids than are needed: each costs the broker memory for a week."""
    pool = IdPool(claim=registry.claim, initialise=registry.initialise, rest_s=0.0)
    for _ in range(200):
        pooled = await pool.take()
        pool.give_back(pooled, pooled.producer)
    assert pool.size == limits.KAFKA_POOL_MIN
    await pool.close()


async def test_at_its_bound_it_refuses_and_says_that_this_passes(pool, registry, monkeypatch):
    """Whoever comes when all ids are in use is told to slow down, also when many come while the last ones are made."""
    monkeypatch.setattr(limits, "KAFKA_POOL_MAX", 10)
    results = await asyncio.gather(*(pool.take() for _ in range(30)), return_exceptions=True)
    assert [type(result) for result in results if isinstance(result, BaseException)] == [Overloaded] * 20
    assert len(registry.claimed) == 10
    with pytest.raises(Overloaded):
        await pool.take()


async def test_whoever_waits_for_a_broker_that_is_away_is_told_so(pool, registry):
    """Nothing was done; and when it is back, the same pool works."""
    registry.failure = Unavailable("away")
    with pytest.raises(Unavailable, match="away"):
        await pool.take()
    registry.failure = None
    assert (await pool.take()).producer.epoch == 0


async def test_a_dropped_id_is_never_used_again(pool):
    """It belongs to somebody else now; its place is filled by a new one."""
    dropped = await pool.take()
    pool.drop(dropped)
    used = [(await pool.take()).transactional_id for _ in range(3 * limits.KAFKA_POOL_MIN)]
    assert dropped.transactional_id not in used


async def test_after_losing_the_term_nothing_of_the_old_owner_is_used(pool, registry):
    """Ids that rested, that were in use, and that were just being made: all are the successor's now."""
    in_use = [await pool.take() for _ in range(3)]
    pool.put_back_unused(in_use.pop())
    registry.may.clear()
    while len(registry.claimed) == pool.size:
        pool.give_back(await pool.take(), Producer(1, 1))
        await asyncio.sleep(0)
    old = set(registry.claimed)

    pool.drop_all()
    registry.may.set()
    pool.give_back(in_use[0], Producer(1, 1))
    pool.put_back_unused(in_use[1])
    new = [(await pool.take()).transactional_id for _ in range(limits.KAFKA_POOL_MIN)]
    assert old.isdisjoint(new)
    assert pool.size >= limits.KAFKA_POOL_MIN


async def test_an_id_on_which_nothing_was_sent_has_not_stopped_resting(pool):
    """It is the next one again."""
    pooled = await pool.take()
    pool.put_back_unused(pooled)
    assert (await pool.take()) is pooled


async def _until(condition) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - the pool tells nobody that it grew, and need not.
            await asyncio.sleep(0)
