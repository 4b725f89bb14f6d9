"""One transaction on the real broker: everything of it becomes visible, or nothing does."""

import asyncio

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from aiokafka.partitioner import DefaultPartitioner

from coordinator.errors import Refused, Unavailable
from coordinator.faults.injectors import ArmedFaults, parse
from coordinator.ports import Message
from coordinator.protocol.model import Ending, Prepared, Recipe
from participants.kafka.codec import Producer
from tests.integration.kafka.probe import GID, NAME, branch_of, message, voted


async def test_several_topics_and_partitions_commit_as_one(participant, probe, create_topic):
    """Readers of every partition see nothing before the end, and all of it afterwards, in the order of sending."""
    first, second = await create_topic(partitions=3), await create_topic(partitions=2)
    where = [(first, 0), (first, 1), (first, 2), (second, 0), (second, 1)]
    prepared = await voted(participant, *(message(t, b"%d" % n, partition=p) for n in range(10) for t, p in where))
    assert [await probe.is_open(topic, partition) for topic, partition in where] == [True] * 5
    assert await participant.commit(prepared) is Ending.COMMITTED
    for topic, partition in where:
        assert await probe.values(topic, partition) == [b"%d" % n for n in range(10)]


async def test_an_abort_hides_it_on_every_partition(participant, probe, create_topic):
    """And leaves none of them open."""
    topic = await create_topic(partitions=3)
    prepared = await voted(participant, *(message(topic, b"no", partition=p) for p in range(3)))
    assert await participant.abort(prepared) is Ending.ABORTED
    assert await probe.values(topic, 0, 1, 2) == []


async def test_messages_that_come_later_in_the_block_are_numbered_on(participant, probe, topic):
    """What was published while earlier batches travelled, and after they were acknowledged, is in the same order."""
    session = await participant.begin(GID, recipe=Recipe.COMMIT_RECORD)
    for n in range(20):
        session.publish(message(topic, b"%d" % n))
        await asyncio.sleep(0.002 if n % 5 == 0 else 0)
    _, evidence = await session.vote(10)
    assert evidence["offset"] == 0
    await participant.commit(_prepared(evidence))
    assert await probe.values(topic) == [b"%d" % n for n in range(20)]


async def test_more_than_one_batch_may_hold_is_sent_in_several(participant, probe, topic):
    """The broker's limit is for a batch (a megabyte by default), and is not one for a transaction."""
    values = [b"%03d" % n + b"x" * 100_000 for n in range(40)]
    prepared = await voted(participant, *(message(topic, value) for value in values))
    assert await participant.commit(prepared) is Ending.COMMITTED
    assert await probe.values(topic) == values


async def test_key_headers_partition_and_message_id_arrive(participant, probe, create_topic):
    """A record carries what was given; the key chooses the partition that any other Kafka client would choose."""
    topic = await create_topic(partitions=4)
    there = DefaultPartitioner()(b"author", [0, 1, 2, 3], [0, 1, 2, 3])
    prepared = await voted(
        participant,
        message(topic, b"keyed", key=b"author", headers=(("trace", b"7"),)),
        message(topic, b"placed", key=b"author", partition=(there + 1) % 4),
    )
    await participant.commit(prepared)
    (keyed,) = await probe.records(topic, there)
    (placed,) = await probe.records(topic, (there + 1) % 4)
    assert (keyed.key, keyed.value) == (b"author", b"keyed")
    assert dict(keyed.headers) == {"trace": b"7", "message-id": b"keyed"}
    assert placed.value == b"placed"


async def test_a_tombstone_is_a_message(participant, probe, topic):
    """A null value deletes a key in a compacted topic."""
    prepared = await voted(participant, message(topic, b"x", key=b"k"))
    await participant.commit(prepared)
    session = await participant.begin(GID, recipe=Recipe.COMMIT_RECORD)
    session.publish(Message(id="gone", participant=participant.name, topic=topic, value=None, key=b"k"))
    _, evidence = await session.vote(5)
    await participant.commit(_prepared(evidence))
    assert await probe.values(topic) == [b"x", None]


@pytest.mark.parametrize("name", ["", "too large", "x" * 250], ids=["empty", "blank inside", "long"])
async def test_a_name_that_no_topic_can_have_is_refused_at_once(participant, name):
    """Nothing is sent."""
    session = await participant.begin(GID, recipe=Recipe.COMMIT_RECORD)
    with pytest.raises(Refused):
        session.publish(message(name, b"x"))
    await session.discard()


@pytest.mark.parametrize(
    ("there", "partition", "size"),
    [(False, None, 1), (True, 7, 1), (True, None, 2_000_000)],
    ids=["unknown topic", "unknown partition", "too large"],
)
async def test_what_the_broker_can_never_take_is_refused(participant, probe, topic, there, partition, size):
    """It is a NO that asking again does not change; what was sent before it is not left open."""
    session = await participant.begin(GID, recipe=Recipe.COMMIT_RECORD)
    session.publish(message(topic, b"first"))
    session.publish(message(topic if there else "no-such-topic", b"x" * size, partition=partition))
    with pytest.raises(Refused):
        await session.vote(5)
    await session.discard()
    assert await probe.values(topic) == []


async def test_a_partition_that_was_added_is_found(kafka, participant, probe, topic):
    """What is known about a topic is looked up again before a message is refused for good."""
    await participant.commit(await voted(participant, message(topic, b"0")))
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    await admin.create_partitions({topic: NewPartitions(total_count=2)})
    await admin.close()
    await participant.commit(await voted(participant, message(topic, b"1", partition=1)))
    probe.cluster.forget(topic=topic)
    assert await probe.values(topic, 0, 1) == [b"0", b"1"]


async def test_a_discarded_transaction_is_cleaned_and_its_id_is_used_again(participant, probe, topic):
    """Its records are never seen, readers are not held back, and the id comes back with the epoch after its abort."""
    session = await participant.begin(GID, recipe=Recipe.COMMIT_RECORD)
    name, producer = session._pooled.transactional_id, session._pooled.producer
    session.publish(message(topic, b"never"))
    await asyncio.sleep(0.05)
    await session.discard()
    await session.discard()
    await asyncio.wait(set(participant._cleaning))
    assert await probe.values(topic) == []
    (again,) = (pooled for pooled in participant.ordinary._resting if pooled.transactional_id == name)
    assert again.producer == Producer(producer.producer_id, producer.epoch + 1)


async def test_a_vote_after_which_nobody_answers_in_time_is_unavailable(participant, probe, topic):
    """A NO; whatever arrived late is cleaned away."""
    session = await participant.begin(GID, recipe=Recipe.COMMIT_RECORD)
    with ArmedFaults(faults=[parse("kafka.produce:reply_lost=hang")]) as armed:
        session.publish(message(topic, b"slow"))
        with pytest.raises(Unavailable):
            await session.vote(0.2)
        await session.discard()
        assert not armed.unfired()
    await asyncio.wait(set(participant._cleaning))
    assert await probe.values(topic) == []


@pytest.mark.parametrize("line", ["reply_lost=2*error", "before=2*error", "late=1*delay(30)", "late=1*delay(300)"])
async def test_a_batch_is_appended_once_however_often_it_is_sent(participant, probe, topic, line):
    """Its number tells the broker that it has it already; and the vote waits for every acknowledgement."""
    with ArmedFaults(faults=[parse(f"kafka.produce:{line}")]) as armed:
        prepared = await voted(participant, *(message(topic, b"%d" % n) for n in range(3)))
        assert await participant.commit(prepared) is Ending.COMMITTED
        await armed.arrive()
        assert not armed.unfired()
    assert await probe.values(topic) == [b"0", b"1", b"2"]
    again = await voted(participant, message(topic, b"next"))
    await participant.commit(again)
    assert await probe.values(topic) == [b"0", b"1", b"2", b"next"]


async def test_a_request_that_arrives_after_the_abort_opens_nothing(participant, probe, topic):
    """The abort of a transaction on which nothing was seen moves the epoch, so that a late batch is fenced."""
    session = await participant.begin(GID, recipe=Recipe.COMMIT_RECORD)
    with ArmedFaults(faults=[parse("kafka.produce:late=delay(200)")]) as armed:
        session.publish(message(topic, b"late"))
        with pytest.raises(Unavailable):
            await session.vote(0.1)
        await session.discard()
        await asyncio.wait(set(participant._cleaning))
        await armed.arrive()
        assert not armed.unfired()
    assert (await probe.fetched(topic)).high_watermark == 0
    assert await probe.values(topic) == []


async def test_settling_a_dead_owners_id_aborts_what_is_open_and_fences_the_owner(
    participant, opened, kafka, probe, topic
):
    """Its successor holds nothing but the name; what had been committed stays committed."""
    successor = await opened(kafka.bootstrap)
    done, open_ = await voted(participant, message(topic, b"done")), await voted(participant, message(topic, b"open"))
    assert await participant.commit(done) is Ending.COMMITTED
    for prepared in done, open_:
        await successor.settle_id(branch_of(prepared).transactional_id)
    assert await probe.values(topic) == [b"done"]
    assert await participant.commit(open_) is Ending.ABORTED
    assert await participant.commit(done) is Ending.COMMITTED


async def test_an_owner_that_was_settled_while_it_slept_loses_its_id_for_ever(participant, opened, kafka, probe, topic):
    """Fenced while sending: a NO, and the id is dropped: initialising it would fence the one who has it now."""
    successor = await opened(kafka.bootstrap)
    session = await participant.begin(GID, recipe=Recipe.COMMIT_RECORD)
    name = session._pooled.transactional_id
    await successor.settle_id(name)
    epoch = (await probe.state(name)).producer
    size = participant.ordinary.size
    session.publish(message(topic, b"stale"))
    with pytest.raises(Unavailable):
        await session.vote(5)
    await session.discard()
    await asyncio.wait(set(participant._cleaning))
    assert participant.ordinary.size == size - 1
    assert (await probe.state(name)).producer == epoch
    assert await probe.values(topic) == []


def _prepared(evidence):
    return Prepared(gid=GID, branch=NAME, evidence=evidence)
