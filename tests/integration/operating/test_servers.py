"""`coordinator schema`, `outbox`, `pool` and `watch`, and what commands say when a server is away or not ready."""

import asyncio

import asyncpg
import pytest

from coordinator import Coordinator
from coordinator.schema import COMPONENTS, apply, migrations
from examples.social_post.service import TABLES
from participants import Kafka, Postgres
from tests.integration.operating.conftest import NOWHERE, SETTINGS, strict


@pytest.fixture
async def connection(database):
    """A connection to the test's database, in which all tables are there."""
    opened = await asyncpg.connect(database)
    await apply(opened)
    yield opened
    await opened.close()


async def test_the_schema_is_applied_once_and_its_state_is_told(operator, database):
    """Exit codes for scripts: 1 while something is to be applied, 0 when all is current."""
    before = await operator.run("schema", "status", "--database", database)
    assert before.exit_code == 1
    assert before.stdout.count("missing") + before.stdout.count("optional") == len(COMPONENTS)
    applied = await operator.run("schema", "apply", "--database", database)
    assert applied.exit_code == 0
    assert applied.stdout.splitlines()[0] == "applied journal 1"
    assert len(applied.stdout.splitlines()) == sum(len(migrations(component)) for component in COMPONENTS)
    again = await operator.run("schema", "apply", "journal", "--database", database)
    assert (again.exit_code, again.stdout) == (0, "")
    assert (await operator.run("schema", "status", "--database", database)).exit_code == 0
    assert (await operator.run("schema", "apply", "tables", "--database", database)).exit_code == 2


async def test_tables_that_nothing_has_asked_for_are_optional(operator, database):
    """What a coordinator makes when it starts is all that it needs; what is named, and what is old, is told."""
    async with Coordinator(journal=database, participants={"db": Postgres(database)}, settings=SETTINGS):
        pass
    status = await operator.run("schema", "status", "--database", database)
    assert (status.exit_code, status.stdout.count("optional"), status.stdout.count("missing")) == (0, 4, 0)
    named = await operator.run("schema", "status", "journal", "inbox", "--database", database)
    assert (named.exit_code, named.stdout.count("missing")) == (1, 1)
    connection = await asyncpg.connect(database)
    await connection.execute("DELETE FROM unanimity.schema_versions WHERE component = 'journal' AND version > 1")
    await connection.execute("DELETE FROM unanimity.schema_versions WHERE component = 'sagas'")
    await connection.close()
    assert (await operator.run("schema", "status", "--database", database)).exit_code == 1
    status = await operator.json("schema", "status", "--database", database)
    states = {each["component"]: each["state"] for each in status}
    assert (states["journal"], states["sagas"], states["inbox"]) == ("behind", "missing", "optional")


async def test_a_newer_schema_is_refused_by_every_command(operator, connection, database):
    """Old code does not touch tables that it does not know."""
    await connection.execute("INSERT INTO unanimity.schema_versions VALUES ('journal', 99)")
    for command in (("schema", "apply"), ("transactions", "list"), ("watch", "--looks", "1")):
        refused = await operator.run(*command)
        assert refused.exit_code == 1, command
        assert "upgrade" in refused.stderr


async def test_what_was_given_up_is_listed_retried_and_discarded(operator, connection, database):
    """Each act is audited with what it was about."""
    for number in range(3):
        await connection.execute(
            "INSERT INTO unanimity.outbox (message_id, participant, topic, shard, dead, attempts, last_error) "
            "VALUES ($1, 'events', 'gone', 0, true, 6, 'UnknownTopicOrPartitionError')",
            f"message-{number}",
        )
    status = await operator.run("outbox", "status")
    assert status.exit_code == 1
    assert status.stdout.count("UnknownTopicOrPartitionError") == 3
    first, second, _ = [letter["id"] for letter in (await operator.json("outbox", "status"))["dead"]]
    retried = await operator.run("outbox", "retry", first, "--reason", "ops-10", "--by", "ann")
    assert "1 will be delivered" in retried.stderr
    assert (await operator.run("outbox", "retry", first, "--reason", "ops-10")).exit_code == 1
    discarded = await operator.run("outbox", "discard", second, "--reason", "ops-11", "--by", "ann", "--yes")
    assert "1 are gone" in discarded.stderr
    assert "1 are gone" in (await operator.run("outbox", "discard", "--all", "--reason", "ops-12", "--yes")).stderr
    assert (await operator.run("outbox", "status")).exit_code == 0
    assert (await operator.run("outbox", "retry", "--reason", "ops-13")).exit_code == 2
    audited = await connection.fetch("SELECT action, reason, detail FROM unanimity.audit ORDER BY id")
    assert [row["reason"] for row in audited] == ["ops-10", "ops-11", "ops-12"]
    assert audited[0]["detail"] == "message-0 to events gone: UnknownTopicOrPartitionError"
    assert await connection.fetchval("SELECT count(*) FROM unanimity.outbox WHERE NOT dead") == 1


async def test_all_are_all_however_many(operator, connection):
    """And each transaction's story tells what became of its messages."""
    await connection.execute(
        "INSERT INTO unanimity.outbox (message_id, participant, topic, shard, dead, attempts, last_error) "
        "SELECT 'unan:' || n % 2 || ':' || n, 'events', 'gone', 0, true, 6, 'x' FROM generate_series(1, 1200) AS n"
    )
    done = await operator.run("outbox", "discard", "--all", "--reason", "ops-14", "--by", "ann", "--yes")
    assert "1200 are gone" in done.stderr
    audited = await connection.fetch("SELECT gid, detail FROM unanimity.audit ORDER BY gid")
    assert [(row["gid"], row["detail"].count("to events gone: x")) for row in audited] == [
        ("unan:0", 600),
        ("unan:1", 600),
    ]


async def test_the_pool_shows_whose_each_id_is_and_what_the_broker_says(
    operator, connection, database, kafka, posts_topic
):
    """An id with an open transaction is seen as such; without the brokers the owners are told still."""
    await connection.execute(TABLES)
    participants = {"db": Postgres(database), "events": Kafka(kafka.bootstrap, two_phase=False)}
    async with Coordinator(journal=database, participants=participants, settings=SETTINGS) as coordinator:
        async with coordinator.transaction("create-post") as transaction:
            await transaction.publish("events", topic=posts_topic, key="pool", value="first")
        async with coordinator.transaction("create-post") as transaction:
            await transaction.publish("events", topic=posts_topic, key="pool", value="second")

            async def open_ids():
                rows = await operator.json("pool", "--participant", f"events=kafka://{kafka.bootstrap}")
                assert all(row["owner_lives"] for row in rows)
                assert {row["state"] for row in rows} <= {"Empty", "CompleteCommit", "Ongoing", "PrepareCommit"}
                return [row for row in rows if row["state"] == "Ongoing"]

            while not (ongoing := await open_ids()):  # The message travels while the block runs.
                pass
            assert len(ongoing) == 1
            assert ongoing[0]["open_s"] >= 0
            assert ongoing[0]["rest_s"] is None
            rows = await operator.json("pool", "--participant", f"events=kafka://{kafka.bootstrap}")
            (rested,) = [row for row in rows if row["state"] == "CompleteCommit"]
            assert rested["rest_s"] >= 0
            assert rested["open_s"] is None
        assert {row["state"] for row in await operator.json("pool")} == {"not asked"}
        away = await operator.json("pool", "--participant", f"events=kafka://{NOWHERE}")
        assert all("no answer" in row["state"] for row in away)


async def test_watching_shows_everything_at_a_glance(operator, parked):
    """For people as a view, for programs as lines."""
    shown = (await operator.run("watch", "--looks", "1")).stdout
    assert "parked: an operator decides" in shown
    assert "owners" in shown
    lines = (await operator.run("watch", "--looks", "2", "--every", "0.1", "--output", "json")).stdout.splitlines()
    assert [strict(line)["pulse"]["parked"] for line in lines] == [1, 1]


async def test_a_lease_that_was_given_up_is_no_number(operator, database):
    """Programs read what is printed, whoever has gone: "infinitely long ago" is no JSON."""
    participants = {"db": Postgres(database), "events": Kafka(NOWHERE)}
    async with Coordinator(journal=database, participants=participants, settings=SETTINGS):
        while not (await operator.json("outbox", "status"))["relays"]:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    (line,) = (await operator.run("watch", "--looks", "1", "--output", "json")).stdout.splitlines()
    assert [owner["lease_s"] for owner in strict(line)["owners"]] == [None]
    (relay,) = (await operator.json("outbox", "status"))["relays"]
    assert (relay["relay"], relay["lease_s"]) == ("(nobody)", None)


async def test_an_id_is_whole_wherever_it_is_printed(operator, parked):
    """It goes into the next command: on a narrow terminal, and into a pipe, which has no width at all."""
    operator.environment["COLUMNS"] = "80"
    narrow = [line.split() for line in (await operator.run("transactions", "list")).stdout.splitlines()]
    assert ["gid", parked] in narrow
    assert ["recipe", "last-resource"] in narrow
    operator.environment["COLUMNS"] = None  # The runner takes it away.
    (row,) = [line for line in (await operator.run("transactions", "list")).stdout.splitlines() if parked in line]
    assert "parked: waits for an operator" in row


async def test_a_database_that_is_away_or_not_ready_is_said_to_be_in_a_sentence(operator, database):
    """With an exit code for scripts, and without a traceback."""
    for url, code, said in (
        ("postgresql://postgres@127.0.0.1:1/app", 3, "does not answer"),
        ("nonsense", 1, "that is no database URL"),
        (database, 1, "run `coordinator schema apply`"),
    ):
        refused = await operator.run("transactions", "list", "--journal", url)
        assert (refused.exit_code, refused.stdout) == (code, ""), url
        assert said in refused.stderr
    seen = await operator.run("watch", "--looks", "1", "--journal", "postgresql://postgres@127.0.0.1:1/app")
    assert seen.exit_code == 0
    assert "does not answer" in seen.stdout


async def test_the_settings_file_names_journal_and_participants(operator, connection, database, tmp_path):
    """So that an operator types no URLs; an option wins over it."""
    file = tmp_path / "coordinator.toml"
    file.write_text(f'journal = "{database}"\nparticipants = {{ db = "{database}" }}\n')
    del operator.environment["COORDINATOR_JOURNAL"]
    nothing = await operator.run("in-doubt", "list", COORDINATOR_CONFIG=str(file))
    assert nothing.exit_code == 0, nothing.output
    assert "nothing is in doubt" in nothing.stderr
    file.write_text('participants = { db = "mysql://localhost/app" }\n')
    wrong = await operator.run("in-doubt", "list", "--journal", database, COORDINATOR_CONFIG=str(file))
    assert wrong.exit_code == 1
    assert "'mysql' is no kind of participant" in wrong.stderr
