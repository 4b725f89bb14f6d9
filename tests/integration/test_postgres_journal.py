"""What only the journal in PostgreSQL can be asked: concurrency, lost connections, and how many commits it takes."""

import asyncio
from dataclasses import replace

import asyncpg
import pytest

from coordinator.errors import InDoubt, Refused, Replaced, Unavailable
from coordinator.journal.owners import PostgresOwners
from coordinator.journal.postgres import PostgresJournal
from coordinator.ports import Standing
from tests.conformance.test_journals import record, with_standing


@pytest.fixture
async def journal(database):
    """A journal with an owner."""
    built = PostgresJournal(database)
    await built.open()
    await PostgresOwners(built, owner_id="a", lease_s=10).register()
    yield built
    await built.close()


async def test_an_abort_waits_for_the_commit_in_flight_and_adopts_it(journal, database):
    """What became of our own COMMIT is answered by the unique index: the insert waits for the flight."""
    made = record()
    connection = await asyncpg.connect(database)
    await connection.execute("BEGIN")
    await journal.decide_within(connection, made, [], ready=frozenset())
    asking = asyncio.ensure_future(journal.decide(with_standing(made, Standing.ABORT)))
    done, _ = await asyncio.wait({asking}, timeout=0.3)
    assert not done
    await connection.execute("COMMIT")
    assert await asking is Standing.COMMIT
    await connection.close()


async def test_an_abort_wins_where_the_flight_was_rolled_back(journal, database):
    """And a COMMIT that comes later than the abort fails."""
    made = record()
    connection = await asyncpg.connect(database)
    await connection.execute("BEGIN")
    await journal.decide_within(connection, made, [], ready=frozenset())
    asking = asyncio.ensure_future(journal.decide(with_standing(made, Standing.ABORT)))
    await asyncio.sleep(0.1)
    await connection.execute("ROLLBACK")
    assert await asking is Standing.ABORT
    await connection.close()


async def test_a_takeover_and_a_decision_exclude_each_other(journal, database):
    """While a decision holds the owner's row, nobody bumps its term; afterwards, the owner decides nothing more."""
    other = PostgresJournal(database)
    await other.open()
    owners = PostgresOwners(other, owner_id="b", lease_s=10)
    lease = await owners.register()
    connection = await asyncpg.connect(database)
    await connection.execute("UPDATE unanimity.owners SET lease_until = '-infinity' WHERE owner LIKE 'a-%'")
    async with connection.transaction():
        await connection.fetch("SELECT FROM unanimity.owners WHERE owner LIKE 'a-%' FOR UPDATE")
        assert await owners.take_over(lease) == []
    assert await owners.take_over(lease) == ["a-1"]
    with pytest.raises(Replaced):
        await journal.decide(record())
    await connection.close()
    await other.close()


async def test_decisions_that_wait_together_share_a_commit(journal):
    """Sixty-four decisions at once take a handful of flushes, without a timer."""
    before = journal._decisions.flushes
    standings = await asyncio.gather(*(journal.decide(record()) for _ in range(64)))
    assert set(standings) == {Standing.COMMIT}
    assert journal._decisions.flushes - before <= 3


async def test_a_record_that_cannot_be_stored_costs_those_nothing_that_share_its_commit(journal):
    """It is refused, and only to whoever wrote it."""
    records = [record(), replace(record(), reason="a NUL: \0"), record()]
    stand = await asyncio.gather(*map(journal.decide, records), return_exceptions=True)
    assert (stand[0], stand[2]) == (Standing.COMMIT, Standing.COMMIT)
    assert isinstance(stand[1], Refused)
    assert await journal.look_up(records[1].gid) is None


async def test_one_flush_of_decisions_is_one_statement(journal):
    """One round trip, one commit: the lock on the owner's row and the inserts are one statement."""
    await journal.decide(record())
    before = journal.forced.statements
    await journal.decide(record())
    assert journal.forced.statements - before == 1


async def test_a_lost_connection_is_unknown_and_asking_again_is_safe(journal, database):
    """Whatever became of the write, the row that stands is told."""
    await journal.decide(record())
    connection = await asyncpg.connect(database)
    made = record()

    async def cut():
        await connection.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )

    await cut()
    with pytest.raises((InDoubt, Unavailable)):
        await journal.decide(made)
    assert await journal.decide(made) is Standing.COMMIT
    await connection.close()


async def test_purging_forgets_only_what_is_old_clean_and_finished(journal, database):
    """Unfinished records, open alerts and heuristic outcomes are kept whatever their age."""
    from coordinator.alerts import AlertKind
    from coordinator.journal.owners import PostgresAlerts
    from coordinator.protocol.model import Outcome

    alerts = PostgresAlerts(journal)
    done, owed, alerted, resolved, torn = (record() for _ in range(5))
    for made in (done, owed, alerted, resolved, torn):
        await journal.decide(made)
    for made in (done, alerted, resolved, torn):
        await journal.finish(made.gid, Outcome.COMMIT, {})
    for made, kind in ((alerted, AlertKind.PARKED), (resolved, AlertKind.PARKED), (torn, AlertKind.HEURISTIC)):
        await alerts.raise_alert(made.gid, kind, "")
    for made, kind in ((resolved, AlertKind.PARKED), (torn, AlertKind.HEURISTIC)):
        assert await alerts.resolve_alert(made.gid, kind, by="op", reason="done")
    assert await journal.purge(older_than_s=3600) == 0
    connection = await asyncpg.connect(database)
    await connection.execute("UPDATE unanimity.decisions SET done_at = done_at - interval '2 days'")
    await connection.close()
    assert await journal.purge() == 2
    kept = {made.gid for made in (done, owed, alerted, resolved, torn) if await journal.look_up(made.gid)}
    assert kept == {owed.gid, alerted.gid, torn.gid}
