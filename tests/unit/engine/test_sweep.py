"""Looking at participants: what one does, or does not do, is its own, and holds up neither others nor a takeover."""

import asyncio
import logging
import uuid
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from coordinator import Coordinator, InDoubt, Settings, limits
from coordinator.gids import new_gid
from coordinator.ports import Doubtful, Record, Standing
from coordinator.protocol.model import BranchName, Ending, Gid, Prepared, Recipe
from coordinator.sagas import Saga, step
from participants import MemoryDatabase
from tests.properties.world import Case, World, _process

SETTINGS = Settings(lease_s=0.4, recovery_s=0.02)


class Odd(MemoryDatabase):
    """A participant that is told what to list and how to obey."""

    def __init__(self):
        super().__init__()
        self.listed, self.looks, self.asked, self.at_once, self.most = [], 0, [], 0, 0
        self.stuck, self.failure = set(), InDoubt

    async def in_doubt(self):
        self.looks += 1
        if isinstance(self.listed, BaseException):
            raise self.listed
        if self.listed is None:
            await asyncio.Event().wait()
        return [Doubtful(prepared=Prepared(gid=gid, branch=self.name), age_s=1.0) for gid in self.listed]

    async def commit(self, prepared):
        self.asked.append(prepared.gid)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        if prepared.gid in self.stuck:
            raise self.failure("no answer")
        self.listed.remove(prepared.gid)
        return Ending.COMMITTED


@pytest.fixture
async def process():
    """One process in the small world, with an odd participant before the ones it has."""
    token = _process.set("A")
    process = await World(Case(databases=2)).process("A")
    odd = Odd()
    odd.name = BranchName("db0")
    process.engine.participants["db0"] = replace(process.engine.participants["db0"], participant=odd)
    yield process
    _process.reset(token)


@pytest.fixture
def odd(process):
    return process.engine.participants["db0"].participant


async def decided(process, count) -> list[Gid]:
    """So many commits that stand, of a process that nobody has taken over from."""
    gids = [new_gid("test", process.world.clock.now(), bytes([number] * 16)) for number in range(count)]
    for gid in gids:
        record = Record(gid=gid, name="t", recipe=Recipe.TWO_PHASE, standing=Standing.COMMIT)
        await process.journal.decide(record)
        await process.journal.finish(gid, "commit", {})
    return gids


async def orphaned(process) -> Gid:
    """A branch in the other database that was prepared by somebody who died before a decision."""
    gid = new_gid("test", process.world.clock.now(), bytes(range(16)))
    database = process.engine.participants["db1"].participant
    session = await database.begin(gid, recipe=Recipe.TWO_PHASE)
    session.connection.insert("t", "x")
    await session.vote(1.0)
    return gid


async def looked(process, times=6) -> None:
    for _ in range(times):
        process.world.clock.now_s += 12.0
        await process.recover()


@pytest.mark.parametrize(
    "answer",
    [
        KeyError("boom"),
        OSError("away"),
        asyncio.CancelledError("what it awaited"),
        ["test:no-id", "test:\0", "test:" + "Z" * 26],
    ],
)
async def test_what_one_participant_answers_stops_no_other(process, odd, answer, caplog):
    """An orphan elsewhere is finished; and what is wrong is said once, not at each look."""
    caplog.set_level(logging.WARNING)
    odd.listed = answer
    await orphaned(process)
    await looked(process)
    assert not process.world.stores[1].prepared
    said = [record for record in caplog.records if "db0" in record.getMessage()]
    assert len(said) == (len(answer) if isinstance(answer, list) else 1)
    assert odd.looks == 6


async def test_one_bad_id_stops_none_beside_it(process, odd):
    """What is listed after it is done as was decided."""
    (gid,) = await decided(process, 1)
    odd.listed = ["test:no-id", gid]
    await looked(process, 1)
    assert odd.asked == [gid]


@pytest.mark.parametrize("failure", [InDoubt, asyncio.CancelledError])
async def test_branches_that_are_stuck_are_tried_a_few_at_a_time_and_in_turn(process, odd, failure):
    """Not all of them at each look, and those that can be finished are, wherever they stand."""
    gids = await decided(process, 3 * limits.SWEEP_TOGETHER_MAX)
    odd.listed, odd.stuck, odd.failure = list(gids), set(gids[:-1]), failure
    await looked(process, 1)
    assert odd.asked == gids[: limits.SWEEP_TOGETHER_MAX]
    await looked(process, 2)
    assert gids[-1] not in odd.listed
    assert set(odd.asked) == set(gids)
    assert odd.most == limits.SWEEP_TOGETHER_MAX
    odd.asked.clear()
    await looked(process, 3)
    assert set(odd.asked) == set(gids[:-1]), "each has its turn"


async def test_a_look_that_is_cancelled_itself_is_cancelled(process, odd):
    """A loop that is stopped stops."""
    odd.listed = None
    looking = asyncio.create_task(process.recovery.look_at("db0"))
    await asyncio.sleep(0)
    looking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looking


@pytest.mark.parametrize("hangs", [True, False])
async def test_a_history_that_cannot_be_had_keeps_neither_its_sweep_nor_another_ones_from_being_made(
    monkeypatch, hangs
):
    """Each participant's is looked at in its own loop, before it is swept, for so long at most."""
    monkeypatch.setattr(limits, "SWEEP_CALL_S", 0.05)
    looked = []

    class Standby(Odd):
        def __init__(self, name):
            super().__init__()
            self.called = name

        async def history(self):
            looked.append(f"history of {self.called}")
            if self.called == "a" and hangs:
                await asyncio.Event().wait()
            if self.called == "a":
                raise KeyError("timeline")
            return {}

        async def lost(self, history, gids):
            return []

        async def in_doubt(self):
            looked.append(f"sweep of {self.called}")
            return []

    participants = {"a": Standby("a"), "b": Standby("b")}
    journal = f"memory://{uuid.uuid4()}"
    async with Coordinator(journal=journal, participants=participants, settings=SETTINGS), asyncio.timeout(5):
        while len(looked) < 30:  # noqa: ASYNC110 - it has no event.
            await asyncio.sleep(0.01)
    for name in participants:
        own = [look.partition(" ")[0] for look in looked if look.endswith(name)]
        assert own[:4] == ["history", "sweep"] * 2


@asynccontextmanager
async def running(journal, saga, **participants):
    async with Coordinator(journal=journal, participants=participants, sagas=[saga], settings=SETTINGS) as coordinator:
        yield coordinator


async def test_a_participant_that_does_not_answer_holds_up_no_takeover(monkeypatch):
    """A saga of a dead process is gone on with, and the participant is asked again in its time."""
    monkeypatch.setattr(limits, "SWEEP_CALL_S", 0.1)
    journal, begun, hanging, over = f"memory://{uuid.uuid4()}", [], Odd(), asyncio.Event()
    hanging.listed = None

    async def pay(request: str) -> None:
        begun.append(request)
        if len(begun) == 1:
            await over.wait()

    saga = Saga("order", step(pay, on_unknown="retry"))
    async with running(journal, saga, db=hanging) as successor, running(journal, saga, db=MemoryDatabase()) as first:
        await first.start(saga, "x", key="1")
        await asyncio.sleep(0.1)
        assert begun == ["x"]
        for loop in first.engine._loops:
            await loop.stop()  # As if it had been killed: its lease expires.
        async with asyncio.timeout(5):
            assert (await (await successor.attach(saga, "1")).result()).completed
            looks = hanging.looks
            while hanging.looks < looks + 2:  # noqa: ASYNC110 - it has no event.
                await asyncio.sleep(0.01)
        over.set()
