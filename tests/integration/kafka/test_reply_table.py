"""What the broker answers about a transaction's end, row by row, and what we make of each answer: the truth.

Every test leaves its partition without an open transaction.
"""

import asyncio
from dataclasses import replace

import pytest
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.structs import TopicPartition

from coordinator.errors import InDoubt
from coordinator.faults.injectors import ArmedFaults, parse
from coordinator.protocol.model import Ending, Prepared, Recipe, Vote
from participants.kafka.codec import Producer
from participants.kafka.codes import Code
from participants.kafka.outcome import read_back
from tests.integration.kafka.probe import GID, NAME, branch_of, message, voted


@pytest.fixture
async def stranger(kafka, opened):
    """Another process: it holds the plain data of a branch, and nothing else."""
    return await opened(kafka.bootstrap)


async def test_a_commit_is_answered_the_same_however_often_it_is_asked(participant, stranger, probe, topic):
    """NONE, from any process: committed."""
    prepared = await voted(participant, message(topic, b"once"))
    assert await participant.commit(prepared) is Ending.COMMITTED
    assert await probe.end(branch_of(prepared), commit=True) is Code.NONE
    assert await stranger.commit(prepared) is Ending.COMMITTED
    assert await probe.values(topic) == [b"once"]


async def test_many_who_end_it_at_once_hear_the_same(participant, stranger, probe, topic):
    """Whoever comes while the markers are being written asks again, and nobody is told anything else."""
    prepared = await voted(participant, message(topic, b"once"))
    endings = await asyncio.gather(*(who.commit(prepared) for who in [participant, stranger] * 20))
    assert set(endings) == {Ending.COMMITTED}
    assert await probe.values(topic) == [b"once"]


async def test_a_commit_after_our_abort_says_that_it_was_aborted(participant, stranger, probe, topic):
    """INVALID_TXN_STATE: not committed."""
    prepared = await voted(participant, message(topic, b"never"))
    assert await participant.abort(prepared) is Ending.ABORTED
    assert await probe.end(branch_of(prepared), commit=True) is Code.INVALID_TXN_STATE
    assert await stranger.commit(prepared) is Ending.ABORTED
    assert await stranger.abort(prepared) is Ending.ABORTED
    assert await probe.values(topic) == []


async def test_an_abort_after_the_commit_says_that_it_was_committed(participant, stranger, probe, topic):
    """What happened is answered, never what was asked."""
    prepared = await voted(participant, message(topic, b"stays"))
    assert await participant.commit(prepared) is Ending.COMMITTED
    assert await probe.end(branch_of(prepared), commit=False) is Code.INVALID_TXN_STATE
    assert await stranger.abort(prepared) is Ending.COMMITTED
    assert await probe.values(topic) == [b"stays"]


async def test_the_broker_aborts_an_ordinary_transaction_after_its_timeout(kafka, opened, probe, topic):
    """A vote that waited too long is a clean abort, and the commit is told so."""
    impatient = await opened(kafka.bootstrap, timeout_s=1.0)
    prepared = await voted(impatient, message(topic, b"too late"))
    assert await probe.is_open(topic)
    await probe.settled(topic)
    assert await probe.end(branch_of(prepared), commit=True) is Code.INVALID_TXN_STATE
    assert await impatient.commit(prepared) is Ending.ABORTED
    assert await probe.values(topic) == []


async def test_a_foreigner_that_initialises_the_id_aborts_what_is_open(participant, probe, topic):
    """Fenced says nothing about the outcome; the partition says that it was aborted."""
    prepared = await voted(participant, message(topic, b"taken away"))
    await probe.initialise(branch_of(prepared).transactional_id)
    assert await probe.end(branch_of(prepared), commit=True) is Code.PRODUCER_FENCED
    assert await participant.commit(prepared) is Ending.ABORTED
    assert await participant.abort(prepared) is Ending.ABORTED
    assert await probe.values(topic) == []


async def test_a_foreigner_that_comes_after_the_commit_changes_nothing(participant, probe, topic):
    """Fenced says nothing about the outcome; the partition says that it was committed."""
    prepared = await voted(participant, message(topic, b"safe"))
    assert await participant.commit(prepared) is Ending.COMMITTED
    await probe.initialise(branch_of(prepared).transactional_id)
    assert await probe.end(branch_of(prepared), commit=True) is Code.PRODUCER_FENCED
    assert await participant.commit(prepared) is Ending.COMMITTED
    assert await participant.abort(prepared) is Ending.COMMITTED
    assert await probe.values(topic) == [b"safe"]


async def _successor(participant, topic: str, earlier: Prepared) -> Prepared:
    """A later transaction on the id of *earlier*, open and voted; what uses other ids until then is aborted."""
    while True:
        prepared = await voted(participant, message(topic, b"later"))
        if branch_of(prepared).transactional_id == branch_of(earlier).transactional_id:
            return prepared
        await participant.abort(prepared)


@pytest.mark.parametrize("commit", [True, False], ids=["late commit", "late abort"])
@pytest.mark.parametrize("committed", [True, False], ids=["was committed", "was aborted"])
async def test_a_late_end_of_one_transaction_never_touches_the_next(
    participant, stranger, probe, topic, commit, committed
):
    """Each transaction has an epoch of its own: the late request is fenced, and told how its own transaction ended."""
    first = await voted(participant, message(topic, b"first"))
    await (participant.commit(first) if committed else participant.abort(first))
    second = await _successor(participant, topic, first)
    assert branch_of(second).producer.epoch == branch_of(first).producer.epoch + 1

    assert await probe.end(branch_of(first), commit=commit) is Code.PRODUCER_FENCED
    late = stranger.commit(first) if commit else stranger.abort(first)
    with pytest.raises(InDoubt):  # Its record is below an open transaction's, so a reader cannot tell yet...
        await read_back(stranger.cluster, branch_of(second), within_s=0.1)
    assert await late is (Ending.COMMITTED if committed else Ending.ABORTED)  # ...but about the first it can.
    assert await probe.is_open(topic)

    assert await participant.commit(second) is Ending.COMMITTED
    assert await probe.values(topic) == ([b"first"] if committed else []) + [b"later"]


async def test_an_id_that_the_broker_does_not_know_is_read_back(participant, probe, topic):
    """INVALID_PRODUCER_ID_MAPPING says nothing about the outcome either: an id expires after a week."""
    committed = await voted(participant, message(topic, b"kept"))
    await participant.commit(committed)
    aborted = await voted(participant, message(topic, b"dropped"))
    await participant.abort(aborted)
    await probe.settled(topic)
    for prepared, ending in (committed, Ending.COMMITTED), (aborted, Ending.ABORTED):
        expired = replace(prepared, evidence={**prepared.evidence, "transactional_id": "expired-long-ago"})
        assert await probe.end(branch_of(expired), commit=True) is Code.INVALID_PRODUCER_ID_MAPPING
        assert await participant.commit(expired) is ending
        assert await participant.abort(expired) is ending


async def test_an_open_transaction_that_cannot_be_asked_for_is_in_doubt(participant, topic):
    """Nothing is concluded from a record that is not stable yet."""
    prepared = await voted(participant, message(topic, b"open"))
    unknown = replace(branch_of(prepared), transactional_id="nobody-knows-it")
    with pytest.raises(InDoubt):
        await read_back(participant.cluster, unknown, within_s=0.3)
    await participant.abort(prepared)


async def test_a_record_that_is_not_ours_proves_nothing(participant, probe, topic):
    """Another transaction's record where ours should be: nobody can tell, so an operator is asked."""
    other = await voted(participant, message(topic, b"other"))
    await participant.commit(other)
    await probe.settled(topic)
    stolen = replace(branch_of(other), producer=Producer(987_654, 3))
    assert await read_back(participant.cluster, stolen, within_s=5) is Ending.HAZARD


async def test_below_the_start_of_the_log_nobody_can_tell(kafka, participant, probe, topic):
    """Deleted records: unreadable, which is neither committed nor aborted."""
    prepared = await voted(participant, message(topic, b"deleted"))
    await participant.commit(prepared)
    await probe.initialise(branch_of(prepared).transactional_id)
    end = (await probe.fetched(topic)).high_watermark
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=end)})
    await admin.close()
    assert await participant.commit(prepared) is Ending.HAZARD


async def test_of_a_deleted_topic_nobody_can_tell(kafka, participant, probe, topic):
    """The commit of a fenced branch whose topic is gone ends too, and says that it is unreadable."""
    prepared = await voted(participant, message(topic, b"deleted"))
    await participant.commit(prepared)
    await probe.initialise(branch_of(prepared).transactional_id)
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    await admin.delete_topics([topic])
    await admin.close()
    assert await participant.commit(prepared) is Ending.HAZARD


async def test_a_transaction_of_nothing_votes_read_only_and_is_not_ended(participant, probe):
    """The broker would answer INVALID_TXN_STATE to the commit of nothing."""
    session = await participant.begin(GID, recipe=Recipe.COMMIT_RECORD)
    vote, evidence = await session.vote(5)
    assert (vote, dict(evidence)) == (Vote.READ_ONLY, {})
    pooled = await participant.ordinary.take()
    empty = replace(_BRANCH_OF_NOTHING, transactional_id=pooled.transactional_id, producer=pooled.producer)
    assert await probe.end(empty, commit=True) is Code.INVALID_TXN_STATE
    assert await participant.abort(Prepared(gid=GID, branch=NAME)) is Ending.ABORTED


@pytest.mark.parametrize("line", ["reply_lost=2*error", "before=2*error(TimeoutError)", "late=1*delay(100)"])
@pytest.mark.parametrize("commit", [True, False], ids=["commit", "abort"])
async def test_without_an_answer_the_same_question_is_asked_again(participant, probe, topic, line, commit):
    """Lost, never sent, or carried out after it was given up: the answer that comes in the end is the truth."""
    prepared = await voted(participant, message(topic, b"asked"))
    with ArmedFaults(faults=[parse(f"kafka.end.{'commit' if commit else 'abort'}:{line}")]) as armed:
        ending = await (participant.commit(prepared) if commit else participant.abort(prepared))
        await armed.arrive()
        assert not armed.unfired()
    assert ending is (Ending.COMMITTED if commit else Ending.ABORTED)
    assert await probe.values(topic) == ([b"asked"] if commit else [])


_BRANCH_OF_NOTHING = branch_of(
    Prepared(
        gid=GID,
        branch=NAME,
        evidence={"transactional_id": "", "producer_id": 0, "epoch": 0, "topic": "", "partition": 0, "offset": 0},
    )
)
