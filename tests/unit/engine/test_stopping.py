"""Stopping: nothing begins any more, what is open ends while there is time, and one deadline is for the whole."""

import asyncio
import contextlib
import os
import random
import signal
import uuid

import pytest

from coordinator import Coordinator, InDoubt, Unavailable, limits
from coordinator.bootstrap import SystemClock
from coordinator.engine import service
from coordinator.engine.ownership import Ownership
from coordinator.engine.timers import Periodic
from coordinator.faults.injectors import ArmedFaults, Fault
from coordinator.faults.points import Cell
from coordinator.journal.group_commit import GroupCommit, close_all
from coordinator.stopping import Stop
from participants import MemoryBroker, MemoryDatabase


@pytest.fixture
def database():
    return MemoryDatabase()


@pytest.fixture
def coordinator(database):
    """A coordinator in memory, not entered yet."""
    return made(database)


def made(database, **options) -> Coordinator:
    participants = {"db": database, "events": MemoryBroker()}
    return Coordinator(journal=f"memory://{uuid.uuid4()}", participants=participants, **options)


async def insert(coordinator, go_on=None, entered=None) -> None:
    async with coordinator.transaction("t") as transaction:
        (await transaction.enlist("db")).insert("t", "row")
        if entered is not None:
            entered.set()
        if go_on is not None:
            await go_on.wait()


async def test_what_is_open_ends_and_nothing_begins(coordinator, database):
    """Leaving the coordinator waits for an open block, which commits; another one is refused, and told why."""
    entered, go_on = asyncio.Event(), asyncio.Event()
    async with coordinator:
        block = asyncio.create_task(insert(coordinator, go_on, entered))
        await entered.wait()
        draining = asyncio.create_task(coordinator.drain())
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="this process is stopping"):
            await insert(coordinator)
        assert not draining.done()
        go_on.set()
        assert await draining
        await block
    assert database.store.tables["t"] == ["row"]


async def test_a_block_that_outlives_the_stop_commits_nothing(coordinator, database):
    """Its end says that the process is stopping; whoever takes over finds nothing of it."""
    entered, go_on = asyncio.Event(), asyncio.Event()
    async with coordinator:
        coordinator._stop = Stop(10.3)  # Leaves 0.3 s for what is open.
        block = asyncio.create_task(insert(coordinator, go_on, entered))
        await entered.wait()
    go_on.set()
    with pytest.raises(Unavailable, match="this process is stopping"):
        await block
    assert database.store.tables["t"] == []


async def test_a_block_that_outlives_the_stop_can_do_nothing_more(coordinator, database):
    """It neither writes nor publishes any more, and its own error goes on."""
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        async with coordinator.transaction("t") as transaction:
            (await transaction.enlist("db")).insert("t", "row")
            entered.set()
            await go_on.wait()
            with pytest.raises(Unavailable, match="this process is stopping"):
                await transaction.publish("events", topic="t", value="x")
            raise ZeroDivisionError

    async with coordinator:
        coordinator._stop = Stop(10.3)
        block = asyncio.create_task(work())
        await entered.wait()
    go_on.set()
    with pytest.raises(ZeroDivisionError):
        await block
    assert database.store.tables["t"] == []


async def test_who_waits_for_an_outcome_is_told_that_it_is_not_known(coordinator):
    """A transaction that hangs while it is driven is left to others: in doubt, which is no cancellation."""
    async with coordinator:
        coordinator._stop = Stop(10.3)
        reached = asyncio.Event()

        async def hang() -> None:
            reached.set()
            await asyncio.Event().wait()

        with ArmedFaults(faults=[Fault(point="pg.commit_record", cell=Cell.BEFORE, action="call", call=hang)]):
            block = asyncio.create_task(insert(coordinator))
            await reached.wait()
            await coordinator.__aexit__(None, None, None)
            with pytest.raises(InDoubt):
                await block


async def test_the_lease_is_held_while_it_drains_and_given_up_at_the_end(coordinator):
    """Others take over at once, but not before; and what others left is not begun by a process that ends."""
    go_on, entered = asyncio.Event(), asyncio.Event()
    async with coordinator:
        engine, world = coordinator.engine, coordinator.engine.journal.world
        owner = engine.ownership.lease.owner
        block = asyncio.create_task(insert(coordinator, go_on, entered))
        await entered.wait()
        draining = asyncio.create_task(coordinator.drain())
        await asyncio.sleep(2 * limits.DRAIN_LOOK_S)
        running = {loop.name for loop in engine._loops if loop._task is not None}
        assert running == set(service.LOOPS_WHILE_DRAINING)
        assert world.owners[owner].lease_until_s > world.now_s()
        go_on.set()
        await asyncio.gather(draining, block)
    assert world.owners[owner].lease_until_s < world.now_s()


async def test_steps_that_hang_share_one_deadline():
    """Each is left behind when its time is over; the last one still has what was left for it."""
    stop, ended = Stop(0.4), []

    async def hang() -> None:
        await asyncio.Event().wait()

    async def end() -> None:
        ended.append(stop.left_s(leaving_s=0))

    began_s = asyncio.get_running_loop().time()
    await stop.step("first", hang, leaving_s=0.3)
    await stop.step("second", hang, leaving_s=0.2)
    await stop.step("last", end, leaving_s=0)
    assert 0.1 < ended[0] <= 0.2
    assert asyncio.get_running_loop().time() - began_s < 0.4


async def test_a_participant_that_hangs_does_not_keep_the_lease(coordinator, database, monkeypatch):
    """Its close is left behind; the others are closed, and the lease is given up all the same."""
    monkeypatch.setattr(database, "close", asyncio.Event().wait)
    async with coordinator:
        world, owner = coordinator.engine.journal.world, coordinator.engine.ownership.lease.owner
        coordinator._stop._within_s = 2.2
    assert world.owners[owner].lease_until_s < world.now_s()


async def test_sigterm_ends_the_block_and_the_program_goes_on(database):
    """A worker that would run for ever: what is open is committed, then the block is left without an error."""
    entered, go_on = asyncio.Event(), asyncio.Event()
    async with made(database, drain_on_sigterm=True) as coordinator:
        block = asyncio.create_task(insert(coordinator, go_on, entered))
        await entered.wait()
        asyncio.get_running_loop().call_later(0.1, go_on.set)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()
    await block
    assert database.store.tables["t"] == ["row"]
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


async def test_sigterm_is_handled_to_the_very_end(database, monkeypatch):
    """A second one, or one while the block is being left, does not end the process in the middle of it."""
    handlers = []

    async def close() -> None:
        handlers.append(signal.getsignal(signal.SIGTERM))
        if handlers[-1] is not signal.SIG_DFL:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(0.05)

    monkeypatch.setattr(database, "close", close)
    async with made(database, drain_on_sigterm=True):
        pass
    assert handlers
    assert handlers[0] is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, "and afterwards it is as it was"


async def test_sigterm_while_it_starts_ends_the_start(database, monkeypatch):
    """What was opened is closed, and the lease is given up."""
    opened = asyncio.Event()

    async def hang() -> None:
        opened.set()
        await asyncio.Event().wait()

    coordinator, owners = made(database, drain_on_sigterm=True), []
    resign = Ownership.resign

    async def noting(self) -> None:
        owners.append(self.lease.owner)
        await resign(self)

    monkeypatch.setattr(database, "open", hang)
    monkeypatch.setattr(Ownership, "resign", noting)
    starting = asyncio.create_task(coordinator.__aenter__())
    await opened.wait()
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert len(owners) == 1


async def test_another_cancellation_goes_on(database):
    """Only what SIGTERM began is kept inside."""

    async def work() -> None:
        async with made(database, drain_on_sigterm=True):
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_write_that_hangs_does_not_hold_up_whoever_closes_its_queue():
    """The close is cancelled when its time is over, and what would come after the queue is not waited for."""
    asked = asyncio.Event()

    async def hang(batch):
        asked.set()
        await asyncio.Event().wait()

    queue = GroupCommit("journal: decisions", hang)
    answer = queue.put(1)
    await asked.wait()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await close_all([queue], [])
            await asyncio.Event().wait()
    assert not answer.done(), "others may find it written"


async def test_a_round_that_hangs_does_not_hold_up_whoever_stops_its_loop():
    """Cancelled as it is, it has its own time to end; whoever waits for it need not."""
    begun, cleaned = asyncio.Event(), asyncio.Event()

    async def round_() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await cleaned.wait()

    loop = Periodic(name="slow", round_=round_, period_s=0.001, clock=SystemClock(), chance=random.Random(1))
    await loop.start()
    await begun.wait()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await loop.stop()
    cleaned.set()


@pytest.mark.parametrize("its_own_task", [True, False])
async def test_a_round_that_waits_for_something_cancelled_or_cancels_itself_is_not_the_last(its_own_task):
    """Nobody has stopped the loop; whoever does stops it."""
    rounds, third = [], asyncio.Event()

    async def round_() -> None:
        rounds.append(1)
        if len(rounds) == 3:
            third.set()
        if its_own_task:
            asyncio.current_task().cancel()
            await asyncio.sleep(0)
        raise asyncio.CancelledError

    loop = Periodic(name="odd", round_=round_, period_s=0.001, clock=SystemClock(), chance=random.Random(1))
    await loop.start()
    async with asyncio.timeout(5):
        await third.wait()
        await loop.stop()
    made = len(rounds)
    await asyncio.sleep(0.01)
    assert len(rounds) == made


async def test_loops_whose_rounds_end_slowly_are_stopped_together(coordinator):
    """There is one for each participant, and each may be at its participant's mercy."""
    async with coordinator:
        begun, ended = [], []
        engine = coordinator.engine

        async def round_() -> None:
            begun.append(1)
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.2)
                ended.append(1)

        slow = [engine._loop(f"slow {number}", round_, 0.001) for number in range(10)]
        engine._loops += slow
        for loop in slow:
            await loop.start()
        while len(begun) < len(slow):  # noqa: ASYNC110 - it has no event.
            await asyncio.sleep(0.01)
        async with asyncio.timeout(1):
            assert await engine.drain(0.5)
        assert len(ended) == len(slow)


async def test_a_round_that_does_not_let_itself_be_cancelled_is_the_last():
    """It is waited for, and no other begins."""
    begun, rounds = asyncio.Event(), []

    async def round_() -> None:
        rounds.append(1)
        begun.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    loop = Periodic(name="deaf", round_=round_, period_s=0.001, clock=SystemClock(), chance=random.Random(1))
    await loop.start()
    await begun.wait()
    async with asyncio.timeout(5):
        await loop.stop()
    assert len(rounds) == 1
