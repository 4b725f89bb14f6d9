"""`coordinator in-doubt`: what is prepared without a record, what becomes of it, and an operator's word on it."""

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from coordinator import Coordinator
from coordinator.gids import new_gid
from coordinator.operating.desk import wait_until_done
from coordinator.schema import apply
from participants import Postgres
from tests.integration.operating.conftest import NOWHERE, SETTINGS

RANDOM = bytes(range(16))


@pytest.fixture
async def prepare(database):
    """Prepares a branch of a transaction of this age, whose owner is gone and left no record."""
    connection = await asyncpg.connect(database)
    await apply(connection)
    prefix = await connection.fetchval("SELECT prefix FROM unanimity.prefix")
    await connection.execute("CREATE TABLE posts (author text)")

    async def leave_prepared(age: timedelta) -> str:
        gid = new_gid(prefix, datetime.now(tz=UTC) - age, RANDOM)
        await connection.execute("BEGIN")
        await connection.execute("INSERT INTO posts VALUES ('ann')")
        await connection.execute("INSERT INTO unanimity.branches (gid, branch) VALUES ($1, 'db')", gid)
        await connection.execute(f"PREPARE TRANSACTION '{gid}:db'")
        return gid

    yield leave_prepared
    await connection.close()


async def test_what_becomes_of_a_branch_without_a_record_depends_on_its_age(operator, prepare, database):
    """Its owner's, presumed aborted, or an operator's: as the engine's own rule says."""
    young = await prepare(timedelta(seconds=1))
    old = await prepare(timedelta(minutes=5))
    ancient = await prepare(timedelta(days=2))
    listed = await operator.json("in-doubt", "list", "--participant", f"db={database}")
    assert [(row["gid"], row["prepared_at"], row["journal"], row["prospect"]) for row in listed] == [
        (ancient, ["db"], "no record", "an operator decides: it is older than the journal's memory"),
        (old, ["db"], "no record", "its abort is presumed at the next sweeps"),
        (young, ["db"], "no record", "its owner decides it"),
    ]


@pytest.mark.parametrize(("word", "left"), [("commit", 1), ("abort", 0)])
async def test_an_operator_decides_it_and_a_coordinator_carries_it_out(operator, prepare, database, word, left):
    """The participant is asked first and its evidence shown; who decided and why is kept."""
    gid = await prepare(timedelta(days=2))
    async with Coordinator(journal=database, participants={"db": Postgres(database)}, settings=SETTINGS):
        done = await operator.run(
            "in-doubt", word, gid, "--participant", f"db={database}", "--reason", "ops-7", "--by", "ann", "--yes"
        )
    assert done.exit_code == 0, done.output
    assert f"  db: prepared, as {gid}:db" in done.stdout
    assert "it has been carried out" in done.stderr
    connection = await asyncpg.connect(database)
    assert await connection.fetchval("SELECT count(*) FROM posts") == left
    await connection.close()
    shown = await operator.json("transactions", "show", gid)
    assert [(entry["actor"], entry["action"], entry["reason"]) for entry in shown["audit"]] == [
        ("ann", f"in-doubt {word}", "ops-7")
    ]


async def test_what_its_owner_may_still_decide_is_not_an_operator_s(operator, prepare, database):
    """How long to wait is said."""
    gid = await prepare(timedelta(seconds=1))
    refused = await operator.run(
        "in-doubt", "abort", gid, "--participant", f"db={database}", "--reason", "ops-8", "--yes"
    )
    assert refused.exit_code == 1
    assert "its owner may still decide it; ask again in" in refused.stderr


async def test_without_a_coordinator_it_waits_for_one(operator, prepare, database):
    """The decision is durable, and is carried out by whoever is started."""
    gid = await prepare(timedelta(days=2))
    said = await operator.run(
        *("in-doubt", "commit", gid, "--participant", f"db={database}", "--reason", "r", "--yes", "--wait", "0.2")
    )
    assert said.exit_code == 0
    assert "it is not carried out yet" in said.stderr
    async with Coordinator(journal=database, participants={"db": Postgres(database)}, settings=SETTINGS):
        assert await wait_until_done(database, gid, within_s=10)


async def test_a_parked_transaction_is_in_doubt_too(operator, parked, database):
    """It is decided through the same command, after its participants were asked."""
    participants = ("--participant", f"db={database}", "--participant", "events=kafka://127.0.0.1:1")
    (listed,) = await operator.json("in-doubt", "list", *participants)
    assert (listed["gid"], listed["journal"]) == (parked, "parked")
    done = await operator.run("in-doubt", "abort", parked, *participants, "--reason", "ops-9", "--yes")
    assert done.exit_code == 0, done.output
    assert "  events: it has not voted: nobody can commit it" in done.stdout
    gone = await operator.run("in-doubt", "abort", parked, *participants, "--reason", "ops-9", "--yes")
    assert gone.exit_code == 1
    assert "is not in doubt" in gone.stderr


async def test_where_nobody_is_asked_it_is_not_told_as_peace(operator, prepare, database):
    """Without participants only the journal is looked at, and that is said."""
    gid = await prepare(timedelta(minutes=5))
    blind = await operator.run("in-doubt", "list")
    assert "no participant was asked" in blind.stderr
    seeing = await operator.run("in-doubt", "list", "--participant", f"db={database}")
    assert gid in seeing.stdout
    assert "no participant was asked" not in seeing.stderr


async def test_a_participant_that_has_committed_says_so_before_another_is_aborted(operator, prepare, create_database):
    """Without a record all that are known are asked: also those that have nothing prepared any more, and brokers."""
    gid, other = await prepare(timedelta(days=2)), await create_database()
    connection = await asyncpg.connect(other)
    await apply(connection)
    await connection.execute("INSERT INTO unanimity.branches (gid, branch) VALUES ($1, 'other')", gid)
    await connection.close()
    participants = [f"db={operator.environment['COORDINATOR_JOURNAL']}", f"other={other}", f"events=kafka://{NOWHERE}"]
    given = [word for participant in participants for word in ("--participant", participant)]
    asked = await operator.run("in-doubt", "abort", gid, *given, "--reason", "ops-15", stdin="n\n")
    assert f"  db: prepared, as {gid}:db" in asked.stdout
    assert "  other: committed: its marker is there" in asked.stdout
    assert "  events: cannot be asked: only a record names its transactional id" in asked.stdout
    assert "nothing was done" in asked.stderr
