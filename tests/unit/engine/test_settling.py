"""Ids of dead owners: one that cannot be settled keeps neither others nor its participant's sweep from being done."""

import asyncio
from dataclasses import replace

import pytest

from coordinator import Unavailable, limits
from coordinator.journal.memory import MemoryJournal, MemoryOwners, MemoryTransactionalIds
from participants import MemoryDatabase
from tests.properties.world import LEASE_S, Case, World, _process


class Odd(MemoryDatabase):
    """Some ids cannot be settled here, for one reason or another."""

    def __init__(self, failure):
        super().__init__()
        self.failure, self.bad, self.settled, self.tried, self.looks = failure, set(), [], [], 0

    async def settle_id(self, transactional_id):
        self.tried.append(transactional_id)
        if transactional_id in self.bad:
            if self.failure is None:
                await asyncio.Event().wait()
            raise self.failure
        self.settled.append(transactional_id)

    async def lost_term(self): ...

    async def in_doubt(self):
        self.looks += 1
        return []


@pytest.fixture
async def left():
    """What makes so many ids of a dead owner, at an odd participant, and the process that has taken over from it."""
    token = _process.set("A")
    world = World(Case())
    process = await world.process("A")

    async def leave(odd, count):
        odd.name = "db0"
        process.engine.participants["db0"] = replace(process.engine.participants["db0"], participant=odd)
        journal = MemoryJournal(world.memory)
        await MemoryOwners(journal, owner_id="dead", lease_s=LEASE_S).register()
        ids = MemoryTransactionalIds(journal, prefix="test")
        taken = [*await ids.claim("db0", count)]
        world.clock.now_s += 2 * LEASE_S
        await process.ownership.renew()
        await process.recovery.take_over()
        return process.recovery, taken

    yield leave
    _process.reset(token)


@pytest.mark.parametrize("failure", [KeyError("odd"), Unavailable("away"), asyncio.CancelledError("what it awaited")])
async def test_one_id_that_cannot_be_settled_keeps_no_other_from_being(left, failure):
    """And it is tried again at each look, with a sweep behind it."""
    odd = Odd(failure)
    recovery, ids = await left(odd, 3)
    odd.bad = {ids[0]}
    for _ in range(3):
        await recovery.look_at("db0")
    assert odd.settled == ids[1:]
    assert odd.tried.count(ids[0]) == odd.looks == 3
    odd.bad.clear()
    await recovery.look_at("db0")
    assert odd.settled == [*ids[1:], ids[0]]
    await recovery.look_at("db0")
    assert len(odd.settled) == 3


async def test_ids_that_hang_are_left_after_a_while_and_have_their_turns(left, monkeypatch):
    """The sweep comes in its time, and each look begins with what was not tried for longest."""
    monkeypatch.setattr(limits, "SWEEP_CALL_S", 0.05)
    odd = Odd(None)
    recovery, ids = await left(odd, 4)
    odd.bad = set(ids[:2])
    for looks in range(1, 6):
        async with asyncio.timeout(1):
            await recovery.look_at("db0")
        assert odd.looks == looks
    assert odd.settled == ids[2:]
    assert [odd.tried.count(each) for each in ids] == [3, 2, 1, 1]


async def test_ids_that_cannot_be_read_keep_no_sweep_from_being_made(left, monkeypatch):
    """The journal may be away, or be slow to say so."""
    monkeypatch.setattr(limits, "SWEEP_CALL_S", 0.05)
    odd = Odd(None)
    recovery, ids = await left(odd, 1)
    answers = iter([Unavailable("away"), None])

    async def of(owner):
        if failure := next(answers):
            raise failure
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(recovery.ids, "of", of)
        for _ in range(2):
            await recovery.look_at("db0")
    assert odd.looks == 2
    await recovery.look_at("db0")
    assert odd.settled == ids


async def test_a_look_that_is_cancelled_while_it_settles_is_cancelled(left):
    """A loop that is stopped stops."""
    odd = Odd(None)
    recovery, ids = await left(odd, 1)
    odd.bad = set(ids)
    looking = asyncio.create_task(recovery.look_at("db0"))
    while not odd.tried:  # noqa: ASYNC110 - it has no event.
        await asyncio.sleep(0)
    looking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looking
