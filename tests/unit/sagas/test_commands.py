"""What a saga publishes as its commands, and how whoever carries them out tells one from another."""

import asyncio

import pytest

from coordinator import Compensated, Coordinator, InvalidDefinition
from coordinator.sagas import Command, Saga, StepContext, command
from participants.barrier import Barrier, Call, Direction, Verdict
from participants.barrier.memory import Memory, MemoryConnection
from participants.memory.broker import MemoryBroker
from participants.memory.database import MemoryDatabase

GID = "unan:01ARZ3NDEKTSV4RRFFQ69G5FAV"


async def charge_command(request: int) -> Command:
    return Command(value=f"charge {request}", key="card")


async def refund_command(request: int, context: StepContext) -> Command:
    return Command(value=f"refund {request} of {context.gid}", key="card")


async def by_hand(request: int) -> str:
    return "somebody is told"


@pytest.fixture
async def broker():
    return MemoryBroker()


@pytest.fixture
async def coordinator(request, broker):
    """With an outbox, all in memory."""
    participants = {"db": MemoryDatabase(), "events": broker}
    async with Coordinator(journal=f"memory://{request.node.name}", participants=participants) as running:
        yield running


async def published(broker, count):
    """The messages, once there are so many."""
    async with asyncio.timeout(20):
        while len(broker.topics.messages) < count:  # noqa: ASYNC110 - a relay delivers them.
            await asyncio.sleep(0.01)
    return broker.topics.messages


def call(step, coordinator, direction="action", attempt=1):
    """What the engine calls a step's function with."""
    context = StepContext(
        gid=GID,
        saga="order",
        step=step.name,
        direction=direction,
        attempt=attempt,
        term=attempt,
        coordinator=coordinator,
    )
    function = step.action if direction == "action" else step.compensate
    return function(request=5, context=context)


@pytest.mark.parametrize("name", ["charge", "charge: the card/all of it"])
async def test_a_command_that_is_published_again_is_the_same_message(coordinator, broker, name):
    """The journal forgets after a day that it was published, and its saga may go on for longer."""
    sent, _ = command(name, charge_command, topic="payments", participant="events")
    for attempt in (1, 2):
        await call(sent, coordinator, attempt=attempt)
    await published(broker, 1)
    async with asyncio.timeout(20):
        while not await coordinator.engine.journal.purge(older_than_s=-60.0):  # noqa: ASYNC110 - once it is finished.
            await asyncio.sleep(0.01)
    await call(sent, coordinator, attempt=3)
    first, again = await published(broker, 2)
    assert first == again
    assert first.id.rpartition(":")[0] == GID, "it is looked for by its saga"


class Payments:
    """A service that charges once, and never after it was told to take that back: as the page says."""

    def __init__(self):
        self.table, self.charged = Memory(), []
        self.barrier = Barrier("payments", self.table)

    async def handle(self, message) -> Verdict:
        """One delivery: the record and the effect are one transaction."""
        call, connection = Call.command(message.headers), MemoryConnection()
        async with self.table.transaction(connection):
            verdict = (await self.barrier.enter(connection, call)).verdict
            if verdict is Verdict.PROCEED:
                change = self.charged.append if call.direction is Direction.ACTION else self.charged.remove
                connection.at_commit.append(lambda: change(call.gid))
        return verdict


@pytest.fixture
async def undone(coordinator, broker):
    """A command that nobody answered in time, and what undoes it."""
    charge = command(
        "charge", charge_command, topic="payments", participant="events", within=0.1, compensate=refund_command
    )
    with pytest.raises(Compensated):
        await coordinator.run(Saga("order", *charge), 5)
    return await published(broker, 2)


async def test_a_command_is_undone_by_one_about_the_same_step(undone):
    do, undo = undone
    call, opposite = Call.command(do.headers), Call.command(undo.headers)
    assert (do.topic, do.key) == (undo.topic, undo.key) == ("payments", b"card")
    assert (do.value, undo.value) == (b"charge 5", f"refund 5 of {call.gid}".encode())
    assert (call.gid, call.step, call.direction) == (opposite.gid, "charge", Direction.ACTION)
    assert (opposite.step, opposite.direction) == ("charge", Direction.COMPENSATION)
    assert do.id != undo.id


async def test_a_charge_is_taken_back(undone):
    """However often either comes."""
    do, undo, payments = *undone, Payments()
    assert [await payments.handle(each) for each in (do, do)] == [Verdict.PROCEED, Verdict.DUPLICATE]
    assert len(payments.charged) == 1
    assert [await payments.handle(each) for each in (undo, undo)] == [Verdict.PROCEED, Verdict.DUPLICATE]
    assert await payments.handle(do) is Verdict.TOO_LATE
    assert payments.charged == []


async def test_a_charge_that_comes_after_what_undoes_it_is_none(undone):
    """There is nothing to take back, and the late one charges nobody."""
    do, undo, payments = *undone, Payments()
    assert await payments.handle(undo) is Verdict.NOTHING_TO_UNDO
    assert await payments.handle(do) is Verdict.TOO_LATE
    assert await payments.handle(undo) is Verdict.DUPLICATE
    assert payments.charged == []


async def test_a_compensation_that_is_no_command_publishes_nothing(coordinator, broker):
    """It undoes it in some other way."""
    charge = command("charge", charge_command, topic="payments", participant="events", within=0.1, compensate=by_hand)
    saga = Saga("order", *charge)
    assert "by_hand" in saga.text()
    with pytest.raises(Compensated):
        await coordinator.run(saga, 5)
    assert [message.value for message in await published(broker, 1)] == [b"charge 5"]


def test_what_is_no_async_function_builds_no_command():
    with pytest.raises(InvalidDefinition, match="async function"):
        command("charge", charge_command, topic="payments", participant="events", compensate=lambda: None)


ADDRESS = {"saga-gid": GID, "saga-step": "charge", "saga-direction": "action"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"saga-gid": None},
        {"saga-step": None},
        {"saga-direction": None},
        {"saga-direction": "cancel"},
        {"saga-gid": "none"},
        {"saga-step": "a\0b"},
    ],
    ids=repr,
)
def test_a_record_that_is_no_command_raises_what_its_consumer_sets_it_aside_for(wrong):
    """Others may write to the topic as well."""
    assert Call.command(ADDRESS.items()) == Call(GID, "charge", Direction.ACTION)
    with pytest.raises(ValueError, match=r"."):
        Call.command({**ADDRESS, **wrong}.items())
