"""Brokers die, freeze and hand their partitions on, between any two of our requests: a vote keeps its word."""

import asyncio

import pytest

from coordinator.dev.downloads import cache_directory
from coordinator.dev.kafka import LocalKafka
from coordinator.errors import InDoubt, Unavailable
from coordinator.ports import Ability
from coordinator.protocol.model import Ending, Prepared, Recipe, Vote
from participants import Kafka
from participants.kafka import outcome
from participants.kafka.codes import Code
from participants.kafka.participant import KafkaSession
from tests.integration.kafka.probe import GID, NAME, branch_of, message, voted

pytestmark = pytest.mark.timeout(180)
FOR_EVER_MS = 2**31 - 1


@pytest.fixture(scope="module")
async def alone(servers_directory):
    """One broker with KIP-939, which tests here may hurt but leave running."""
    cluster = LocalKafka(
        directory=servers_directory / "kafka-alone",
        cache=cache_directory(),
        two_phase=True,
        settings={"broker.session.timeout.ms": "3000"},  # A killed broker is let in again once its session has ended.
    )
    await cluster.start()
    yield cluster
    await cluster.kill()


@pytest.fixture(scope="module")
async def three(servers_directory):
    """Three brokers with KIP-939, of which tests here may hurt one at a time."""
    cluster = LocalKafka(
        directory=servers_directory / "kafka-three", cache=cache_directory(), two_phase=True, brokers=3
    )
    await cluster.start()
    yield cluster
    await cluster.kill()


async def _known(ask, prepared: Prepared) -> Ending:
    """Ask until the answer is known, as the engine does."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await ask(prepared)
            except (InDoubt, Unavailable):
                await asyncio.sleep(0.1)


async def test_a_prepared_branch_outlives_its_timeout_and_the_sigkill_of_its_broker(alone, opened, probing):
    """KIP-939: it waits for its decision as long as it takes; an ordinary one beside it is aborted by the broker.

    A process that starts while the broker is away is told so when it begins, and works once the broker is back.
    """
    for topic in "committed", "aborted", "ordinary":
        await alone.create_topic(topic)
    kafka, probe = await opened(alone.bootstrap, timeout_s=1.0), probing(alone.bootstrap)
    to_commit = await voted(kafka, message("committed", b"yes"), recipe=Recipe.TWO_PHASE)
    to_abort = await voted(kafka, message("aborted", b"no"), recipe=Recipe.TWO_PHASE)
    ordinary = await voted(kafka, message("ordinary", b"too late"))
    assert (await probe.state(branch_of(to_commit).transactional_id)).timeout_ms == FOR_EVER_MS
    await probe.settled("ordinary")
    assert await kafka.commit(ordinary) is Ending.ABORTED
    assert await probe.is_open("committed")

    await alone.kill()
    aborting = asyncio.create_task(_known(kafka.abort, to_abort))
    late = await opened(alone.bootstrap, two_phase=False)
    with pytest.raises(Unavailable):
        await late.begin(GID, recipe=Recipe.COMMIT_RECORD)
    await alone.start()

    assert await aborting is Ending.ABORTED
    assert await probe.is_open("committed")
    assert await _known(kafka.commit, to_commit) is Ending.COMMITTED
    assert await _known(late.commit, await voted(late, message("ordinary", b"in time"))) is Ending.COMMITTED
    found = [await probe.values(topic) for topic in ("committed", "aborted", "ordinary")]
    assert found == [[b"yes"], [], [b"in time"]]


async def test_a_prepared_branch_is_settled_by_the_successor_of_a_dead_owner(alone, opened, probing):
    """Nothing was decided and the owner is gone: initialising the id aborts what would otherwise stay open for ever."""
    await alone.create_topic("orphaned")
    owner, successor, probe = await opened(alone.bootstrap), await opened(alone.bootstrap), probing(alone.bootstrap)
    prepared = await voted(owner, message("orphaned", b"nobody decided"), recipe=Recipe.TWO_PHASE)
    await successor.settle_id(branch_of(prepared).transactional_id)
    assert await probe.values("orphaned") == []
    assert await owner.commit(prepared) is Ending.ABORTED


async def test_following_transactions_of_a_two_phase_id_are_prepared_without_initialising_it_again(
    alone, opened, probing
):
    """The promise belongs to the id, so each of its transactions never times out."""
    await alone.create_topic("following")
    kafka, probe = await opened(alone.bootstrap, timeout_s=1.0), probing(alone.bootstrap)
    size = kafka.two_phase.size
    for _ in range(2 * size):
        prepared = await voted(kafka, message("following", b"x"), recipe=Recipe.TWO_PHASE)
        assert (await probe.state(branch_of(prepared).transactional_id)).timeout_ms == FOR_EVER_MS
        await kafka.commit(prepared)
    assert branch_of(prepared).producer.epoch > 0
    assert len(await probe.values("following")) == 2 * size


async def test_a_frozen_broker_is_a_no_in_time_and_leaves_nothing_when_it_thaws(alone, opened, probing):
    """The vote ends at its own deadline; what the broker read from the wire afterwards is cleaned away."""
    await alone.create_topic("frozen")
    kafka, probe = await opened(alone.bootstrap), probing(alone.bootstrap)
    await kafka.commit(await voted(kafka, message("frozen", b"before")))
    session = await kafka.begin(GID, recipe=Recipe.COMMIT_RECORD)
    alone.freeze()
    try:
        session.publish(message("frozen", b"during"))
        with pytest.raises(Unavailable):
            await asyncio.wait_for(session.vote(0.5), 2)
        await session.discard()
    finally:
        alone.thaw()
    await asyncio.wait(set(kafka._cleaning))
    await kafka.commit(await voted(kafka, message("frozen", b"after")))
    assert await probe.values("frozen") == [b"before", b"after"]


async def test_the_coordinating_broker_of_three_dies_between_vote_and_end(three, opened, probing):
    """Its successor knows the transaction: the same question to it is answered as if nothing had happened."""
    await three.create_topic("coordinated", partitions=3)
    kafka, probe = await opened(three.bootstrap), probing(three.bootstrap)
    prepared = await voted(
        kafka, *(message("coordinated", b"%d" % p, partition=p) for p in range(3)), recipe=Recipe.TWO_PHASE
    )
    victim = _number(three, await probe.coordinator(branch_of(prepared).transactional_id))
    await three.kill(broker=victim)
    try:
        assert await _known(kafka.commit, prepared) is Ending.COMMITTED
        assert await _known(kafka.abort, prepared) is Ending.COMMITTED
    finally:
        await three.start(broker=victim)
    probe.cluster.forget(topic="coordinated")
    assert sorted(await probe.values("coordinated", 0, 1, 2)) == [b"0", b"1", b"2"]


async def test_a_coordinator_that_was_replaced_while_it_was_frozen_is_not_believed(three, opened, probing, monkeypatch):
    """It knows the id's last transaction and not this one, and says INVALID_TXN_STATE, although it was replaced.

    The question waits in its socket while it is frozen, and is answered before it hears of its successor: mostly. Where
    it heard first, it said so, and it is frozen again.
    """
    answers = _recorded(monkeypatch)
    for number in range(10):
        await _committed_past_a_frozen_coordinator(three, opened, probing, f"replaced-{number}", answers)
        assert answers[-1] is Code.NONE
        if answers[0] is Code.INVALID_TXN_STATE:
            return
    pytest.fail("the thawed coordinator never answered from memory: nothing was proved")


async def _committed_past_a_frozen_coordinator(three, opened, probing, topic, answers) -> None:
    """A transaction whose coordinator is frozen from before its first record until it is asked to commit.

    *answers* holds what it was answered then, and nothing from before.
    """
    await three.create_topic(topic, partitions=3)
    kafka, probe = await opened(three.bootstrap), probing(three.bootstrap)
    first = await voted(kafka, message(topic, b"first", partition=0), recipe=Recipe.TWO_PHASE)
    assert await kafka.commit(first) is Ending.COMMITTED
    transactional_id = branch_of(first).transactional_id
    frozen = await probe.coordinator(transactional_id)
    leaders = await kafka.cluster.partitions(topic)
    partition = next(number for number, leader in leaders.items() if leader != frozen)
    session = await _begun_on(transactional_id, kafka)
    while (await probe.state(transactional_id)).state != "CompleteCommit":  # noqa: ASYNC110 - a broker tells nobody.
        await asyncio.sleep(0.01)
    answers.clear()
    three.freeze(broker=_number(three, frozen))
    try:
        session.publish(message(topic, b"second", partition=partition))
        _, evidence = await session.vote(60)
        second = Prepared(gid=GID, branch=NAME, evidence=evidence)
        ending = asyncio.create_task(_known(kafka.commit, second))
        await asyncio.sleep(0.5)
    finally:
        three.thaw(broker=_number(three, frozen))
    assert await ending is Ending.COMMITTED
    probe.cluster.forget(topic=topic)
    assert (await probe.values(topic, partition))[-1] == b"second"


def _recorded(monkeypatch) -> list[Code]:
    """The answers to `EndTxn`, as they come."""
    ask, answers = outcome._ask, []

    async def recording(cluster, request):
        code, following = await ask(cluster, request)
        answers.append(Code(code))
        return code, following

    monkeypatch.setattr(outcome, "_ask", recording)
    return answers


async def _begun_on(transactional_id: str, kafka: Kafka) -> KafkaSession:
    """A session on this very id; the pool gives it out again after the others."""
    others = []
    while (session := await kafka.begin(GID, recipe=Recipe.TWO_PHASE))._pooled.transactional_id != transactional_id:
        others.append(session)
    for other in others:
        await other.discard()
    return session


async def test_a_partitions_leader_moves_within_one_transaction(three, opened, probing):
    """The batch after the move goes to the new leader, with the next number; partitions on other brokers go along."""
    await three.create_topic("moving", partitions=3)
    kafka, probe = await opened(three.bootstrap), probing(three.bootstrap)
    leaders = await kafka.cluster.partitions("moving")
    assert len(set(leaders.values())) > 1
    session = await kafka.begin(GID, recipe=Recipe.COMMIT_RECORD)
    for partition in leaders:
        session.publish(message("moving", b"before", partition=partition))
    await session._transaction.acknowledged()
    victim = _number(three, leaders[0])
    await three.kill(broker=victim)
    try:
        for partition in leaders:
            session.publish(message("moving", b"after", partition=partition))
        vote, evidence = await session.vote(60)
        assert vote is Vote.YES
        prepared = Prepared(gid=GID, branch=NAME, evidence=evidence)
        assert await _known(kafka.commit, prepared) is Ending.COMMITTED
    finally:
        await three.start(broker=victim)
    probe.cluster.forget(topic="moving")
    for partition in leaders:
        assert await probe.values("moving", partition) == [b"before", b"after"]


async def test_what_the_brokers_can_do_is_asked_for(alone, opened):
    """KIP-939 is found where it is served, and left alone where it is not wanted."""
    kafka = await opened(alone.bootstrap)
    assert await kafka.open() == {Ability.PUBLISH, Ability.PREPARE}
    kafka = await opened(alone.bootstrap, two_phase=False)
    assert await kafka.open() == {Ability.PUBLISH}


def _number(cluster: LocalKafka, address: tuple[str, int]) -> int:
    return next(member.number for member in cluster.members if member.port == address[1])
