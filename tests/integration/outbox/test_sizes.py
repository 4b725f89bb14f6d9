"""A limit on the size is one of a batch: whoever is not to blame is delivered, once, and is not counted against."""

import asyncio

import asyncpg
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from coordinator.schema import apply
from participants.kafka.publisher import KafkaPublisher
from participants.outbox.relay import Relay
from tests.integration.outbox.test_relay import Reader, message, write


@pytest.fixture
async def small_topic(kafka):
    """A topic that takes batches of 20 kB."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic("small", 2, 1, topic_configs={"max.message.bytes": "20000"})])
    yield "small"
    await admin.delete_topics(["small"])
    await admin.close()


@pytest.fixture
async def connection(database):
    built = await asyncpg.connect(database)
    await apply(built)
    yield built
    await built.close()


@pytest.mark.parametrize("culprit", [None, 137])
async def test_the_others_of_a_batch_that_was_refused_are_delivered(connection, small_topic, kafka, database, culprit):
    """Sixty kB of small rows, and one of thirty in the middle of them or none: only its own key waits behind it."""
    rows = [
        message(n, small_topic, key=f"k{n % 10}", value=str(n).encode() + b" " * (30_000 if n == culprit else 300))
        for n in range(200)
    ]
    await write(connection, *rows)
    behind = set() if culprit is None else {f"m{n}" for n in range(culprit, 200, 10)}
    relay = Relay(database, {"events": KafkaPublisher(kafka.bootstrap)}, poll_every_s=0.05)
    await relay.start()
    try:
        await Reader(kafka.bootstrap, small_topic).until(200 - len(behind), within_s=60)
        left = await connection.fetch("SELECT message_id, attempts FROM unanimity.outbox ORDER BY id")
        # It is given up after a while, and its key goes on.
        reader = await Reader(kafka.bootstrap, small_topic).until(199 if behind else 200, within_s=60)
    finally:
        await relay.stop()
    assert {row["message_id"] for row in left} == behind
    assert [row["message_id"] for row in left if row["attempts"]] == ([f"m{culprit}"] if behind else [])
    assert len(reader.records) == len(reader.ids()) == (199 if behind else 200)
    for values in reader.by_key().values():
        numbers = [int(value) for value in values]
        assert numbers == sorted(numbers)


async def test_nothing_is_sent_any_more_after_a_publisher_was_closed(private_kafka):
    """Its broker was frozen: what it could not take then is not to come when it thaws, beside what is sent anew."""
    kafka = await private_kafka()
    await kafka.create_topic("t")
    publisher = KafkaPublisher(kafka.bootstrap)

    def row(number):
        return {
            "id": number,
            "message_id": f"m{number}",
            "topic": "t",
            "key": b"k",
            "value": b"1",
            "headers": "[]",
            "partition": None,
        }

    (first,) = await publisher.send([row(0)])
    await first.acknowledged
    kafka.freeze()
    (second,) = await publisher.send([row(1)])
    (third,) = await publisher.send([row(2)])
    await asyncio.sleep(0.2)
    await asyncio.wait_for(publisher.close(), timeout=15)
    assert second.acknowledged.exception() is not None
    assert third.acknowledged.exception() is not None
    kafka.thaw()
    (fourth,) = await publisher.send([row(3)])
    await fourth.acknowledged
    reader = await Reader(kafka.bootstrap, "t").until(2)
    assert reader.ids() - {"m1"} == {"m0", "m3"}, "the one that was on its way may have arrived, and no other"
    await publisher.close()
