"""What sagas do to each other, and the countermeasures: every example with its anomaly, and without it."""

import asyncio

import asyncpg
import pytest

from coordinator.errors import Conflict, Refused
from examples.isolation import commutative, rereading, semantic_lock
from participants.isolation import SemanticLocks
from participants.isolation.semantic_lock import gives_way


@pytest.mark.parametrize(
    ("example", "without", "guarded"),
    [
        pytest.param(semantic_lock, -100, 0, id="a dirty read"),
        pytest.param(rereading, 110, 165, id="a lost update after a wait"),
        pytest.param(commutative, 110, 120, id="a lost update at the same moment"),
    ],
)
async def test_an_anomaly_and_its_countermeasure(database, example, without, guarded):
    assert await example.shown(database, guarded=False) == without
    assert await example.shown(database, guarded=True) == guarded


@pytest.fixture
async def locks(database):
    """Locks, and a function that takes one on a connection of its own."""
    made, connections = SemanticLocks(), []

    async def connect():
        connection = await asyncpg.connect(database)
        connections.append(connection)
        return connection

    await made.create(await connect())
    yield made, connect
    for connection in connections:
        await connection.close()


async def test_a_lock_is_kept_over_transactions_and_let_go_in_one(locks):
    locks, connect = locks
    one, two = await connect(), await connect()
    async with locks.taken(one, "a", "b", gid="1"):
        pass
    async with locks.taken(one, "b", gid="1"):  # Again: it is a retry of the same saga.
        pass
    with pytest.raises(Conflict, match="'b' is held by saga 1"):
        async with locks.taken(two, "b", "c", gid="2"):
            raise AssertionError("nobody gets here")
    async with locks.taken(one, "c", gid="3"):  # What was refused took nothing.
        pass
    with pytest.raises(Refused, match="inside the transaction"):
        await locks.release(one, gid="1")
    async with one.transaction():
        await locks.release(one, "b", gid="1")
        await locks.release(one, "b", gid="4")  # A compensation without its step.
    async with locks.taken(two, "b", gid="2"):
        pass
    with pytest.raises(Conflict):
        async with locks.taken(two, "a", gid="2"):
            pass


async def test_a_step_that_fails_takes_no_lock(locks):
    locks, connect = locks
    one = await connect()
    with pytest.raises(ZeroDivisionError):
        async with locks.taken(one, "a", gid="1"):
            raise ZeroDivisionError
    async with locks.taken(one, "a", gid="2"):
        pass
    async with one.transaction():
        with pytest.raises(Refused, match="outside of one"):
            async with locks.taken(one, "a", gid="2"):
                pass


async def test_of_a_circle_the_youngest_gives_way_and_the_others_go_on(locks):
    locks, connect = locks
    connections = {gid: await connect() for gid in ("1", "2", "3")}

    async def take(resource, gid):
        async with locks.taken(connections[gid], resource, gid=gid):
            pass

    for gid in connections:
        await take(f"of {gid}", gid)
    asked = [("of 2", "1"), ("of 3", "2"), ("of 1", "3")]
    answers = await asyncio.gather(*(take(*each) for each in asked), return_exceptions=True)
    assert [type(answer) for answer in answers[:2]] == [Conflict, Conflict]
    if isinstance(answers[2], Conflict):  # It looked before the others had said that they wait: the next look tells.
        with pytest.raises(Refused, match="the youngest gives way"):
            await take("of 1", "3")
    async with connections["3"].transaction():  # Its compensations.
        await locks.release(connections["3"], gid="3")
    await take("of 3", "2")
    async with connections["2"].transaction():
        await locks.release(connections["2"], gid="2")
    await take("of 2", "1")


@pytest.mark.parametrize(
    ("edges", "victims"),
    [
        ([], set()),
        ([("1", "2"), ("2", "3")], set()),
        ([("1", "2"), ("2", "1")], {"2"}),
        ([("3", "1"), ("1", "2"), ("2", "3")], {"3"}),
        ([("1", "2"), ("2", "1"), ("3", "1")], {"2"}),
        ([("1", "2"), ("2", "1"), ("2", "3"), ("3", "2")], {"2", "3"}),
        ([("1", "3"), ("3", "1"), ("2", "3"), ("3", "2")], {"3"}),
    ],
)
def test_who_gives_way(edges, victims):
    """One of each circle, and nobody who is in none."""
    assert {gid for gid in "123" if gives_way(gid, edges)} == victims
