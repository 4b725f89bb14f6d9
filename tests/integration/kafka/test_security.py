"""Users, passwords and access rules of a real broker: what is not allowed is said, and never half of a transaction."""

import asyncio

import pytest

from coordinator.dev.downloads import cache_directory
from coordinator.dev.kafka import USERS, LocalKafka
from coordinator.errors import InDoubt, Misconfigured
from coordinator.ports import Ability
from coordinator.protocol.model import Ending, Recipe
from participants.kafka.connection import Security
from tests.integration.kafka.access import (
    ALL,
    DESCRIBE,
    PREFIXED,
    TOPIC,
    TRANSACTIONAL_ID,
    WRITE,
    Rule,
    allow,
    take_away,
)
from tests.integration.kafka.probe import GID, message, voted

OUR_IDS = Rule(TRANSACTIONAL_ID, "unanimity", WRITE, PREFIXED), Rule(TRANSACTIONAL_ID, "unanimity", DESCRIBE, PREFIXED)


def _user(password: str = USERS["app"]) -> Security:
    return Security(
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="PLAIN",
        sasl_plain_username="app",
        sasl_plain_password=password,
    )


@pytest.fixture(scope="module")
async def guarded(servers_directory):
    """A broker with an authorizer and a SASL listener, and KIP-939 for whoever may use it."""
    cluster = LocalKafka(
        directory=servers_directory / "kafka-guarded", cache=cache_directory(), authorizer=True, two_phase=True
    )
    await cluster.start()
    for topic in "allowed", "forbidden":
        await cluster.create_topic(topic)
    yield cluster
    await cluster.kill()


@pytest.fixture
async def probe(guarded, probing):
    """The super user's eyes; the user may write one topic, and may see that the other is there."""
    made = probing(guarded.bootstrap)
    await allow(made.cluster, *OUR_IDS, Rule(TOPIC, "allowed", ALL), Rule(TOPIC, "forbidden", DESCRIBE))
    return made


async def _soon(attempt):
    """The first result of *attempt* once the rule that was just made has reached the broker."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await attempt()
            except (InDoubt, Misconfigured):
                await asyncio.sleep(0.05)


async def _refused(attempt) -> Misconfigured:
    """Why *attempt* is refused, once the rule that was just taken away has reached the broker."""
    async with asyncio.timeout(10):
        while True:
            try:
                await attempt()
            except Misconfigured as refused:
                return refused
            await asyncio.sleep(0.05)


async def test_a_wrong_password_is_a_misconfiguration(guarded, opened):
    """Asking again does not help, so it is said when the participant is opened."""
    with pytest.raises(Misconfigured, match="refused us"):
        await opened(guarded.sasl_bootstrap, security=_user("wrong"))


async def test_ids_that_are_not_ours_to_use_are_a_misconfiguration_when_opening(guarded, probe, opened):
    """The grant that is missing is named."""
    await take_away(probe.cluster, *OUR_IDS)
    refused = await _refused(lambda: opened(guarded.sasl_bootstrap, security=_user(), two_phase=False))
    assert "not authorised for the transactional id" in str(refused)


async def test_a_user_with_a_password_publishes(guarded, probe, opened):
    """Through SASL; and KIP-939 is not used by one who may not (it needs the operation TWO_PHASE_COMMIT)."""
    kafka = await _soon(lambda: opened(guarded.sasl_bootstrap, security=_user()))
    assert await kafka.open() == {Ability.PUBLISH}
    assert await kafka.commit(await voted(kafka, message("allowed", b"hello"))) is Ending.COMMITTED
    assert b"hello" in await probe.values("allowed")


async def test_a_forbidden_topic_spoils_the_whole_transaction(guarded, probe, opened):
    """What was acknowledged elsewhere before is never committed, nor left open: an abort stays an abort."""
    kafka = await _soon(lambda: opened(guarded.sasl_bootstrap, security=_user()))
    before = await probe.values("allowed")
    session = await kafka.begin(GID, recipe=Recipe.COMMIT_RECORD)
    session.publish(message("allowed", b"half"))
    await session._transaction.acknowledged()
    session.publish(message("forbidden", b"other half"))
    with pytest.raises(Misconfigured, match="grant WRITE"):
        await session.vote(5)
    await session.discard()
    await asyncio.wait(set(kafka._cleaning))
    assert await kafka.commit(await voted(kafka, message("allowed", b"next"))) is Ending.COMMITTED
    assert await probe.values("allowed") == [*before, b"next"]
    assert await probe.values("forbidden") == []


async def test_a_grant_that_is_taken_away_before_the_end_leaves_it_in_doubt_until_it_is_given_back(
    guarded, probe, opened
):
    """The decision stands, so it is asked for again; an operator reads what is missing."""
    kafka = await _soon(lambda: opened(guarded.sasl_bootstrap, security=_user()))
    prepared = await voted(kafka, message("allowed", b"decided"))
    await take_away(probe.cluster, *OUR_IDS)
    await _refused(lambda: opened(guarded.sasl_bootstrap, security=_user(), two_phase=False))
    with pytest.raises(InDoubt, match="TRANSACTIONAL_ID_AUTHORIZATION_FAILED"):
        await kafka.commit(prepared)
    await allow(probe.cluster, *OUR_IDS)
    assert await _soon(lambda: kafka.commit(prepared)) is Ending.COMMITTED
    assert (await probe.values("allowed"))[-1] == b"decided"
