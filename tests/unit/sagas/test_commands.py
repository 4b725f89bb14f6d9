"""What a saga publishes as its commands, and how whoever carries them out tells one from another."""

import asyncio

import pytest

from coordinator import Coordinator
from coordinator.sagas import Command, StepContext, command
from participants.memory.broker import MemoryBroker
from participants.memory.database import MemoryDatabase

GID = "unan:01ARZ3NDEKTSV4RRFFQ69G5FAV"


async def charge_command(request: int) -> Command:
    return Command(value=f"charge {request}", key="card")


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
