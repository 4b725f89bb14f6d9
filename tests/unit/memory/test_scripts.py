"""Failures that users script on participants in memory, and what each leaves."""

import os
from datetime import UTC, datetime

import pytest

from coordinator.errors import Disconnected, Refused, Unavailable
from coordinator.gids import new_gid
from coordinator.ports import Message
from coordinator.protocol.model import BranchName, Ending, Prepared, Recipe, Vote
from participants import MemoryBroker, MemoryDatabase


def database():
    return MemoryDatabase(), lambda session: session.connection.insert("rows", 1)


def broker():
    message = Message(id="1", participant=BranchName("memory"), topic="t", value=b"x")
    return MemoryBroker(), lambda session: session.publish(message)


def seen(participant):
    """What everybody sees of it."""
    return participant.store.tables["rows"] if isinstance(participant, MemoryDatabase) else participant.topics.messages


async def begun(participant, write):
    gid = new_gid("unan", datetime.now(tz=UTC), os.urandom(16))
    session = await participant.begin(gid, recipe=Recipe.TWO_PHASE)
    write(session)
    return gid, session


@pytest.fixture(params=[database, broker])
def participant_and_write(request):
    return request.param()


async def test_one_that_is_down_begins_votes_and_finishes_nothing(participant_and_write):
    """And does all of it when it is up again."""
    participant, write = participant_and_write
    gid, session = await begun(participant, write)
    participant.down = True
    with pytest.raises(Unavailable):
        await begun(participant, write)
    with pytest.raises(Unavailable):
        await session.vote(1.0)
    await session.discard()
    participant.down = False
    gid, session = await begun(participant, write)
    _, evidence = await session.vote(1.0)
    prepared = Prepared(gid=gid, branch=participant.name, evidence=evidence)
    participant.down = True
    for finish in (participant.commit, participant.abort):
        with pytest.raises(Unavailable):
            await finish(prepared)
    participant.down = False
    assert await participant.commit(prepared) is Ending.COMMITTED
    assert len(seen(participant)) == 1


async def test_one_that_refuses_votes_no(participant_and_write):
    """Nothing of it is visible, before and after the discard."""
    participant, write = participant_and_write
    participant.refuses = True
    _, session = await begun(participant, write)
    with pytest.raises(Refused):
        await session.vote(1.0)
    await session.discard()
    assert len(seen(participant)) == 0


async def test_one_that_forgets_a_reply_has_done_what_was_asked(participant_and_write):
    """The first asker cannot know, and the second is told."""
    participant, write = participant_and_write
    gid, session = await begun(participant, write)
    vote, evidence = await session.vote(1.0)
    assert vote is Vote.YES
    participant.forgets_replies = 1
    prepared = Prepared(gid=gid, branch=participant.name, evidence=evidence)
    with pytest.raises(Disconnected):
        await participant.commit(prepared)
    assert len(seen(participant)) == 1
    assert await participant.abort(prepared) is Ending.COMMITTED


async def test_a_broker_that_timed_a_transaction_out_never_says_that_it_committed_it():
    """An ordinary Kafka transaction cannot hold its promise for ever, but it answers truthfully."""
    participant, write = broker()
    gid, session = await begun(participant, write)
    _, evidence = await session.vote(1.0)
    participant.time_out()
    prepared = Prepared(gid=gid, branch=participant.name, evidence=evidence)
    assert [await participant.commit(prepared) for _ in range(2)] == [Ending.ABORTED] * 2
    assert seen(participant) == []


async def test_a_database_is_isolated_until_it_commits():
    """What one session staged, another process on the same store does not see."""
    participant, write = database()
    other = MemoryDatabase(participant.store)
    gid, session = await begun(participant, write)
    assert len(seen(other)) == 0
    _, evidence = await session.vote(1.0)
    assert len(seen(other)) == 0
    await other.commit(Prepared(gid=gid, branch=participant.name, evidence=evidence))
    assert len(seen(participant)) == 1
