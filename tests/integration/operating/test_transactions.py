"""`coordinator transactions` and `alerts`: a parked transaction is found, told as a story, and decided."""

import asyncpg
import pytest

from coordinator import Coordinator, InDoubt
from coordinator.faults.injectors import ArmedFaults, parse
from coordinator.operating.desk import wait_until_done
from participants import Kafka, Postgres
from tests.integration.operating.conftest import SETTINGS, TABLE

LIVE = "SELECT owner FROM unanimity.owners WHERE lease_until > now()"


def opened(database):
    """A coordinator of this database alone."""
    return Coordinator(journal=database, participants={"db": Postgres(database)}, settings=SETTINGS)


async def rows(database, statement):
    connection = await asyncpg.connect(database)
    try:
        return [tuple(row) for row in await connection.fetch(statement)]
    finally:
        await connection.close()


async def test_a_parked_transaction_is_listed_and_told_as_a_story(operator, parked):
    """What happened, what is so now, and what the operator can do."""
    (listed,) = await operator.json("transactions", "list", "--state", "parked")
    assert (listed["gid"], listed["name"], listed["state"]) == (parked, "create-post", "parked: waits for an operator")
    assert listed["owner_lives"]
    assert listed["alerts"] == 1
    assert parked in (await operator.run("transactions", "list")).stdout
    assert await operator.json("transactions", "list", "--state", "finished") == []
    assert await operator.json("transactions", "list", "--name", "another") == []

    story = (await operator.run("transactions", "show", parked)).stdout
    told = [line[25:] for line in story.splitlines()]
    assert told[0] == "create-post began, by recipe last-resource"
    assert "ALERT parked: events: TimeoutError" in told
    (recorded,) = [line for line in told if line.startswith("that it waits for an operator was recorded by ")]
    assert "db voted yes (xid " in recorded
    assert any(line.startswith("it is rolled back in ") for line in told)
    assert "the alert parked is open" in told


async def test_an_operator_rolls_it_back_with_a_reason_that_is_kept(operator, parked, database):
    """A running coordinator carries it out; who said it and why stands in the story."""
    refused = await operator.run("transactions", "resolve", parked, "abort", "--yes")
    assert refused.exit_code == 2
    assert "say why" in refused.output
    done = await operator.run("transactions", "resolve", parked, "abort", "--yes", "--reason", "ops-1", "--by", "ann")
    assert done.exit_code == 0, done.output
    assert "it has been carried out" in done.stderr
    assert await rows(database, "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()") == []
    shown = await operator.json("transactions", "show", parked)
    assert shown["state"] == "aborted"
    assert shown["reason"] == "ann: ops-1"
    assert [(entry["actor"], entry["action"], entry["reason"]) for entry in shown["audit"]] == [
        ("ann", "resolve abort", "ops-1"),
        ("ann", "resolve alert", "ops-1"),
    ]
    assert await operator.json("alerts", "list") == []
    again = await operator.run("transactions", "resolve", parked, "commit", "--yes", "--reason", "ops-2")
    assert again.exit_code == 1
    assert "A decision never changes" in again.stderr


async def test_an_operator_commits_it_and_the_relay_has_the_messages(operator, parked, database):
    """The row is there, and the message waits in the outbox for the broker."""
    done = await operator.run("transactions", "resolve", parked, "commit", "--yes", "--reason", "ops-3")
    assert done.exit_code == 0, done.output
    assert await rows(database, "SELECT author FROM posts") == [("ann",)]
    shown = await operator.json("transactions", "show", parked)
    assert shown["endings"] == {"db": "committed", "events": "deferred"}
    assert shown["messages"][0]["messages"] == 1


async def test_without_a_yes_nothing_is_done(operator, parked):
    """The story is shown, and then the question is asked."""
    asked = await operator.run("transactions", "resolve", parked, "commit", "--reason", "ops-4", stdin="n\n")
    assert asked.exit_code == 1
    assert "began, by recipe last-resource" in asked.stdout
    assert "nothing was done" in asked.stderr
    (listed,) = await operator.json("transactions", "list", "--state", "parked")
    assert listed["gid"] == parked


async def test_an_alert_is_resolved_once_and_with_a_reason(operator, parked):
    """Its exit code says to scripts whether any is open."""
    shown = await operator.run("alerts", "list")
    assert shown.exit_code == 1
    assert parked in shown.stdout
    done = await operator.run("alerts", "resolve", parked, "parked", "--reason", "ops-5 looks at it", "--by", "ann")
    assert done.exit_code == 0, done.output
    assert (await operator.run("alerts", "list")).exit_code == 0
    (kept,) = await operator.json("alerts", "list", "--all")
    assert (kept["kind"], kept["resolved_by"], kept["resolution"]) == ("parked", "ann", "ops-5 looks at it")
    again = await operator.run("alerts", "resolve", parked, "parked", "--reason", "ops-6", "--by", "bob")
    assert again.exit_code == 1
    assert "no open alert" in again.stderr


async def test_what_an_owed_call_was_answered_is_in_the_story(operator, database):
    """Its participant is away: how often it was tried, and what the last answer was."""
    async with Coordinator(journal=database, participants={"db": Postgres(database)}, settings=SETTINGS) as coordinator:
        with ArmedFaults(faults=[parse("pg.commit_prepared:before=error(ConnectionResetError)")]):
            async with coordinator.transaction("create-post", recipe="two-phase") as transaction:
                connection = await transaction.enlist("db")
                await connection.execute(TABLE)
                await connection.execute("INSERT INTO posts VALUES ('ann')")
            assert transaction.outcome is not None
            assert transaction.outcome.committed
            assert not transaction.outcome.settled
            shown = await operator.json("transactions", "show", transaction.outcome.gid)
            assert shown["owed"] == ["commit db"]
            (attempt,) = shown["attempts"]
            assert attempt["tried"] >= 2
            assert "ConnectionResetError" in attempt["answer"]


async def test_what_nobody_knows_is_said_so(operator, parked):
    """With what it may mean."""
    unknown = await operator.run("transactions", "show", "unan:01JD3Q9V2K8RZ6W0X5C7T4M1NB")
    assert unknown.exit_code == 1
    assert "it was finished and forgotten" in unknown.stderr


async def test_a_torn_transaction_is_never_told_as_clean(operator, parked, database):
    """An administrator rolled its branch back by hand; also when the alert is resolved, list and story say so."""
    connection = await asyncpg.connect(database)
    await connection.execute(f"ROLLBACK PREPARED '{parked}:db'")
    await connection.close()
    done = await operator.run("transactions", "resolve", parked, "commit", "--yes", "--reason", "ops-6")
    assert "it has been carried out" in done.stderr
    torn = "committed, but db aborted"
    (listed,) = await operator.json("transactions", "list", "--state", "alerted")
    assert listed["state"] == torn
    resolved = await operator.run("alerts", "resolve", parked, "heuristic", "--reason", "written again", "--by", "ann")
    assert resolved.exit_code == 0, resolved.output
    told = (await operator.run("transactions", "show", parked)).stdout
    assert f"now: {torn}" in told
    assert "ann said resolve alert (heuristic): written again" in told
    assert await operator.json("transactions", "list", "--state", "alerted") == []
    for state in ("finished", "torn"):
        (listed,) = await operator.json("transactions", "list", "--state", state)
        assert (listed["state"], listed["alerts"]) == (torn, 0)


async def test_who_decided_stays_in_the_story_when_another_process_carries_it_out(operator, database):
    """Each by its own name, and each at its time."""
    lost = ArmedFaults(faults=[parse("pg.commit_prepared:before=error(ConnectionResetError)")])
    with lost:
        async with opened(database) as first:
            async with first.transaction("create-post", recipe="two-phase") as transaction:
                connection = await transaction.enlist("db")
                await connection.execute(TABLE)
                await connection.execute("INSERT INTO posts VALUES ('ann')")
            ((decider,),) = await rows(database, LIVE)
            await first.engine.driver.stop()  # Or else the block would wait for what is owed, as long as it may.
    assert transaction.outcome is not None
    gid = transaction.outcome.gid
    async with opened(database):
        ((adopter,),) = await rows(database, LIVE)
        assert await wait_until_done(database, gid, within_s=10)
    told = [line[25:] for line in (await operator.run("transactions", "show", gid)).stdout.splitlines()]
    (decided,) = [number for number, line in enumerate(told) if f"was recorded by {decider} (term 1)" in line]
    (adopted,) = [number for number, line in enumerate(told) if line.startswith(f"it was adopted by {adopter} (term ")]
    assert decided < adopted
    assert told[-1] == "now: committed"


async def test_what_the_last_resource_decides_is_no_operator_s(operator, database, kafka, posts_topic):
    """Nobody knows its outcome yet, which has an exit code of its own."""
    participants = {"db": Postgres(database), "events": Kafka(kafka.bootstrap, two_phase=False)}
    async with Coordinator(journal=database, participants=participants, settings=SETTINGS) as coordinator:
        with ArmedFaults(faults=[parse("kafka.end.commit:before=error(ConnectionResetError)")]):
            with pytest.raises(InDoubt) as doubt:
                async with coordinator.transaction("create-post", recipe="last-resource", deadline_s=2) as transaction:
                    connection = await transaction.enlist("db")
                    await connection.execute(TABLE)
                    await transaction.publish("events", topic=posts_topic, value="x")
            gid = doubt.value.gid
            for command in (("transactions", "resolve", gid, "commit"), ("in-doubt", "abort", gid)):
                asked = await operator.run(*command, "--yes", "--reason", "ops-16", "--by", "ann")
                assert asked.exit_code == 4, asked.output
                assert "the last resource's to decide, and it is still asked" in asked.stderr
        assert await wait_until_done(database, gid, within_s=10)
