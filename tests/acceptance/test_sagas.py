"""Sagas as users write them, on the log in memory and on the one in PostgreSQL: every ending, waiting, and takeover."""

import asyncio

import pytest
from pydantic import BaseModel, ConfigDict

from coordinator import Compensated, Coordinator, InvalidDefinition, KeyReused, Parked, Refused, Settings, Unavailable
from coordinator.protocol.saga import Phase
from coordinator.sagas import Attempts, Saga, Status, StepContext, await_signal, sleep, step

SETTINGS = Settings(lease_s=2.0, recovery_s=0.2)
QUICK = Attempts(at_most=3, backoff_s=0.001, backoff_max_s=0.01)


async def until(holds):
    """Wait for something that other tasks make true."""
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event.
            await asyncio.sleep(0.005)


async def phase(handle, wanted, reason=""):
    """Wait until the saga is there; because of *reason*, where one is given."""
    async with asyncio.timeout(20):
        while (found := await handle.outcome()).phase is not wanted or reason not in found.reason:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


class World:
    """What steps did, in order; what they are told to raise, by (direction and) name; and which cancel their task."""

    def __init__(self):
        self.did, self.begun, self.raises, self.holds = [], [], {}, {}
        self.cancels = set()

    async def act(self, name):
        self.begun.append(name)
        if name in self.cancels:
            asyncio.current_task().cancel()
            await asyncio.sleep(60)
        if hold := self.holds.get(name):
            await hold.wait()
        if failures := self.raises.get(name):
            failure = failures.pop(0)
            if failure is not None:
                raise failure
        self.did.append(name)

    def saga(self, name="checkout", **options):
        """reserve -> charge -> ship, each with a compensation but the last."""

        async def reserve(request: int) -> int:
            await self.act("reserve")
            return request + 1

        async def release(reserve: int, context: StepContext) -> None:
            await self.act("release")

        async def charge(reserve: int) -> str:
            await self.act("charge")
            return f"paid {reserve}"

        async def refund(request: int) -> None:
            await self.act("refund")

        async def ship(charge: str) -> str:
            await self.act("ship")
            return f"shipped, {charge}"

        return Saga(
            name,
            step(reserve, compensate=release, retry=QUICK, undo_retry=QUICK),
            step(charge, compensate=refund, retry=QUICK, undo_retry=QUICK, timeout_s=0.5),
            step(ship, retry=QUICK),
            **options,
        )


@pytest.fixture
def world():
    return World()


@pytest.fixture(params=["memory", "postgres"])
def journal(request):
    """Where the log is kept."""
    if request.param == "memory":
        return f"memory://{request.node.name}"
    return request.getfixturevalue("database")


@pytest.fixture
async def coordinator(journal, world):
    """A coordinator that knows the saga of the world."""
    async with Coordinator(journal=journal, sagas=[world.saga()], settings=SETTINGS) as opened:
        yield opened


async def test_it_completes_and_each_output_is_an_input_of_what_comes_later(coordinator, world):
    outcome = await coordinator.run(world.saga(), 1)
    assert outcome.completed
    assert outcome.outputs == {"reserve": 2, "charge": "paid 2", "ship": "shipped, paid 2"}
    assert world.did == ["reserve", "charge", "ship"]


async def test_a_refusal_is_undone_in_reverse(coordinator, world):
    world.raises["ship"] = [Refused("no address")]
    with pytest.raises(Compensated, match="ship: no address"):
        await coordinator.run(world.saga(), 1)
    assert world.did == ["reserve", "charge", "refund", "release"]


async def test_what_did_nothing_is_tried_again_and_what_nobody_knows_is_undone(coordinator, world):
    serialisation = type("SerializationError", (Exception,), {"sqlstate": "40001"})
    world.raises["reserve"] = [Unavailable("later"), serialisation("could not serialize access")]
    world.raises["charge"] = [ConnectionResetError()]
    with pytest.raises(Compensated):
        await coordinator.run(world.saga(), 1)
    assert world.did == ["reserve", "refund", "release"]


async def test_a_timeout_is_not_a_failure_its_compensation_runs(coordinator, world):
    world.holds["charge"] = asyncio.Event()
    with pytest.raises(Compensated, match="charge: TimeoutError"):
        await coordinator.run(world.saga(), 1)
    assert world.did == ["reserve", "refund", "release"]


async def test_an_output_that_is_no_json_is_a_step_s_failure_and_not_the_journal_s(coordinator):
    """A model may be told to write numbers that are none."""

    class Odd(BaseModel):
        model_config = ConfigDict(ser_json_inf_nan="constants")
        share: float

    async def divide() -> Odd:
        return Odd(share=float("inf"))

    with pytest.raises(Compensated, match="divide: ValueError: Infinity cannot be written as JSON"):
        await coordinator.run(Saga("odd", step(divide, retry=QUICK)))


async def test_a_step_whose_end_the_journal_refuses_is_not_called_again_but_parks(coordinator, world, monkeypatch):
    append = coordinator.sagas.engine.log.append

    def refusing(number, position, event, **more):
        if '"done","s":"charge"' in event:
            raise Refused("the journal cannot store this")
        return append(number, position, event, **more)

    monkeypatch.setattr(coordinator.sagas.engine.log, "append", refusing)
    handle = await coordinator.start(world.saga(), 1)
    with pytest.raises(Parked, match="charge: its output cannot be stored"):
        await handle.result()
    assert world.did == ["reserve", "charge"]
    await handle.cancel("it is given up")
    await phase(handle, Phase.COMPENSATED)
    assert world.did == ["reserve", "charge", "refund", "release"]


async def test_a_compensation_that_fails_for_good_parks_and_an_operator_resumes_or_skips(coordinator, world):
    world.raises["ship"] = [Refused("no")]
    world.raises["refund"] = [OSError("down")] * 3 + [OSError("still down")] * 3
    handle = await coordinator.start(world.saga(), 1)
    with pytest.raises(Parked, match="its compensation failed 3 times"):
        await handle.result()
    await handle.resume("the bank is back")
    await phase(handle, Phase.PARKED, "still down")
    with pytest.raises(Refused, match="only with a reason"):
        await handle.skip("charge", " ")
    await handle.skip("charge", "refunded by hand")
    await phase(handle, Phase.COMPENSATED)
    assert world.did == ["reserve", "charge", "release"]


async def test_whoever_lets_a_parked_saga_go_on_awaits_what_comes_of_it(coordinator, world):
    """Not that it is parked, before anybody has heard the word."""
    world.raises["ship"] = [Refused("no")]
    world.raises["refund"] = [OSError("down")] * 3 + [OSError("still down")] * 3 + [OSError("down for good")] * 3
    handle = await coordinator.start(world.saga(), 1)
    with pytest.raises(Parked, match="3 times: OSError: down"):
        await handle.result()
    with pytest.raises(Refused, match="is parked at 'charge', not at 'reserve'"):
        await handle.skip("reserve", "it is not parked at this one")
    with pytest.raises(Parked, match="3 times: OSError: down"):
        await handle.result()
    await handle.resume("the bank is back")
    with pytest.raises(Parked, match="still down"):
        await handle.result()
    await handle.resume("now it is")
    with pytest.raises(Parked, match="down for good"):
        await handle.result()
    await handle.skip("charge", "refunded by hand")
    with pytest.raises(Compensated):
        await handle.result()
    assert world.did == ["reserve", "charge", "release"]


async def test_a_word_that_lets_go_on_is_refused_where_it_is_not_parked_and_when_it_comes_twice(
    coordinator, world, monkeypatch
):
    """Kept, it would let the saga go on when it is parked for another reason."""
    world.raises["ship"] = [Refused("no")]
    world.raises["refund"] = [OSError("down")] * 3 + [OSError("still down")] * 3
    world.holds["ship"] = asyncio.Event()
    handle = await coordinator.start(world.saga(), 1)
    await until(lambda: "ship" in world.begun)
    with pytest.raises(Refused, match="is not parked"):
        await handle.resume("why not")
    with pytest.raises(Refused, match="is not parked"):
        await handle.skip("charge", "why not")
    world.holds["ship"].set()
    with pytest.raises(Parked):
        await handle.result()
    with monkeypatch.context() as deaf:
        deaf.setattr(coordinator.sagas.engine.log, "awake", lambda known, at_most: asyncio.sleep(0, []))
        await handle.resume("the bank is back")
        with pytest.raises(Refused, match="has been let go on already"):
            await handle.resume("is it?")
    with pytest.raises(Parked, match="still down"):
        await handle.result()


async def test_one_key_starts_one_saga_and_another_input_is_refused(coordinator, world):
    first, second = await asyncio.gather(
        coordinator.start(world.saga(), 1, key="order-1"), coordinator.start(world.saga(), 1, key="order-1")
    )
    assert first.gid == second.gid
    assert (await second.result()).completed
    assert (await coordinator.run(world.saga(), 1, key="order-1")).gid == first.gid
    assert (await (await coordinator.attach(world.saga(), "order-1")).result()).completed
    assert world.did == ["reserve", "charge", "ship"]
    with pytest.raises(KeyReused, match="with another input"):
        await coordinator.start(world.saga(), 2, key="order-1")
    with pytest.raises(Refused, match="was begun with key"):
        await coordinator.attach(world.saga(), "order-2")
    with pytest.raises(InvalidDefinition, match="of another type"):
        await coordinator.start(world.saga(), "one")


def fork(world):
    """left and right after begin, then end."""

    def action(name):
        async def act() -> None:
            await world.act(name)

        async def undo() -> None:
            await world.act(f"undo {name}")

        return {"action": act, "name": name, "compensate": undo, "retry": QUICK, "undo_retry": QUICK}

    return Saga(
        "fork",
        step(**action("begin")),
        step(**action("left"), after="begin"),
        step(**action("right"), after="begin"),
        step(**action("end"), after=("left", "right")),
    )


async def test_siblings_run_together_and_one_in_flight_settles_before_anything_is_undone(coordinator, world):
    saga = fork(world)
    world.holds["right"] = asyncio.Event()
    world.raises["left"] = [Refused("no")]
    handle = await coordinator.start(saga)
    await until(lambda: not world.raises["left"])
    await asyncio.sleep(0.05)
    assert world.did == ["begin"]  # The left one was refused, and nothing is undone yet.
    world.holds["right"].set()
    with pytest.raises(Compensated):
        await handle.result()
    assert world.did == ["begin", "right", "undo right", "undo begin"]


async def test_it_sleeps_and_waits_for_a_signal_without_a_task(coordinator, world):
    async def confirm(paid: int) -> int:
        return paid * 2

    saga = Saga("patient", sleep("cool-off", 0.3), await_signal("paid", within=60, of=int), step(confirm))
    handle = await coordinator.start(saga, key="order-3")
    engine = coordinator.sagas.engine
    await until(lambda: not engine.running)
    await until(
        lambda: coordinator.sagas.recovery.recovered == 1
    )  # It was woken, and sleeps again: now it waits for the signal.
    await until(lambda: not engine.running)
    await coordinator.signal(saga, "order-3", "paid", 21)
    assert (await handle.result()).outputs == {"cool-off": None, "paid": 21, "confirm": 42}
    with pytest.raises(Refused, match="has ended"):
        await handle.signal("paid", 1)


async def test_it_is_called_off_between_two_steps(coordinator, world):
    world.holds["charge"] = asyncio.Event()
    handle = await coordinator.start(world.saga(), 1)
    await until(lambda: "charge" in world.begun)
    await handle.cancel("changed my mind")
    world.holds["charge"].set()
    with pytest.raises(Compensated, match="changed my mind"):
        await handle.result()
    assert world.did == ["reserve", "charge", "refund", "release"]


async def test_a_signal_that_came_early_is_not_lost(coordinator, world):
    saga = Saga("early", sleep("nap", 0.3), await_signal("paid", of=int))
    handle = await coordinator.start(saga)
    with pytest.raises(InvalidDefinition, match="another type as 'paid'"):
        await handle.signal("paid", "a lot")
    assert await coordinator.sagas.engine.log.send(handle.gid, "paid", '"sent by something else"')
    await handle.signal("paid", 7)
    assert (await handle.result()).outputs["paid"] == 7


async def test_a_signal_of_another_type_parks_it_when_what_is_being_called_has_settled(coordinator, world):
    """By whichever way it came: a handle refuses to send it. What is called meanwhile is not cut off."""
    world.holds["pack"] = asyncio.Event()

    async def pack() -> None:
        await world.act("pack")

    saga = Saga("parcel", await_signal("paid", of=int, after=()), step(pack, after=(), retry=QUICK), version="1")
    handle = await coordinator.start(saga)
    await until(lambda: world.begun == ["pack"])
    await coordinator.sagas.send(handle.gid, "paid", "four")
    run = coordinator.sagas.engine.running[handle.gid]
    await until(lambda: run.signalled == 1)
    assert (await handle.outcome()).phase is Phase.FORWARD
    world.holds["pack"].set()
    async with asyncio.timeout(20):
        with pytest.raises(
            Parked, match="paid: the signal 'paid' came as another type: it: Input should be a valid int"
        ):
            await handle.result()
    await handle.signal("paid", 4)
    await handle.resume("the right one is there")
    assert (await handle.result()).outputs["paid"] == 4
    assert (world.begun, world.did) == (["pack"], ["pack"])


async def test_without_a_signal_in_time_and_past_its_deadline_it_is_undone(coordinator, world):
    async def book() -> None:
        await world.act("book")

    async def unbook() -> None:
        await world.act("unbook")

    for saga, said in (
        (
            Saga("late", step(book, compensate=unbook), await_signal("paid", within=0.2)),
            "no signal 'paid' within 0.2 s",
        ),
        (Saga("over", step(book, compensate=unbook), await_signal("paid"), deadline_s=0.3), "deadline has passed"),
    ):
        world.did.clear()
        with pytest.raises(Compensated, match=said):
            await coordinator.run(saga)
        assert world.did == ["book", "unbook"]


async def test_it_is_called_off(coordinator, world):
    async def book() -> None:
        await world.act("book")

    async def unbook() -> None:
        await world.act("unbook")

    saga = Saga("off", step(book, compensate=unbook), await_signal("paid"))
    handle = await coordinator.start(saga)
    await until(lambda: not coordinator.sagas.engine.running)
    await handle.cancel("changed my mind")
    with pytest.raises(Compensated, match="changed my mind"):
        await handle.result()
    assert world.did == ["book", "unbook"]


@pytest.mark.parametrize(("says", "did"), [((Status.DONE, 5), ["after"]), (Status.NEVER, []), (Status.UNKNOWN, [])])
async def test_a_step_of_which_nobody_knows_is_asked_about(coordinator, world, says, did):
    """Unknown is never read as a no: it is asked again, and is an operator's in the end."""

    async def pay() -> int:
        raise ConnectionResetError

    async def paid() -> object:
        return says

    async def after(pay: int) -> None:
        assert pay == 5
        await world.act("after")

    saga = Saga(f"ask {says}", step(pay, status=paid, undo_retry=QUICK), step(after))
    run = coordinator.run(saga)
    if says is Status.UNKNOWN:
        with pytest.raises(Parked, match="nobody could say what became of it"):
            await run
    elif says is Status.NEVER:
        with pytest.raises(Compensated):
            await run
    else:
        assert (await run).completed
    assert world.did == did


async def test_a_changed_definition_needs_another_version(coordinator, world):
    one = Saga("v", sleep("nap", 0), version="1")
    await coordinator.run(one)
    with pytest.raises(InvalidDefinition, match="give the changed one another version"):
        await coordinator.run(Saga("v", sleep("nap", 0), sleep("again", 0), version="1"))
