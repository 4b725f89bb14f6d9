"""Whoever drives a saga calls steps under its lease, and none once it stops, and goes on from all that was written."""

import asyncio
import sys

import pytest

from coordinator import limits
from coordinator.errors import Compensated
from coordinator.protocol.calls import CallBudget
from coordinator.protocol.saga import Phase
from coordinator.sagas import Saga, await_signal, step
from tests.acceptance.test_saga_crashes import Doubt, lost, process
from tests.acceptance.test_saga_edges import Broken
from tests.acceptance.test_sagas import QUICK, journal, phase, until, world

__all__ = ["journal", "world"]


async def test_no_step_is_called_without_a_lease(journal, world):
    """It may be another process' saga by then. Once the lease is held again, the step is called."""
    doubt, asked = Doubt(world, on_unknown="retry"), []
    world.holds["reserve"] = asyncio.Event()
    async with process(journal, doubt.saga) as first:
        engine, loops = first.sagas.engine, first.engine._loops
        handle = await first.start(doubt.saga)
        await until(lambda: "reserve" in world.begun)
        for loop in loops:
            await loop.stop()
        await until(lambda: not engine.ownership.holds)
        may_call = engine.calls.may_call

        def told():
            asked.append("may it be called?")
            return may_call()

        engine.calls.may_call = told
        world.holds["reserve"].set()
        await until(lambda: asked)
        assert world.begun == ["reserve"]
        for loop in loops:
            await loop.start()
        assert (await handle.result()).completed
    assert world.did == ["reserve", "charge", "ship"]


async def test_a_call_whose_turn_comes_when_its_process_stops_is_not_made(journal, world):
    """It is whoever's goes on with the saga: nobody has begun it."""

    async def first() -> None:
        await world.act("first")

    async def second() -> None:
        await world.act("second")

    world.holds["first"] = asyncio.Event()
    saga = Saga("turns", *(step(each, after=(), participant="bank", on_unknown="retry") for each in (first, second)))
    async with process(journal, saga, lease_s=60.0, budgets={"bank": CallBudget(in_flight=1)}) as stopping:
        engine = stopping.sagas.engine
        handle = await stopping.start(saga)
        await until(lambda: "first" in world.begun)
        draining = asyncio.create_task(engine.drain(10.0))
        await until(lambda: engine.stopping)
        world.holds["first"].set()
        assert await draining
        assert world.begun == ["first"]
        async with process(journal, saga) as successor:
            assert (await successor.sagas.ended(handle.gid, saga)).completed
    assert world.did == ["first", "second"]


async def test_what_a_bug_cut_off_may_have_happened_and_is_not_called_again(journal, world, monkeypatch):
    """The process goes on, and is nobody's successor: it knows itself what it had begun."""
    monkeypatch.setattr(limits, "OWN_RECORD_IDLE_S", 0.05)
    doubt = Doubt(world, on_unknown="compensate")
    world.raises["charge"] = [Broken("wrong")]
    async with process(journal, doubt.saga) as driver:
        handle = await driver.start(doubt.saga)
        await phase(handle, Phase.COMPENSATED)
    assert (world.begun.count("charge"), world.did) == (1, ["reserve", "refund", "release"])


async def test_what_is_taken_up_while_it_is_driven_goes_on_from_what_was_written_since(journal, world):
    doubt = Doubt(world, on_unknown="retry")
    world.holds["reserve"], world.raises["charge"] = asyncio.Event(), [Broken("wrong")]
    async with process(journal, doubt.saga, lease_s=60.0) as driver:
        handle = await driver.start(doubt.saga)
        await until(lambda: "reserve" in world.begun)
        before = await driver.sagas.engine.log.load(handle.gid)
        taken_up = asyncio.create_task(driver.sagas.recovery._resume(before))
        world.holds["reserve"].set()
        await taken_up
        assert (await handle.result()).completed
    assert world.begun == ["reserve", "charge", "charge", "ship"]


async def test_a_doubt_outlasts_code_that_cannot_read_the_saga(journal, world, monkeypatch):
    """Whoever can read it does not call again what its lost driver may have called."""
    monkeypatch.setattr(limits, "SAGA_UNREADABLE_S", 0.1)

    def built(kind):
        async def charge(request: kind) -> None:
            await world.act("charge")

        async def refund(request: kind) -> None:
            await world.act("refund")

        return Saga("changed", step(charge, compensate=refund, on_unknown="compensate"), version="1")

    readable, other = built(int), built(list[int])
    world.holds["charge"] = asyncio.Event()
    async with process(journal, readable) as first:
        handle = await first.start(readable, 1)
        await until(lambda: "charge" in world.begun)
        await lost(first, handle)
        world.holds.clear()
        async with process(journal, other) as stranger, asyncio.timeout(20):
            alerts, log = stranger.sagas.engine.alerts, stranger.sagas.engine.log
            while not await alerts.open_alerts() or (await log.load(handle.gid)).owner:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        async with process(journal, readable) as second:
            assert (await second.sagas.ended(handle.gid, readable)).phase is Phase.COMPENSATED
    assert (world.begun, world.did) == (["charge", "refund"], ["refund"])


async def test_a_signal_that_nobody_was_told_of_here_is_found_when_the_time_for_it_is_over(journal, world, monkeypatch):
    """Another process was sent it, in time, and this one has not asked since."""

    async def pack() -> None:
        await world.act("pack")

    saga = Saga("heard", await_signal("paid", within=1.0, of=int, after=()), step(pack, after=(), retry=QUICK))
    world.holds["pack"] = asyncio.Event()
    async with process(journal, saga, lease_s=60.0) as driver, process(journal, saga) as other:
        monkeypatch.setattr(driver.sagas.engine.log, "unheard", lambda heard: asyncio.sleep(0, []))
        handle = await driver.start(saga)
        await until(lambda: "pack" in world.begun)
        run = driver.sagas.engine.running[handle.gid]
        await other.sagas.send(handle.gid, "paid", 4)
        await until(lambda: "paid" in run.state.marks)
        world.holds["pack"].set()
        try:
            assert (await handle.result()).outputs["paid"] == 4
        except Compensated as undone:
            raise AssertionError(f"it was there: {undone}") from undone


@pytest.mark.parametrize("policy", ["compensate", "retry"])
async def test_a_step_that_cancels_the_task_that_it_is_called_in_has_failed_by_its_policy(
    journal, world, monkeypatch, policy
):
    """It is not called for ever, and nobody is told: what drives it is cut off, and what it did is in doubt."""
    monkeypatch.setattr(limits, "OWN_RECORD_IDLE_S", 0.05)
    doubt = Doubt(world, on_unknown=policy)
    world.cancels = {"charge"}
    async with process(journal, doubt.saga) as driver:
        handle = await driver.start(doubt.saga)
        await phase(handle, Phase.COMPENSATED if policy == "compensate" else Phase.PARKED)
    if policy == "compensate":
        assert (world.begun.count("charge"), world.did) == (1, ["reserve", "refund", "release"])
    else:
        assert (world.begun.count("charge"), world.did) == (limits.ADOPTIONS_MAX + 1, ["reserve"])


@pytest.mark.parametrize("policy", ["compensate", "retry"])
async def test_a_step_that_cancels_its_task_takes_no_sibling_with_it(journal, world, policy):
    """It has failed as often as it may be called, and what was called beside it ends."""

    async def torn() -> None:
        await world.act("torn")

    async def undo() -> None:
        await world.act("undo")

    async def beside() -> None:
        await world.act("beside")

    async def unbeside() -> None:
        await world.act("unbeside")

    world.cancels = {"torn"}
    world.holds["beside"] = asyncio.Event()
    both = Saga(
        "both",
        step(torn, compensate=undo, on_unknown=policy, retry=QUICK, after=()),
        step(beside, compensate=unbeside, after=()),
    )
    async with process(journal, both) as driver:
        handle = await driver.start(both)
        await until(lambda: world.begun.count("torn") == (1 if policy == "compensate" else QUICK.at_most))
        await asyncio.sleep(0.05)
        world.holds["beside"].set()
        await phase(handle, Phase.COMPENSATED, "was cancelled")
    assert (world.begun.count("beside"), sorted(world.did)) == (1, ["beside", "unbeside", "undo"])


async def test_what_is_cut_off_by_us_is_no_failure_of_its_driving(journal, world):
    """A process that was replaced, or that stops, has let go: nothing is counted against the saga."""
    doubt = Doubt(world, on_unknown="retry")
    world.holds["charge"] = asyncio.Event()
    async with process(journal, doubt.saga) as driver:
        engine = driver.sagas.engine
        await driver.start(doubt.saga)
        await until(lambda: "charge" in world.begun)
        await engine.let_go()
        await until(lambda: not engine.tasks)
        assert (engine.failures, engine.broken) == ({}, set())
        world.holds["charge"].set()


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside another one"])
@pytest.mark.parametrize("late", [False, True], ids=["called off", "past its deadline"])
async def test_what_is_called_off_while_it_waits_for_its_turn_is_not_called(journal, world, late, beside):
    """It was not under way: nothing has begun that would have to settle first."""

    async def hold() -> None:
        await world.act("hold")

    async def unhold() -> None:
        await world.act("unhold")

    async def charge() -> None:
        await world.act("charge")

    async def refund() -> None:
        await world.act("refund")

    async def take() -> None:
        await world.act("take")

    taken = Saga("taken", step(take, participant="bank"))
    pays = step(charge, compensate=refund, participant="bank", **({"after": ()} if beside else {}))
    waits = Saga("waits", step(hold, compensate=unhold), pays, deadline_s=0.5 if late else None)
    async with process(journal, taken, waits, lease_s=60.0, budgets={"bank": CallBudget(in_flight=1)}) as driver:
        world.holds["take"] = asyncio.Event()
        other = await driver.start(taken)
        await until(lambda: world.begun)
        handle = await driver.start(waits)
        row = driver.sagas.engine.calls.budgets._row("bank")
        await until(lambda: world.did == ["hold"] and row.places._waiters)
        if late:
            await asyncio.sleep(0.6)
        else:
            await handle.cancel("a change of mind")
        world.holds["take"].set()
        await phase(handle, Phase.COMPENSATED, "deadline" if late else "a change of mind")
        assert (await other.result()).completed
    assert (world.begun.count("charge"), world.did[-1]) == (0, "unhold")


@pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks are eager since Python 3.12")
async def test_a_saga_may_end_before_its_task_is_known(world, request):
    """Where tasks are eager, and nothing in it has to wait."""
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    async with process(f"memory://{request.node.name}", world.saga()) as driver:
        async with asyncio.timeout(5):
            assert (await driver.run(world.saga(), 1)).completed
        assert not driver.sagas.engine.tasks
