"""Requests that arrive after everybody has given them up, and answers that never arrive, on a real network path."""

import asyncio

import asyncpg
import pytest

from coordinator import limits
from coordinator.errors import InDoubt
from coordinator.journal.owners import PostgresOwners
from coordinator.journal.postgres import PostgresJournal
from coordinator.ports import Standing
from coordinator.protocol.model import Ending, Prepared, Recipe
from participants.postgres.literals import prepare_transaction, prepared_id
from tests.integration.postgres.branches import (
    PREPARED_NOW,
    ROWS,
    begin,
    commit_with,
    fresh_gid,
    prepared,
    record,
    until,
)
from tests.integration.postgres.relay import Relay

BACKENDS = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND datname = current_database()"


@pytest.fixture
async def relay(postgres):
    """A path to the session's server that can be disturbed."""
    async with Relay(postgres.port) as path:
        yield path


@pytest.fixture
def through(relay, database, postgres):
    """The database's URL on that path."""
    return database.replace(f":{postgres.port}/", f":{relay.port}/")


@pytest.fixture
async def journal(database):
    """The journal in the same database, on an undisturbed path."""
    journal = PostgresJournal(database)
    await journal.open()
    await PostgresOwners(journal, owner_id="test", lease_s=60.0).register()
    yield journal
    await journal.close()


async def test_a_prepare_does_arrive_late_where_nobody_stops_it(relay, through, open_participant, look):
    """The hazard itself: given up by its client, it is carried out when the network lets it through."""
    await open_participant()
    connection = await asyncpg.connect(through)
    await connection.execute("BEGIN; INSERT INTO business VALUES (1)")
    relay.hold(b"PREPARE TRANSACTION")
    with pytest.raises(TimeoutError):
        await connection.execute(prepare_transaction(prepared_id(fresh_gid(), "db")), timeout=0.2)
    connection.terminate()
    assert await look(PREPARED_NOW) == 0
    relay.release()
    await until(lambda: _is(look, PREPARED_NOW, 1))


async def test_a_prepare_that_was_given_up_leaves_nothing_when_it_arrives(relay, through, open_participant, look):
    """Its backend is gone before the discard returns, so nobody is left to carry it out."""
    participant = await open_participant(through)
    session = await begin(participant)
    backend = session.connection.get_server_pid()
    relay.hold(b"PREPARE TRANSACTION")
    with pytest.raises(InDoubt):
        await session.vote(0.2)
    await session.discard()
    assert await look(BACKENDS, backend) == 0
    assert b"PREPARE TRANSACTION" in relay.held_bytes
    relay.release()
    await relay.quiet()
    assert (await look(PREPARED_NOW), await look(ROWS)) == (0, 0)
    assert await participant.abort(Prepared(gid=session.gid, branch=participant.name)) is Ending.ABORTED


async def test_a_prepare_whose_answer_was_lost_is_rolled_back_by_the_discard(relay, through, open_participant, look):
    """It had been carried out: the branch is prepared, and nobody else would ever roll it back in time."""
    participant = await open_participant(through)
    session = await begin(participant)
    relay.swallow_answers_to(b"PREPARE TRANSACTION")
    with pytest.raises(InDoubt):
        await session.vote(0.5)
    assert await look(PREPARED_NOW) == 1
    await session.discard()
    assert (await look(PREPARED_NOW), await look(ROWS)) == (0, 0)


async def test_a_discard_that_cannot_reach_the_server_says_so_and_can_be_repeated(
    relay, through, open_participant, look, monkeypatch
):
    """Until the backend has been ended nothing may be presumed, so it raises; asked again, it succeeds."""
    monkeypatch.setattr(limits, "PARTICIPANT_CALL_S", 0.5)
    participant = await open_participant(through)
    session = await begin(participant)
    relay.swallow_answers_to(b"PREPARE TRANSACTION")
    with pytest.raises(InDoubt):
        await session.vote(0.2)
    relay.hold(b"")
    with pytest.raises(InDoubt):
        await session.discard()
    assert await look(PREPARED_NOW) == 1
    relay.release()
    await session.discard()
    assert await look(PREPARED_NOW) == 0


async def test_a_backend_that_vanishes_while_it_is_being_ended_is_gone(participant):
    """The server answers *false* then, as it does for one that does not end: only a second look tells them apart."""
    for _ in range(20):
        session = await begin(participant)
        backend, ending = session._backend, participant.database.connections.end_backend
        await asyncio.gather(*(ending(backend) for _ in range(4)))
        await session.discard()


async def test_a_commit_that_never_arrived_is_decided_at_once_and_never_happens(
    relay, through, open_participant, look, journal, monkeypatch
):
    """Its session holds the decision's row, uncommitted: it is ended, so that an abort can be written."""
    monkeypatch.setattr(limits, "PARTICIPANT_CALL_S", 0.5)
    participant = await open_participant(through)
    session = await begin(participant, Recipe.COMMIT_RECORD)
    relay.hold(b"COMMIT")
    with pytest.raises(InDoubt):
        await commit_with(session, journal)
    assert await _decided(journal, session) is Standing.ABORT
    relay.release()
    await relay.quiet()
    assert await look(ROWS) == 0


async def test_a_commit_whose_answer_was_lost_is_reported_truthfully(
    relay, through, open_participant, look, journal, monkeypatch
):
    """It stands: the attempt to write an abort finds it."""
    monkeypatch.setattr(limits, "PARTICIPANT_CALL_S", 0.5)
    participant = await open_participant(through)
    session = await begin(participant, Recipe.COMMIT_RECORD)
    relay.swallow_answers_to(b"COMMIT")
    with pytest.raises(InDoubt):
        await commit_with(session, journal)
    assert await _decided(journal, session) is Standing.COMMIT
    assert await look(ROWS) == 1


async def test_a_commit_prepared_whose_answer_was_lost_is_told_when_asked_again(
    relay, through, open_participant, look, monkeypatch
):
    """By the same process on another connection."""
    monkeypatch.setattr(limits, "PARTICIPANT_CALL_S", 0.5)
    participant = await open_participant(through)
    branch = await prepared(participant)
    relay.swallow_answers_to(b"COMMIT PREPARED")
    with pytest.raises(InDoubt):
        await participant.commit(branch)
    relay.release()
    assert await participant.commit(branch) is Ending.COMMITTED
    assert await look(ROWS) == 1


async def _is(look, question, answer):
    return await look(question) == answer


async def _decided(journal, session):
    """What stands once an abort was tried, as the engine tries it."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await journal.decide(record(session.gid, Standing.ABORT))
            except InDoubt:
                continue
