"""How a prepared branch ended, when PostgreSQL says only that it does not exist."""

import asyncio
import os

import asyncpg
import pytest

from coordinator.errors import InDoubt, Misconfigured, Unavailable
from coordinator.protocol.model import Ending, Prepared
from participants.postgres.literals import commit_prepared, prepared_id, rollback_prepared
from tests.integration.postgres.branches import PREPARED_NOW, ROWS, begin, fresh_gid, prepared

MARKERS = "DELETE FROM unanimity.branches"


def by_hand(command, branch):
    """The statement that an administrator would type."""
    return command(prepared_id(branch.gid, branch.branch))


def evident(branch, **changes):
    """The branch with other evidence."""
    return Prepared(gid=branch.gid, branch=branch.branch, evidence={**branch.evidence, **changes})


async def test_committed_is_told_by_the_marker(participant, look):
    """The branch's own row is visible, so it was committed, whatever is asked for now."""
    branch = await prepared(participant)
    await look(by_hand(commit_prepared, branch))
    without_evidence = Prepared(gid=branch.gid, branch=branch.branch)
    assert await participant.commit(without_evidence) is Ending.COMMITTED
    assert await participant.abort(without_evidence) is Ending.COMMITTED


async def test_committed_is_told_by_the_transaction_id_where_the_marker_is_gone(participant, look):
    """The recorded id's status says it."""
    branch = await prepared(participant)
    await look(by_hand(commit_prepared, branch))
    await look(MARKERS)
    assert await participant.commit(branch) is Ending.COMMITTED
    assert await participant.abort(branch) is Ending.COMMITTED


async def test_rolled_back_is_told_by_the_transaction_id(participant, look):
    """An administrator rolled it back: a commit is answered truthfully."""
    branch = await prepared(participant)
    await look(by_hand(rollback_prepared, branch))
    assert await participant.commit(branch) is Ending.ABORTED
    assert await participant.abort(branch) is Ending.ABORTED


async def test_nobody_guesses_where_neither_can_tell(participant, look):
    """An id that was never given, as far as this server knows: the ending is a hazard, for an operator."""
    branch = await prepared(participant)
    await look(by_hand(rollback_prepared, branch))
    assert await participant.commit(evident(branch, xid=str(2**40))) is Ending.HAZARD


@pytest.mark.parametrize("elsewhere", [{"timeline": 7}, {"system": "1"}], ids=["another timeline", "another server"])
async def test_what_is_no_part_of_this_history_was_lost_to_it(participant, look, elsewhere):
    """There its id means another transaction, but its marker would say that it was committed."""
    branch = evident(await prepared(participant), **elsewhere)
    await look(by_hand(rollback_prepared, branch))
    assert await participant.commit(branch) is Ending.LOST
    assert await participant.abort(branch) is Ending.ABORTED
    committed = evident(await prepared(participant), **elsewhere)
    await look(by_hand(commit_prepared, committed))
    assert await participant.commit(committed) is Ending.COMMITTED
    assert await participant.abort(committed) is Ending.COMMITTED


async def test_a_transaction_that_is_still_under_way_is_asked_for_again(participant):
    """Its PREPARE may yet arrive: neither commit nor abort is the truth."""
    session = await begin(participant)
    xid = await session.connection.fetchval("SELECT pg_current_xact_id()::text")
    evidence = {"xid": xid, **await participant.history()}
    with pytest.raises(InDoubt):
        await participant.commit(Prepared(gid=session.gid, branch=participant.name, evidence=evidence))
    await session.discard()


async def test_processes_that_commit_at_once_all_learn_that_it_was_committed(open_participant, look):
    """One of them does it; to the others it is busy for a moment, and then gone."""
    participants = [await open_participant() for _ in range(4)]

    async def until_told(participant, branch):
        while True:
            try:
                return await participant.commit(branch)
            except (Unavailable, InDoubt):
                await asyncio.sleep(0)

    for _ in range(10):
        branch = await prepared(participants[0])
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            tasks = [group.create_task(until_told(participant, branch)) for participant in participants * 2]
        assert [task.result() for task in tasks] == [Ending.COMMITTED] * 8
    assert await look(ROWS) == 10


async def test_another_database_is_a_misconfiguration(open_participant, participant, create_database):
    """COMMIT PREPARED works in the branch's own database only; the branch stays prepared."""
    branch = await prepared(participant)
    stranger = await open_participant(await create_database())
    with pytest.raises(Misconfigured, match="same URL"):
        await stranger.commit(branch)
    assert await participant.commit(branch) is Ending.COMMITTED


async def test_another_role_is_a_misconfiguration(open_participant, participant, database, look):
    """Only the role that prepared it, or a superuser, may finish it."""
    role = f"stranger_{os.urandom(4).hex()}"
    await look(f"CREATE ROLE {role} LOGIN")
    await look(f"GRANT USAGE ON SCHEMA unanimity TO {role}")
    await look(f"GRANT ALL ON ALL TABLES IN SCHEMA unanimity TO {role}")
    stranger = await open_participant(database.replace("postgres@", f"{role}@"))
    branch = await prepared(participant)
    with pytest.raises(Misconfigured, match="by the role"):
        await stranger.commit(branch)
    await stranger.close()
    await look(f"DROP OWNED BY {role}")
    await look(f"DROP ROLE {role}")
    assert await participant.commit(branch) is Ending.COMMITTED


async def test_what_others_prepared_is_neither_listed_nor_touched(participant, database, create_database, look):
    """Foreign ids, ids that only look like ours, other prefixes, and ours in another database."""
    ours = await prepared(participant)
    other_database = await create_database()
    foreign = [
        "dtm-12",
        f"unan:{'0' * 25}:db",
        f"{ours.gid}:DB",
        f"{ours.gid}",
        f"unan2:{ours.gid.partition(':')[2]}:db",
        "unan:'; DROP TABLE business; --",
    ]
    for place, gid in [*((database, gid) for gid in foreign), (other_database, f"{fresh_gid()}:db")]:
        connection = await asyncpg.connect(place)
        await connection.execute("BEGIN")
        await connection.execute("PREPARE TRANSACTION '" + gid.replace("'", "''") + "'")
        await connection.close()
    found = await participant.in_doubt()
    assert [doubtful.prepared.gid for doubtful in found] == [ours.gid]
    await participant.commit(ours)
    assert await participant.in_doubt() == []
    assert await look(PREPARED_NOW) == len(foreign)


async def test_markers_are_purged_after_the_retention_and_not_before(participant, look):
    """As long as the journal remembers a decision, its branch's marker is there to be asked for."""
    await participant.commit(await prepared(participant))
    assert await participant.purge() == 0
    await look("UPDATE unanimity.branches SET created_at = now() - interval '25 hours'")
    await participant.commit(await prepared(participant))
    assert await participant.purge() == 1
    assert await look("SELECT count(*) FROM unanimity.branches") == 1
