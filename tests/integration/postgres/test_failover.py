"""An asynchronous standby is promoted between decision and second phase: nothing that it lost is lost silently.

Two real servers, and a third with the journal and the other branches, which does not fail over. The coordinator reaches
whichever is the primary under one address.
"""

import asyncio
from contextlib import asynccontextmanager

import asyncpg
import pytest

from coordinator import Coordinator
from coordinator.alerts import AlertKind
from coordinator.faults.injectors import ArmedFaults, Fault
from coordinator.ports import Record, Standing
from coordinator.protocol.model import BranchName, Ending, Recipe
from coordinator.settings import load
from participants import Postgres
from tests.integration.postgres.branches import prepared, until
from tests.integration.postgres.conftest import query
from tests.integration.postgres.pair import paired

TABLE = "CREATE TABLE business (n int)"
ALERTS = "SELECT coalesce(array_agg(gid || ' ' || kind ORDER BY gid), '{}') FROM unanimity.alerts"
PREPARED = "SELECT count(*) FROM pg_prepared_xacts"
NONE_PREPARED = "SELECT count(*) = 0 FROM pg_prepared_xacts WHERE database = current_database()"
WRITTEN = "SELECT coalesce(array_agg(n ORDER BY n), '{}') FROM business"


@pytest.fixture
async def pair(private_postgres, postgres_directory):
    """A primary and its standby."""
    async with paired(await private_postgres(), postgres_directory) as made:
        yield made


@asynccontextmanager
async def coordinating(pair, other):
    """One process: the pair's database and another one, whose server also holds the journal."""
    participants = {"db": Postgres(pair.url), "other": Postgres(other)}
    settings = load(recovery_s=0.1, settle_within_s=1.0)
    async with Coordinator(journal=other, participants=participants, settings=settings) as coordinator:
        yield coordinator


async def write(coordinator, n):
    """A transaction on both databases; its gid."""
    async with coordinator.transaction("test", deadline_s=3.0) as transaction:
        gid = transaction.gid
        for name in ("db", "other"):
            await (await transaction.enlist(name)).execute("INSERT INTO business VALUES ($1)", n)
    return gid


async def test_an_asynchronous_standby_is_promoted_between_decision_and_second_phase(pair, database):
    """What stands again is committed again. What vanished raises one alert, whoever looks, and is never silent.

    1 was committed on the lost primary, and the standby has it prepared. 2 was prepared and committed after the standby
    heard the last: done, as far as everybody was told. 3 was decided when the primary died.
    """
    await query(database, TABLE)
    async with coordinating(pair, database) as coordinator:
        cut = Fault(
            point="pg.commit_prepared",
            action="call",
            labels={"branch": "db"},
            times=1,
            call=pair.cut_off,
        )
        with ArmedFaults(faults=[cut]) as armed:
            first = await write(coordinator, 1)
            assert armed.unfired() == []
        second = await write(coordinator, 2)
        die = Fault(
            point="pg.commit_prepared",
            action="call",
            labels={"branch": "db"},
            times=1,
            call=pair.primary.kill,
        )
        with ArmedFaults(faults=[die]) as armed:
            third = await write(coordinator, 3)
            assert armed.unfired() == []
        assert await query(pair.standby.url, WRITTEN) == []
        assert await query(database, ALERTS) == []

        await pair.fail_over()

        async def told_of_both():
            return len(await query(database, ALERTS)) == 2 and not await query(pair.standby.url, PREPARED)

        await until(told_of_both)
        assert await query(pair.standby.url, WRITTEN) == [1]
        assert await query(database, WRITTEN) == [1, 2, 3]
        expected = sorted(f"{gid} {AlertKind.LOST_BY_FAILOVER}" for gid in (second, third))
        async with coordinating(pair, database) as another:  # It never saw the former history, and looks all the same.
            for _ in range(3):
                await asyncio.gather(coordinator.engine.recovery.once(), another.engine.recovery.once())
            assert await query(database, ALERTS) == expected
            fourth = await write(another, 4)
        assert await query(pair.standby.url, WRITTEN) == [1, 4]

    endings = "SELECT endings->>'db' FROM unanimity.decisions WHERE gid = $1"
    assert [await query(database, endings, gid) for gid in (first, second, third, fourth)] == [
        Ending.COMMITTED,
        Ending.LOST,
        Ending.LOST,
        Ending.COMMITTED,
    ]


async def test_another_history_gives_the_lost_branchs_transaction_id_to_another(pair):
    """The id's status says "committed", of somebody else's transaction: it is not believed."""
    participant = Postgres(pair.url)
    await participant.open()
    try:
        await until(lambda: query(pair.standby.url, "SELECT to_regclass('unanimity.branches') IS NOT NULL"))
        await pair.cut_off()
        lost = await prepared(participant)
        await pair.fail_over()
        connection = await asyncpg.connect(pair.standby.url)
        while int(await connection.fetchval("SELECT pg_current_xact_id()::text")) <= int(lost.evidence["xid"]):
            continue
        assert await connection.fetchval("SELECT pg_xact_status($1::text::xid8)", lost.evidence["xid"]) == "committed"
        await connection.close()
        assert await participant.commit(lost) is Ending.LOST
        assert await participant.abort(lost) is Ending.ABORTED
    finally:
        await participant.close()


async def test_a_journal_that_failed_over_presumes_no_abort_of_what_it_may_have_forgotten(pair, create_database):
    """The commit of one branch was decided, and its record was lost with the primary: it is an operator's."""
    database, other = await create_database(), await create_database()
    participant = Postgres(database)
    participant.name = BranchName("db")
    await participant.open()
    await query(database, TABLE)
    settings = load(
        prefix=participant.prefix, recovery_s=0.1, presume_abort_after_s=0.1, presume_abort_looks_apart_s=0.0
    )
    participants = {"db": Postgres(database), "other": Postgres(other)}
    async with Coordinator(journal=pair.url, participants=participants, settings=settings) as coordinator:
        await coordinator.engine.recovery.once()
        presumed = await prepared(participant)  # In its first history, absence means abort.
        await until(lambda: query(database, NONE_PREPARED))
        await pair.cut_off()
        forgotten = await prepared(participant)
        record = Record(gid=forgotten.gid, name="test", recipe=Recipe.TWO_PHASE, standing=Standing.COMMIT)
        assert await coordinator.engine.journal.decide(record) is Standing.COMMIT
        await pair.fail_over()
        await until(lambda: query(pair.standby.url, f"SELECT cardinality(({ALERTS})) > 0"))
        assert await query(pair.standby.url, ALERTS) == [f"{forgotten.gid} {AlertKind.OLDER_THAN_JOURNAL}"]
        for _ in range(3):
            await coordinator.engine.recovery.once()
        assert not await query(database, NONE_PREPARED)
        assert await participant.commit(forgotten) is Ending.COMMITTED
        assert await participant.abort(presumed) is Ending.ABORTED
    await participant.close()
