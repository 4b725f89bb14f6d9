"""What became of a step whose process is gone: its policy says, after a crash; after an orderly stop it is known."""

import asyncio

import pytest

from coordinator import Coordinator, Refused, Settings, Unavailable
from coordinator.errors import Compensated
from coordinator.protocol.saga import Phase
from coordinator.sagas import Attempts, Saga, Status, StepContext, sleep, step
from participants.barrier import Barrier, Call, Direction, Verdict
from participants.barrier.memory import Memory, MemoryConnection
from tests.acceptance.test_sagas import QUICK, journal, phase, until, world

__all__ = ["journal", "world"]
PATIENT = Attempts(at_most=5, backoff_s=60.0, backoff_max_s=60.0)


class Doubt:
    """reserve -> charge -> ship: *charge* has the policy in question, and whatever it is asked it says *says*."""

    def __init__(self, world, *, on_unknown, says=Status.UNKNOWN, pivot=False, retry=QUICK, undo_retry=QUICK):
        self.world, self.says, self.asked = world, says, 0
        self.saga = Saga(
            f"doubt-{on_unknown}",
            step(self.reserve, compensate=self.release, on_unknown="retry"),
            step(self.charge, compensate=None if pivot else self.refund, pivot=pivot, on_unknown=on_unknown,
                 status=self.charged if on_unknown == "ask" else None, retry=retry, undo_retry=undo_retry),
            step(self.ship, on_unknown="retry"),
        )  # fmt: skip

    async def reserve(self) -> int:
        await self.world.act("reserve")
        return 1

    async def release(self) -> None:
        await self.world.act("release")

    async def charge(self) -> str:
        await self.world.act("charge")
        return "paid"

    async def refund(self) -> None:
        await self.world.act("refund")

    async def charged(self) -> object:
        self.asked += 1
        return (self.says, "paid by then") if self.says is Status.DONE else self.says

    async def ship(self, charge: str) -> str:
        await self.world.act("ship")
        return f"shipped, {charge}"


def process(journal, *sagas, **settings):
    """Another process, in its own words."""
    return Coordinator(
        journal=journal, sagas=sagas, settings=Settings(**{"lease_s": 1.0, "recovery_s": 0.1} | settings)
    )


async def lost(coordinator, handle):
    """As if it had been killed a while ago: its lease has expired, and nothing is released."""
    for loop in coordinator.engine._loops:
        await loop.stop()
    coordinator.sagas.engine.tasks[handle.gid].cancel()
    ownership = coordinator.sagas.engine.ownership
    ownership.owners._lease_s = 0.0
    await ownership.owners.renew(ownership.lease)


async def after_a_crash(journal, world, doubt, *, cancel=False):
    """Its process is lost while it charges; where it stands in the end."""
    world.holds["charge"] = asyncio.Event()
    async with process(journal, doubt.saga) as first:
        handle = await first.start(doubt.saga)
        await until(lambda: "charge" in world.begun)
        await lost(first, handle)
        if cancel:
            await handle.cancel("a change of mind")
        world.holds.clear()
        async with process(journal, doubt.saga) as second:
            return await second.sagas.ended(handle.gid, doubt.saga)


async def test_what_is_idempotent_is_called_again(journal, world):
    outcome = await after_a_crash(journal, world, Doubt(world, on_unknown="retry"))
    assert outcome.completed
    assert (world.begun.count("charge"), world.did) == (2, ["reserve", "charge", "ship"])


async def test_what_is_not_is_undone_and_never_called_again(journal, world):
    outcome = await after_a_crash(journal, world, Doubt(world, on_unknown="compensate"))
    assert outcome.phase is Phase.COMPENSATED
    assert "the process that ran it was lost" in outcome.reason
    assert (world.begun.count("charge"), world.did) == (1, ["reserve", "refund", "release"])


async def test_a_participant_that_is_asked_knows_that_it_was_done(journal, world):
    doubt = Doubt(world, on_unknown="ask", says=Status.DONE)
    outcome = await after_a_crash(journal, world, doubt)
    assert outcome.outputs["ship"] == "shipped, paid by then"
    assert (world.begun.count("charge"), doubt.asked) == (1, 1)


async def test_a_participant_that_is_asked_knows_that_it_never_will_be(journal, world):
    outcome = await after_a_crash(journal, world, Doubt(world, on_unknown="ask", says=Status.NEVER))
    assert outcome.phase is Phase.COMPENSATED
    assert (world.begun.count("charge"), world.did) == (1, ["reserve", "release"])


async def test_where_nobody_knows_it_is_asked_again_also_when_it_is_resumed(journal, world):
    doubt = Doubt(world, on_unknown="ask")
    outcome = await after_a_crash(journal, world, doubt)
    assert outcome.phase is Phase.PARKED
    doubt.says = Status.DONE
    async with process(journal, doubt.saga) as third:
        await (await third.attach(doubt.saga, gid=outcome.gid)).resume("their desk says that they know again")
        async with asyncio.timeout(20):
            while (found := await third.sagas.ended(outcome.gid, doubt.saga)).phase is Phase.PARKED:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    assert found.outputs["ship"] == "shipped, paid by then"
    assert world.begun.count("charge") == 1


async def test_a_pivot_in_flight_that_is_called_off_is_called_again_to_know(journal, world):
    """It is idempotent and cannot be undone: once it is known to be done, the saga goes forward."""
    doubt = Doubt(world, on_unknown="retry", pivot=True)
    outcome = await after_a_crash(journal, world, doubt, cancel=True)
    assert (outcome.phase, world.did) == (Phase.COMPLETED, ["reserve", "charge", "ship"])
    world.raises["charge"], refused = [Refused("no")], Doubt(world, on_unknown="retry", pivot=True)
    world.begun.clear()
    outcome = await after_a_crash(journal, world, refused, cancel=True)
    assert (outcome.phase, world.did[3:]) == (Phase.COMPENSATED, ["reserve", "release"])


async def test_a_process_without_the_definition_leaves_it_to_one_that_has_it(journal, world):
    doubt = Doubt(world, on_unknown="retry")
    world.holds["charge"] = asyncio.Event()
    async with process(journal, doubt.saga) as first:
        handle = await first.start(doubt.saga, key="order-4")
        await until(lambda: "charge" in world.begun)
        await lost(first, handle)
        world.holds.clear()
        async with process(journal, Saga("another", sleep("nap", 0))) as stranger:
            await asyncio.sleep(0.5)
            assert stranger.sagas.recovery.recovered == 0
            async with process(journal, doubt.saga) as second:
                assert (await (await second.attach(doubt.saga, "order-4")).result()).completed


# ── an orderly stop ──


async def test_a_step_that_is_called_ends_while_its_process_stops_and_the_next_one_is_others(journal, world):
    """Nothing is doubtful, whatever the policy: a deployment undoes nothing."""
    doubt = Doubt(world, on_unknown="compensate")
    world.holds["charge"] = asyncio.Event()
    async with process(journal, doubt.saga, lease_s=60.0) as first:
        handle = await first.start(doubt.saga)
        await until(lambda: "charge" in world.begun)
        asyncio.get_running_loop().call_later(0.5, world.holds["charge"].set)
    assert world.did == ["reserve", "charge"]
    async with process(journal, doubt.saga) as second:
        assert (await second.sagas.ended(handle.gid, doubt.saga)).completed
    assert world.did == ["reserve", "charge", "ship"]


@pytest.mark.parametrize(("on_unknown", "ends"), [("compensate", Phase.COMPENSATED), ("retry", Phase.COMPLETED)])
async def test_a_step_that_is_cut_off_at_the_deadline_of_a_stop_is_doubtful(journal, world, on_unknown, ends):
    doubt = Doubt(world, on_unknown=on_unknown)
    world.holds["charge"] = asyncio.Event()
    async with process(journal, doubt.saga, lease_s=60.0) as first:
        handle = await first.start(doubt.saga)
        await until(lambda: "charge" in world.begun)
        assert not await first.sagas.engine.drain(0.3)
        await first.sagas.engine.stop()
        world.holds.clear()
        async with process(journal, doubt.saga) as second:
            outcome = await second.sagas.ended(handle.gid, doubt.saga)
    assert outcome.phase is ends
    assert world.begun.count("charge") == (2 if on_unknown == "retry" else 1)


async def test_between_attempts_that_did_nothing_a_stop_hands_over_at_once_and_without_doubt(journal, world):
    doubt = Doubt(world, on_unknown="compensate", retry=PATIENT)
    world.raises["charge"] = [Unavailable("later")]
    async with process(journal, doubt.saga, lease_s=60.0) as first:
        handle = await first.start(doubt.saga)
        await until(lambda: not world.raises["charge"])
        async with asyncio.timeout(2):
            assert await first.sagas.engine.drain(10.0)
        async with process(journal, doubt.saga) as second:
            assert (await second.sagas.ended(handle.gid, doubt.saga)).completed
    assert world.did == ["reserve", "charge", "ship"]


async def test_between_attempts_of_which_one_may_have_done_it_a_stop_hands_over_the_doubt(journal, world):
    """The participant was asked once, without an answer: its successor asks again, and does not call."""
    doubt = Doubt(world, on_unknown="ask", undo_retry=PATIENT)
    world.raises["charge"] = [ConnectionResetError()]
    async with process(journal, doubt.saga, lease_s=60.0) as first:
        handle = await first.start(doubt.saga)
        await until(lambda: doubt.asked)
        async with asyncio.timeout(2):
            assert await first.sagas.engine.drain(10.0)
        doubt.says = Status.DONE
        async with process(journal, doubt.saga) as second:
            outcome = await second.sagas.ended(handle.gid, doubt.saga)
    assert outcome.outputs["ship"] == "shipped, paid by then"
    assert world.begun.count("charge") == 1


async def test_a_sleeper_and_what_is_released_unbegun_are_not_doubtful(journal, world):
    """It sleeps while its process ends, and its next step is simply called."""

    async def late() -> None:
        await world.act("late")

    async def undo() -> None:
        await world.act("undo")

    saga = Saga("sleeper", sleep("nap", 0.5), step(late, compensate=undo))
    async with process(journal, saga) as first:
        handle = await first.start(saga)
    async with process(journal, saga) as second:
        assert (await second.sagas.ended(handle.gid, saga)).completed
    assert world.did == ["late"]


async def test_what_is_called_settles_before_its_sibling_parks_the_saga(journal, world):
    """Nothing is cut off that nobody has any doubt about, and nothing else begins meanwhile."""

    async def lost_one() -> None:
        await world.act("lost one")

    async def known() -> Status:
        return Status.UNKNOWN

    async def careful() -> None:
        await world.act("careful")

    async def undo() -> None:
        await world.act("undo")

    async def slow() -> None:
        await world.act("slow")

    async def last() -> None:
        await world.act("last")

    world.raises["lost one"] = [ConnectionResetError()]
    world.holds["careful"], world.holds["slow"] = asyncio.Event(), asyncio.Event()
    saga = Saga(
        "siblings",
        step(lost_one, after=(), status=known, undo_retry=QUICK),
        step(careful, after=(), compensate=undo, on_unknown="compensate"),
        step(slow, after=(), on_unknown="retry"),
        step(last, after=("careful"), compensate=undo, on_unknown="compensate"),
    )
    async with process(journal, saga) as first:
        handle = await first.start(saga)
        run = first.sagas.engine.running[handle.gid]
        await until(lambda: run.held and {"careful", "slow"} <= {*world.begun})
        world.holds["careful"].set()
        await until(lambda: "careful" in run.state.marks)
        world.holds["slow"].set()
        await phase(handle, Phase.PARKED)
        assert world.begun == ["lost one", "careful", "slow"]
        await handle.skip("lost_one", "they say by telephone that it is done")
        assert (await handle.result()).completed
    assert world.did == ["careful", "slow", "last"]


async def test_what_is_being_undone_is_undone_before_its_sibling_parks_the_saga(journal, world):
    def undoing(name):
        async def action() -> None:
            await world.act(name)

        async def undo() -> None:
            await world.act(f"undo {name}")

        return step(action, name=name, compensate=undo, undo_retry=QUICK, after=())

    async def refuse() -> None:
        raise Refused("no")

    world.raises["undo a"], world.holds["undo b"] = [OSError("down")] * 3, asyncio.Event()
    saga = Saga("undos", undoing("a"), undoing("b"), step(refuse, after=("a", "b")))
    async with process(journal, saga) as first:
        handle = await first.start(saga)
        run = first.sagas.engine.running[handle.gid]
        await until(lambda: run.held)
        world.holds["undo b"].set()
        await phase(handle, Phase.PARKED, "a: its compensation failed 3 times: OSError: down")
        assert "undo b" in world.did
        await handle.resume("it is up again")
        with pytest.raises(Compensated):
            await handle.result()
    assert sorted(world.did) == ["a", "b", "undo a", "undo b"]


async def test_a_participant_turns_away_whoever_was_replaced(journal, world):
    """Its successor has a higher term, also where it was a process before it was."""
    table = Memory()
    barrier = Barrier("payments", table)
    hanging, answers = asyncio.Event(), []

    async def pay(context: StepContext) -> None:
        if context.term == 1:
            world.begun.append("pay")
            await hanging.wait()
        connection = MemoryConnection()
        async with table.transaction(connection):
            call = Call(context.gid, context.step, Direction.ACTION, term=context.term)
            answers.append((context.term, (await barrier.enter(connection, call)).verdict))

    saga = Saga("fenced", step(pay, on_unknown="retry", retry=QUICK))
    async with process(journal, saga) as successor, process(journal, saga) as first:
        handle = await first.start(saga)
        await until(lambda: "pay" in world.begun)
        for loop in first.engine._loops:
            await loop.stop()  # It stands still, and does not know that its lease expires.
        assert (await successor.sagas.ended(handle.gid, saga)).completed
        flying = first.sagas.engine.tasks[handle.gid]
        hanging.set()
        await asyncio.wait({flying})
    assert answers == [(2, Verdict.PROCEED)]
