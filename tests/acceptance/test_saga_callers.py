"""What whoever begins a saga and waits for it is told while its log, or its process, is gone."""

import asyncio

import pytest

from coordinator import Compensated, Coordinator, InDoubt, Refused, Unavailable
from coordinator.errors import Disconnected, Misconfigured, Unheard
from coordinator.protocol.saga import Phase
from coordinator.sagas import Saga, StepContext, await_signal, sleep, step
from participants import MemoryDatabase
from tests.acceptance.test_saga_crashes import process
from tests.acceptance.test_sagas import coordinator, journal, phase, until, world

__all__ = ["coordinator", "journal", "world"]

DOWN = [
    Unavailable("it restarts"),
    Disconnected("it went away"),
    OSError("reset"),
]
SHUT = Misconfigured("it knows us no more")


@pytest.fixture
def unread(coordinator, monkeypatch):
    """A list of what the next readings of the log raise."""
    log, failures = coordinator.sagas.engine.log, []
    load = log.load

    async def failing(gid):
        if failures:
            raise failures.pop(0)
        return await load(gid)

    monkeypatch.setattr(log, "load", failing)
    return failures


async def test_a_log_that_does_not_answer_says_nothing_of_a_saga_that_has_begun(coordinator, world, unread):
    """Whoever was told that nothing has happened would begin it again, and charge twice."""

    async def charge() -> None:
        await world.act("charge")

    waits = asyncio.create_task(coordinator.run(Saga("rests", step(charge, pivot=True), sleep("cool-off", 0.3))))
    await until(lambda: world.did)
    unread += DOWN
    assert (await waits).completed
    assert (unread, world.did) == ([], ["charge"])


async def test_a_log_that_lets_nobody_in_leaves_whoever_waits_in_doubt(coordinator, world, unread):
    """Waiting mends no privilege. Of the saga that says nothing: it goes on, and can be asked for again."""
    handle = await coordinator.start(Saga("rests", sleep("cool-off", 0.5)))
    await until(lambda: not coordinator.sagas.engine.running)
    unread.append(SHUT)
    with pytest.raises(InDoubt, match="cannot be read here: it knows us no more"):
        await asyncio.wait_for(handle.result(), 5)
    assert (await handle.result()).completed


async def test_that_a_log_does_not_answer_is_said_once_and_not_by_each_who_waits(coordinator, unread, caplog):
    """Where it is out for minutes, nothing else could be found among what is said of it."""
    handle = await coordinator.start(Saga("rests", sleep("cool-off", 0.5)))
    await until(lambda: not coordinator.sagas.engine.running)
    unread += [Unavailable("it restarts")] * 30 + [OSError("reset")] * 30
    async with asyncio.timeout(20):
        await asyncio.gather(*(handle.result() for _ in range(20)))
    told = [each for each in caplog.records if "is not known yet" in each.message]
    assert [str(each.args[1]) for each in told] == ["it restarts", "reset"]


@pytest.mark.parametrize("failure", [*DOWN, SHUT], ids=repr)
async def test_who_begins_it_has_a_handle_though_the_log_cannot_be_read(coordinator, world, unread, failure):
    """It stands for its key already: what it is pinned to is found out later."""
    saga = world.saga()
    first = await coordinator.start(saga, 1, key="k")
    unread.append(failure)
    again = await coordinator.start(saga, 1, key="k")
    assert (again.gid, (await again.result()).phase) == (first.gid, Phase.COMPLETED)
    assert not unread


async def test_who_waits_when_the_process_stops_is_told_that_nobody_knows_here(journal, world):
    """It goes on elsewhere, when its signal comes: neither its end nor a failure."""
    saga = Saga("waits", await_signal("go"))
    async with process(journal, saga) as stopping:
        waits = asyncio.create_task(stopping.run(saga, key="k"))
        handle = await stopping.start(saga, key="other")
        await until(lambda: not stopping.sagas.engine.running)
    async with asyncio.timeout(5):
        with pytest.raises(InDoubt, match="this process stops"):
            await waits
        with pytest.raises(InDoubt, match="this process stops"):
            await handle.result()


async def test_a_saga_that_is_started_inside_a_block_is_no_part_of_it(journal, world):
    """It goes on though the block is rolled back, and its steps, in order or at once, have blocks of their own."""
    saga_began = asyncio.Event()

    async def first() -> None:
        await saga_began.wait()

    async def book(context: StepContext) -> None:
        async with context.coordinator.transaction("book") as transaction:
            (await transaction.enlist("db")).insert("t", context.step)

    saga = Saga(
        "inside",
        step(first),
        *(step(book, name=name, after="first") for name in ("one", "other")),
        step(book, name="last", after=("one", "other")),
    )
    database = MemoryDatabase()
    async with Coordinator(journal=journal, sagas=[saga], participants={"db": database}) as coordinator:
        with pytest.raises(ZeroDivisionError):
            async with coordinator.transaction("outer") as transaction:
                (await transaction.enlist("db")).insert("t", "outer")
                handle = await coordinator.start(saga)
                saga_began.set()
                assert (await handle.result()).completed
                raise ZeroDivisionError
    assert sorted(database.store.tables["t"]) == ["last", "one", "other"]


async def test_a_signal_that_nobody_will_hear_is_not_taken(coordinator, world):
    """Whoever sent it would think that it counts. One that was heard may come twice, whatever came of it."""
    undoing = asyncio.Event()

    async def hold() -> None:
        await world.act("hold")

    async def unhold() -> None:
        undoing.set()
        await world.act("unhold")

    async def ship(paid: int) -> None:
        raise Refused("sold out")

    holding = step(hold, compensate=unhold)
    late = Saga("late", holding, await_signal("paid", within=0.1, of=int), step(ship))
    lost = Saga("lost", holding, await_signal("paid", of=int), step(ship))
    for saga, heard in ((late, False), (lost, True)):
        undoing.clear()
        world.holds["unhold"] = asyncio.Event()
        handle = await coordinator.start(saga)
        if heard:
            await handle.signal("paid", 4)
        await undoing.wait()
        if heard:
            await handle.signal("paid", 4)
        else:
            with pytest.raises(Unheard, match="it is being undone"):
                await handle.signal("paid", 4)
        world.holds["unhold"].set()
        with pytest.raises(Compensated):
            await handle.result()


async def test_a_signal_for_what_comes_behind_a_pivot_in_flight_is_heard(coordinator, world):
    """It was called off, and goes forward all the same where the pivot is done."""

    async def charge() -> None:
        await world.act("charge")

    world.holds["charge"] = asyncio.Event()
    handle = await coordinator.start(Saga("turned", step(charge, pivot=True), await_signal("go")))
    await until(lambda: world.begun)
    await handle.cancel("a change of mind")
    await handle.signal("go")
    world.holds["charge"].set()
    assert (await handle.result()).completed


async def test_a_signal_that_an_operator_did_without_is_not_taken(coordinator, world):
    async def decide() -> None:
        await world.act("decide")

    async def ship() -> None:
        await world.act("ship")

    world.holds["ship"] = asyncio.Event()
    saga = Saga("decides", step(decide, pivot=True), await_signal("paid", within=0.05), step(ship))
    handle = await coordinator.start(saga)
    await phase(handle, Phase.PARKED)
    await handle.skip("paid", "it was paid in cash")
    await until(lambda: "ship" in world.begun)
    with pytest.raises(Unheard, match="ended without it"):
        await handle.signal("paid")
    world.holds["ship"].set()
    assert (await handle.result()).completed
