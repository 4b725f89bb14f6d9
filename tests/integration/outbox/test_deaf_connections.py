"""A relay whose connections to the database hear nothing any more, though nobody has closed them."""

import asyncio

import asyncpg
import pytest

from coordinator.dev.postgres import LocalPostgres
from participants.kafka.publisher import KafkaPublisher
from participants.outbox.relay import Relay
from tests.integration.outbox.test_relay import EVENTS, Reader, message, write
from tests.integration.postgres.relay import Relay as Wire

pytestmark = pytest.mark.servers


@pytest.fixture
async def wired(postgres: LocalPostgres, database, kafka):
    """A relay whose way to the database can be disturbed, and the disturber."""
    async with Wire(postgres.port) as wire:
        url = database.replace(f":{postgres.port}/", f":{wire.port}/")
        relay = Relay(url, {EVENTS: KafkaPublisher(kafka.bootstrap)}, poll_every_s=0.05)
        await relay.start()
        yield relay, wire
        await relay.stop()


async def deafen(wire: Wire) -> None:
    """Every connection that is used now hears nothing more; those that are made later are whole."""
    wire.swallow_answers_to(b"")
    await asyncio.sleep(0.5)
    wire.release()


async def test_a_relay_leaves_connections_that_do_not_answer(wired, database, kafka, topic):
    """It keeps its shards by other connections, so nobody else would deliver their rows."""
    _, wire = wired
    await deafen(wire)
    connection = await asyncpg.connect(database)
    await write(connection, *(message(n, topic, key=f"k{n}") for n in range(20)))
    await connection.close()
    assert sorted((await Reader(kafka.bootstrap, topic).until(20, within_s=30)).ids()) == sorted(
        f"m{n}" for n in range(20)
    )


async def test_a_relay_ends_while_its_connections_do_not_answer(wired):
    """Giving such a connection back raises an error of its own in the place of the cancellation."""
    relay, wire = wired
    await deafen(wire)
    async with asyncio.timeout(20):
        await relay.stop()
