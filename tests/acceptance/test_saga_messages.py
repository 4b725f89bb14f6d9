"""A step that is a command on Kafka and its reply: correlated, once, and with a deadline."""

import asyncio

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from pydantic import BaseModel

from coordinator import Compensated, Coordinator, Parked, Settings
from coordinator.faults.injectors import ArmedFaults, Fault
from coordinator.faults.points import Cell
from coordinator.limits import SAGA_SIGNAL_BYTES_MAX
from coordinator.sagas import Command, Saga, command, deliver_reply, return_address, step
from participants import Kafka, Postgres

SETTINGS = Settings(lease_s=2.0, recovery_s=0.2)


class Charge(BaseModel):
    amount: int


class Charged(BaseModel):
    receipt: str


async def price(request: int) -> int:
    return request * 2


async def charge_command(price: int) -> Command:
    return Command(value=Charge(amount=price), key="card")


async def note(charge: Charged) -> str:
    return charge.receipt


@pytest.fixture
async def topics(create_topic):
    """For commands, and for replies."""
    return await create_topic(), await create_topic()


@pytest.fixture
async def coordinator(database, kafka):
    """With an outbox in its database, and the broker."""
    participants = {"db": Postgres(database), "events": Kafka(kafka.bootstrap)}
    async with Coordinator(journal=database, participants=participants, settings=SETTINGS) as opened:
        yield opened


def saga_on(topic, within=30.0):
    """price -> charge, by a command -> note."""
    charge = command("charge", charge_command, topic=topic, participant="events", within=within, of=Charged)
    return Saga(f"checkout {topic}", step(price), *charge, step(note))


async def served(bootstrap, commands, replies, seen):
    """The payment service: answers every command, and twice."""
    consumer = AIOKafkaConsumer(commands, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    async with consumer, producer:
        async for record in consumer:
            seen.append(record.value)
            reply = Charged(receipt=f"paid {Charge.model_validate_json(record.value).amount}").model_dump_json()
            for _ in range(2):
                headers = list(return_address(record.headers).items())
                await producer.send_and_wait(replies, reply.encode(), headers=headers)


async def delivered(bootstrap, replies, coordinator, told):
    """The saga's service: hands replies over."""
    async with AIOKafkaConsumer(replies, bootstrap_servers=bootstrap, auto_offset_reset="earliest") as consumer:
        async for record in consumer:
            told.append(await deliver_reply(coordinator, record.headers, record.value))


@pytest.mark.parametrize("cell", [None, Cell.REPLY_LOST, Cell.AFTER])
async def test_a_command_is_published_once_and_its_reply_is_the_step_s_output(coordinator, topics, kafka, cell):
    """Also where nobody saw the end of the step's first attempt; and a reply that comes twice changes nothing."""
    commands, replies = topics
    seen, told = [], []
    service = asyncio.create_task(served(kafka.bootstrap, commands, replies, seen))
    back = asyncio.create_task(delivered(kafka.bootstrap, replies, coordinator, told))
    fault = Fault(point="saga.run", cell=cell or Cell.BEFORE, labels={"step": "charge.sent"}, times=1)
    with ArmedFaults(faults=[fault] if cell else []):
        outcome = await coordinator.run(saga_on(commands), 21)
    assert outcome.outputs["note"] == "paid 42"
    assert outcome.outputs["charge"] == Charged(receipt="paid 42")
    async with asyncio.timeout(20):
        while len(told) < 2:  # noqa: ASYNC110 - the second reply comes when it comes.
            await asyncio.sleep(0.01)
    assert seen == [b'{"amount":42}']
    assert told[0]
    assert fault.fired == (1 if cell else 0)
    for task in (service, back):
        task.cancel()


async def test_without_a_reply_in_time_it_is_undone(coordinator, topics):
    with pytest.raises(Compensated, match="no reply to 'charge' within"):
        await coordinator.run(saga_on(topics[0], within=0.3), 21)


async def test_a_reply_of_another_type_parks_it_and_the_right_one_lets_it_go_on(coordinator, topics):
    """It is neither taken for an answer nor for none: an operator is told at once what is wrong with it."""
    saga = saga_on(topics[0])
    handle = await coordinator.start(saga, 21)
    address = [("saga-gid", handle.gid.encode()), ("saga-step", b"charge")]
    assert await deliver_reply(coordinator, address, b'{"recipe": "cake"}')
    async with asyncio.timeout(20):
        with pytest.raises(Parked, match="charge: the reply to 'charge' came as another type: receipt: Field required"):
            await handle.result()
    (alert,) = await coordinator.sagas.engine.alerts.open_alerts()
    assert (alert.gid, alert.kind) == (handle.gid, "parked-saga")
    assert "receipt: Field required" in alert.detail
    async with asyncio.timeout(20):
        await handle.resume("let us see")
        with pytest.raises(Parked, match="Field required"):
            await handle.result()
        assert await deliver_reply(coordinator, address, b'{"receipt": "paid 42"}')
        await handle.resume("they have sent the right one")
        assert (await handle.result()).outputs["note"] == "paid 42"
    assert await coordinator.sagas.engine.alerts.open_alerts() == []


async def test_a_saga_with_a_reply_of_another_type_can_be_undone(coordinator, topics):
    handle = await coordinator.start(saga_on(topics[0]), 21)
    address = [("saga-gid", handle.gid.encode()), ("saga-step", b"charge")]
    assert await deliver_reply(coordinator, address, b"[]")
    async with asyncio.timeout(20):
        with pytest.raises(Parked):
            await handle.result()
        await handle.cancel("they do not keep to the contract")
        with pytest.raises(Compensated, match="do not keep to the contract"):
            await handle.result()


@pytest.mark.parametrize(
    "value", [b"NaN", b'{"receipt": Infinity}', b'"' + b"x" * SAGA_SIGNAL_BYTES_MAX + b'"'], ids=len
)
async def test_a_record_that_no_journal_takes_is_told_from_one_that_came_too_late(coordinator, topics, value):
    """The saga still waits for its reply, and it comes."""
    handle = await coordinator.start(saga_on(topics[0]), 21)
    address = [("saga-gid", handle.gid.encode()), ("saga-step", b"charge")]
    with pytest.raises(ValueError, match=r"limit|expected value"):
        await deliver_reply(coordinator, address, value)
    assert await deliver_reply(coordinator, address, b'{"receipt": "paid 42"}')
    assert (await handle.result()).outputs["note"] == "paid 42"
    assert not await deliver_reply(coordinator, address, b'{"receipt": "paid 42"}')
