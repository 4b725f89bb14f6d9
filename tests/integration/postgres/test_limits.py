"""What a server has no room for, what a prepared transaction may not do, and settings that break the promise."""

import asyncio
import os
from dataclasses import replace
from datetime import UTC, datetime

import asyncpg
import pytest

from coordinator import limits
from coordinator.errors import ForbiddenStatement, Misconfigured, Overloaded
from coordinator.ports import Ability
from coordinator.protocol.model import BranchName, Ending, Prepared, Recipe
from participants import Postgres
from participants.postgres.slots import Slots
from tests.integration.postgres.branches import PREPARED_NOW, ROWS, begin, fresh_gid, prepared, until
from tests.integration.postgres.conftest import query


async def test_more_transactions_than_slots_wait_instead_of_failing(private_postgres):
    """Four slots and 64 transactions at once: none is refused, and the server never runs out."""
    server = await private_postgres(max_prepared_transactions="4")
    await query(server.url, "CREATE TABLE business (n int)")
    participant = Postgres(server.url)
    await participant.open()
    most = 0

    async def one() -> Ending:
        nonlocal most
        branch = await prepared(participant)
        most = max(most, await query(server.url, "SELECT count(*) FROM pg_prepared_xacts"))
        return await participant.commit(branch)

    try:
        endings = await asyncio.gather(*(one() for _ in range(64)))
    finally:
        await participant.close()
    assert endings == [Ending.COMMITTED] * 64
    assert await query(server.url, ROWS) == 64
    assert 2 <= most <= 3, "80 % of four, and really at once"
    assert "maximum number of prepared transactions" not in server.log.read_text()


async def test_without_the_wait_the_server_does_run_out(private_postgres):
    """The hazard itself, and the error that it becomes: another process may have taken the slots."""
    server = await private_postgres(max_prepared_transactions="1")
    await query(server.url, "CREATE TABLE business (n int)")
    participants = [Postgres(server.url) for _ in range(2)]
    for participant in participants:
        await participant.open()
    branch = await prepared(participants[0])
    with pytest.raises(Overloaded, match="max_prepared_transactions"):
        await prepared(participants[1])
    await participants[0].commit(branch)
    assert await participants[1].commit(await prepared(participants[1])) is Ending.COMMITTED
    for participant in participants:
        await participant.close()


async def test_a_slot_is_free_again_when_another_process_finished_its_transaction(open_participant, monkeypatch):
    """The next look at what is in doubt notices it."""
    first, second = await open_participant(), await open_participant()
    first._database = replace(first.database, slots=Slots(first.name, 1))
    await second.commit(await prepared(first))
    monkeypatch.setattr(limits, "PARTICIPANT_CALL_S", 0.2)
    with pytest.raises(Overloaded):
        await begin(first)
    monkeypatch.undo()
    await first.in_doubt()
    await (await begin(first)).discard()


FORBIDDEN = {
    "NOTIFY": "NOTIFY news, 'x'",
    "LISTEN": "LISTEN news",
    "UNLISTEN": "LISTEN news; UNLISTEN news",
    "a temporary table": "CREATE TEMP TABLE t (n int)",
    "a temporary table that drops itself": "CREATE TEMP TABLE t (n int) ON COMMIT DROP",
    "a temporary table as a copy": "SELECT 1 AS n INTO TEMP t",
    "a temporary view": "CREATE TEMP VIEW v AS SELECT 1",
    "a temporary sequence": "CREATE TEMP SEQUENCE s",
    "a temporary type": "CREATE TYPE pg_temp.t AS (n int)",
    "a cursor that outlives its transaction": "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
    "both kinds of advisory lock": "SELECT pg_advisory_lock(4711); SELECT pg_advisory_xact_lock(4711)",
    "an exported snapshot": "SELECT pg_export_snapshot()",
}


@pytest.mark.parametrize("statement", FORBIDDEN.values(), ids=FORBIDDEN)
async def test_a_statement_that_cannot_be_prepared_is_refused_with_a_remedy(participant, look, statement):
    """The same block would be refused again; nothing is left, and the connection works as if nothing had been."""
    session = await begin(participant)
    await session.connection.execute(statement)
    with pytest.raises(ForbiddenStatement, match="do it after the block") as refused:
        await session.vote(10.0)
    assert isinstance(refused.value.__cause__, asyncpg.FeatureNotSupportedError)
    assert (await look(ROWS), await look(PREPARED_NOW)) == (0, 0)
    assert await participant.commit(await prepared(participant)) is Ending.COMMITTED
    locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = $1::bigint::oid"

    async def nothing_is_locked() -> bool:
        return await look(locks, participant.database.server.database) == 0

    await until(nothing_is_locked)  # The session is closed off the critical path.


async def test_a_server_without_prepared_transactions_cannot_prepare_but_decides(private_postgres):
    """It is PostgreSQL's default, and all that the commit record needs."""
    server = await private_postgres(max_prepared_transactions="0")
    participant = Postgres(server.url)
    assert Ability.PREPARE not in await participant.open()
    with pytest.raises(Misconfigured, match="max_prepared_transactions"):
        await participant.begin(fresh_gid(), recipe=Recipe.TWO_PHASE)
    await (await participant.begin(fresh_gid(), recipe=Recipe.COMMIT_RECORD)).discard()
    await participant.close()


@pytest.mark.parametrize("where", ["the role", "the connection"])
async def test_commits_that_are_not_durable_are_a_misconfiguration(database, look, where):
    """A decision that a crash takes back is none."""
    options = {}
    if where == "the role":
        name = await look("SELECT current_database()")
        await look(f"ALTER ROLE postgres IN DATABASE {name} SET synchronous_commit = off")
    else:
        options = {"server_settings": {"synchronous_commit": "off"}}
    participant = Postgres(database, connect_options=options)
    with pytest.raises(Misconfigured, match="synchronous_commit"):
        await participant.open()


@pytest.mark.parametrize("change", [("/test_", "/nowhere_"), ("postgres@", "nobody_knows@")])
async def test_a_database_or_role_that_is_not_there_is_a_misconfiguration(database, change):
    """Asking again cannot help."""
    with pytest.raises(Misconfigured, match="refuses us"):
        await Postgres(database.replace(*change)).open()


async def test_a_role_that_may_not_read_the_servers_history_still_learns_how_branches_ended(database, look):
    """By their markers; where there is none, it does not guess."""
    migrating = Postgres(database)
    await migrating.open()
    await migrating.close()
    await look("CREATE TABLE business (n int)")
    await look("REVOKE EXECUTE ON FUNCTION pg_control_system(), pg_control_checkpoint() FROM PUBLIC")
    role = f"small_{os.urandom(4).hex()}"
    await look(f"CREATE ROLE {role} LOGIN")
    await look(f"GRANT USAGE ON SCHEMA unanimity TO {role}")
    await look(f"GRANT ALL ON ALL TABLES IN SCHEMA unanimity TO {role}")
    await look(f"GRANT ALL ON business TO {role}")
    participant = Postgres(database.replace("postgres@", f"{role}@"))
    participant.name = BranchName("db")
    await participant.open()
    try:
        branch = await prepared(participant)
        assert await participant.commit(branch) is Ending.COMMITTED
        assert await participant.abort(branch) is Ending.COMMITTED
        await look("DELETE FROM unanimity.branches")
        assert await participant.commit(branch) is Ending.HAZARD
        assert await participant.identity() != "/" + str(participant.database.server.database)
    finally:
        await participant.close()
        await look(f"DROP OWNED BY {role}")
        await look(f"DROP ROLE {role}")


async def test_the_age_of_a_doubtful_branch_is_the_servers(participant):
    """It grows between two looks, whatever this machine's clock says."""
    branch = await prepared(participant)
    started = datetime.now(tz=UTC)
    (young,) = await participant.in_doubt()
    (old,) = await participant.in_doubt()
    passed_s = (datetime.now(tz=UTC) - started).total_seconds()
    assert 0 <= young.age_s < old.age_s < young.age_s + passed_s + 1
    await participant.abort(Prepared(gid=branch.gid, branch=branch.branch))
