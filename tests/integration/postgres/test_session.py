"""What a block may do with its connection, and how its share ends when something goes wrong."""

import asyncio

import asyncpg
import pytest

from coordinator.errors import Conflict, Refused, Unavailable, VotedNo
from coordinator.faults.injectors import ArmedFaults, Fault
from coordinator.faults.points import Cell
from coordinator.protocol.model import Ending, Prepared, Recipe, Vote
from tests.integration.postgres.branches import PREPARED_NOW, ROWS, begin, commit_with, fresh_gid, prepared, until

OPEN_SESSIONS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND xact_start IS NOT NULL AND pid <> pg_backend_pid()
"""


async def nothing_is_open(look):
    """No session is in a transaction: nothing that was given up holds a lock."""

    async def closed():
        return await look(OPEN_SESSIONS) == 0

    await until(closed)


@pytest.mark.parametrize("recipe", [Recipe.TWO_PHASE, Recipe.COMMIT_RECORD])
async def test_a_nested_transaction_is_a_savepoint(participant, look, recipe):
    """asyncpg's own `transaction()` works in a block; what it rolls back is gone, and the rest stays."""
    session = await begin(participant, recipe)
    savepoint = session.connection.transaction()
    await savepoint.start()
    await session.connection.execute("INSERT INTO business VALUES (2)")
    await savepoint.rollback()
    async with session.connection.transaction():
        await session.connection.execute("INSERT INTO business VALUES (3)")
    if recipe is Recipe.COMMIT_RECORD:
        await commit_with(session)
    else:
        _, evidence = await session.vote(10.0)
        await participant.commit(Prepared(gid=session.gid, branch=participant.name, evidence=evidence))
    assert await look("SELECT array_agg(n ORDER BY n) FROM business WHERE n > 0") == [1, 3]


async def test_a_block_may_choose_its_isolation(participant):
    """Nothing that we do first stands in the way of SET TRANSACTION."""
    session = await participant.begin(fresh_gid(), recipe=Recipe.TWO_PHASE)
    await session.connection.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
    assert await session.connection.fetchval("SHOW transaction_isolation") == "serializable"
    assert await session.connection.fetchval("SELECT current_setting('unanimity.gid')") == session.gid
    await session.discard()


@pytest.mark.parametrize("statements", [["COMMIT"], ["ROLLBACK"], ["COMMIT", "BEGIN"], ["COMMIT AND CHAIN"]])
@pytest.mark.parametrize("recipe", [Recipe.TWO_PHASE, Recipe.COMMIT_RECORD])
async def test_a_block_that_ends_the_transaction_by_hand_is_refused(participant, look, statements, recipe):
    """What it wrote afterwards is not committed, and the error says what to do instead."""
    session = await begin(participant, recipe)
    before = await look(ROWS)
    for statement in statements:
        await session.connection.execute(statement)
    after = 1 if statements != ["ROLLBACK"] else before
    if session.connection.is_in_transaction():
        await session.connection.execute("INSERT INTO business VALUES (2)")
    with pytest.raises(Refused, match="by itself"):
        await (session.vote(10.0) if recipe is Recipe.TWO_PHASE else commit_with(session))
    await session.discard()
    assert (await look(ROWS), await look(PREPARED_NOW)) == (after, 0)


async def test_an_end_by_hand_in_one_string_is_noticed_by_the_server_before_a_prepare(participant, look):
    """The transaction that is open then is not the one that was begun."""
    session = await begin(participant)
    await session.connection.execute("ROLLBACK; BEGIN; INSERT INTO business VALUES (2)")
    with pytest.raises(Refused, match="by itself"):
        await session.vote(10.0)
    await session.discard()
    assert (await look(ROWS), await look(PREPARED_NOW)) == (0, 0)


async def test_what_a_function_writes_is_written(participant, look):
    """A block that only selects is not read-only where what it selects from writes."""
    await look("CREATE FUNCTION touch() RETURNS void LANGUAGE sql AS 'INSERT INTO business VALUES (9)'")
    session = await participant.begin(fresh_gid(), recipe=Recipe.TWO_PHASE)
    await session.connection.fetchval("SELECT touch()")
    vote, evidence = await session.vote(10.0)
    assert vote is Vote.YES
    await participant.commit(Prepared(gid=session.gid, branch=participant.name, evidence=evidence))
    assert await look(ROWS) == 1


@pytest.mark.parametrize("recipe", [Recipe.TWO_PHASE, Recipe.COMMIT_RECORD])
async def test_a_constraint_that_is_checked_at_the_end_refuses(participant, look, recipe):
    """A deferred constraint speaks only at PREPARE or COMMIT: a NO, and nothing is left."""
    await look("CREATE TABLE once (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    session = await participant.begin(fresh_gid(), recipe=recipe)
    await session.connection.execute("INSERT INTO once VALUES (1), (1)")
    with pytest.raises(VotedNo, match="23505"):
        await (session.vote(10.0) if recipe is Recipe.TWO_PHASE else commit_with(session))
    assert (await look("SELECT count(*) FROM once"), await look(PREPARED_NOW)) == (0, 0)


@pytest.mark.parametrize("recipe", [Recipe.TWO_PHASE, Recipe.COMMIT_RECORD])
async def test_a_serialisation_conflict_may_be_tried_again(participant, look, recipe):
    """Two that read what the other writes: one of them is told to run again."""
    sessions = [await participant.begin(fresh_gid(), recipe=recipe) for _ in range(2)]
    for session in sessions:
        await session.connection.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        await session.connection.fetchval("SELECT count(*) FROM business")
    outcomes = []
    for session in sessions:
        try:
            await session.connection.execute("INSERT INTO business VALUES (1)")
            await (session.vote(10.0) if recipe is Recipe.TWO_PHASE else commit_with(session))
            outcomes.append("done")
        except (Conflict, asyncpg.SerializationError):
            outcomes.append("conflict")
            await session.discard()
    assert outcomes == ["done", "conflict"]


async def test_a_statement_that_failed_makes_the_vote_a_no(participant, look):
    """Even where the block swallowed the error."""
    session = await begin(participant)
    with pytest.raises(asyncpg.UndefinedTableError):
        await session.connection.execute("SELECT * FROM nowhere")
    with pytest.raises(VotedNo, match="25P02"):
        await session.vote(10.0)
    assert (await look(ROWS), await look(PREPARED_NOW)) == (0, 0)


@pytest.mark.parametrize("recipe", [Recipe.TWO_PHASE, Recipe.COMMIT_RECORD])
async def test_a_session_that_was_ended_before_its_vote_may_be_tried_again(participant, look, recipe):
    """Its backend is gone, so nothing happened; the pool is whole, and the next one works."""
    session = await begin(participant, recipe)
    await look("SELECT pg_terminate_backend($1, 5000)", session.connection.get_server_pid())
    with pytest.raises(Unavailable):
        await (session.vote(10.0) if recipe is Recipe.TWO_PHASE else commit_with(session))
    await session.discard()
    assert await participant.commit(await prepared(participant)) is Ending.COMMITTED
    assert await look(ROWS) == 1


@pytest.mark.parametrize("cell", [Cell.BEFORE, Cell.REPLY_LOST])
async def test_a_begin_that_fails_keeps_no_connection(open_participant, look, cell):
    """However often it fails: a pool of two is as large afterwards as before."""
    participant = await open_participant(pool=2)
    with ArmedFaults(faults=[Fault(point="pg.begin", cell=cell)]):
        for _ in range(6):
            with pytest.raises(Unavailable):
                await participant.begin(fresh_gid(), recipe=Recipe.TWO_PHASE)
    sessions = [await begin(participant) for _ in range(2)]
    for session in sessions:
        await session.discard()
    await nothing_is_open(look)


@pytest.mark.parametrize("recipe", [Recipe.TWO_PHASE, Recipe.COMMIT_RECORD])
async def test_a_caller_that_is_cancelled_leaves_no_half_used_connection(open_participant, look, recipe):
    """At the very moment of the PREPARE or COMMIT: what became of it is settled, and the pool goes on."""
    participant = await open_participant(pool=2)
    point = "pg.prepare" if recipe is Recipe.TWO_PHASE else "pg.commit_record"
    for _ in range(4):
        session = await begin(participant, recipe)
        with ArmedFaults(faults=[Fault(point=point, cell=Cell.BEFORE, action="hang")]) as armed:
            voting = asyncio.ensure_future(session.vote(10.0) if recipe is Recipe.TWO_PHASE else commit_with(session))
            await until(lambda armed=armed: asyncio.sleep(0, not armed.unfired()))
            voting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await voting
        await session.discard()
    await nothing_is_open(look)
    assert (await look(ROWS), await look(PREPARED_NOW)) == (0, 0)
    await participant.commit(await prepared(participant))


async def test_a_session_is_as_new_for_the_next_block_whatever_the_last_one_did(participant):
    """A SET and a session's lock are undone with the next BEGIN, and stay undone where that one rolls back."""
    session = await participant.begin(fresh_gid(), recipe=Recipe.COMMIT_RECORD)
    first = await session.connection.fetchval("SELECT pg_backend_pid()")
    await session.connection.execute("SET work_mem = '1MB'; SELECT pg_advisory_lock(4711)")
    await commit_with(session)
    for _ in range(2):
        session = await participant.begin(fresh_gid(), recipe=Recipe.COMMIT_RECORD)
        # Before any query of the block: its own first statement takes the snapshot.
        await session.connection.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        assert await session.connection.fetchval("SELECT pg_backend_pid()") == first
        assert await session.connection.fetchval("SHOW work_mem") == "4MB"
        assert await session.connection.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0
        await session.discard()


async def test_what_a_block_left_in_an_idle_session_is_not_held_for_long(participant):
    """Nobody begins on it, and its lock is let go of all the same."""
    session = await participant.begin(fresh_gid(), recipe=Recipe.COMMIT_RECORD)
    await session.connection.execute("SELECT pg_advisory_lock(4712)")
    await commit_with(session)
    other = await asyncpg.connect(participant.url)
    async with asyncio.timeout(5):
        await other.execute("SELECT pg_advisory_lock(4712)")
    await other.close()


async def test_a_connection_that_was_kept_beyond_its_block_is_refused(participant):
    """It may be another transaction's by now."""
    session = await participant.begin(fresh_gid(), recipe=Recipe.COMMIT_RECORD)
    kept = session.connection
    await commit_with(session)
    with pytest.raises(asyncpg.InterfaceError, match="the transaction of this connection has ended"):
        await kept.execute("INSERT INTO business VALUES (3)")
