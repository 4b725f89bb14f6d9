"""`coordinator doctor` names every setting that would break a promise, with its remedy and an exit code for scripts."""

import asyncio
import json
import time

import asyncpg
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from typer.testing import CliRunner

from coordinator import Settings, doctor
from coordinator.cli import app
from coordinator.dev.downloads import cache_directory
from coordinator.dev.postgres import LocalPostgres
from coordinator.doctor_ours import examine_settings
from coordinator.doctor_topics import examine_topic, examine_topics
from coordinator.schema import apply
from tests.integration.postgres.branches import until


def by_name(findings) -> dict[str, doctor.Finding]:
    return {finding.what: finding for finding in findings}


async def test_a_development_stack_has_notes_and_nothing_broken(postgres, kafka):
    """Prepared transactions and KIP-939 are found; a single broker is a note."""
    findings = [*await doctor.examine_postgres(postgres.url), *await doctor.examine_kafka(kafka.bootstrap)]
    found = by_name(findings)
    assert found["max_prepared_transactions"].verdict is doctor.Verdict.OK
    assert found["transactions v2 (KIP-890)"].verdict is doctor.Verdict.OK
    assert found["prepared branches (KIP-939)"].verdict is doctor.Verdict.OK
    assert found["min.insync.replicas"].verdict is doctor.Verdict.NOTE
    assert all(finding.remedy for finding in findings if finding.verdict is not doctor.Verdict.OK)
    assert doctor.worst(findings) == 1


async def test_what_is_not_durable_is_broken(private_postgres):
    """Each with what to set instead."""
    server = await private_postgres(fsync="off", synchronous_commit="off", max_prepared_transactions="0")
    findings = await doctor.examine_postgres(server.url)
    found = by_name(findings)
    assert found["fsync"].verdict is doctor.Verdict.BROKEN
    assert found["synchronous_commit"].verdict is doctor.Verdict.BROKEN
    assert found["max_prepared_transactions"].verdict is doctor.Verdict.NOTE
    assert doctor.worst(findings) == 2


async def test_what_a_failover_could_lose_is_a_note(private_postgres, postgres_directory):
    """A standby that nothing waits for, or commits that are not flushed there; without a standby nothing fails over."""
    server = await private_postgres()
    standby = LocalPostgres(postgres_directory / f"standby-of-{server.port}", cache=cache_directory())
    look = "synchronous_commit"
    assert by_name(await doctor.examine_postgres(server.url))[look].verdict is doctor.Verdict.OK
    try:
        await standby.follow(server.url)
        connection = await asyncpg.connect(server.url)
        await until(lambda: connection.fetchval("SELECT count(*) > 0 FROM pg_stat_replication"))
        found = by_name(await doctor.examine_postgres(server.url))[look]
        assert (found.verdict, "synchronous_standby_names" in found.remedy) == (doctor.Verdict.NOTE, True)
        await _set(connection, server.url, "synchronous_standby_names", "*")
        assert by_name(await doctor.examine_postgres(server.url))[look].verdict is doctor.Verdict.OK
        await _set(connection, server.url, "synchronous_commit", "remote_write")
        found = by_name(await doctor.examine_postgres(server.url))[look]
        assert (found.verdict, "set it on" in found.remedy) == (doctor.Verdict.NOTE, True)
        await connection.close()
    finally:
        await standby.kill()


async def _set(connection, url: str, name: str, value: str) -> None:
    """Change a setting of the server, and wait until its new sessions have it."""
    await connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
    await connection.execute("SELECT pg_reload_conf()")

    async def shown():
        fresh = await asyncpg.connect(url)
        try:
            return await fresh.fetchval(f"SHOW {name}") == value
        finally:
            await fresh.close()

    await until(shown)


async def test_a_server_that_ends_prepared_transactions_by_itself_is_broken():
    """No released server has the setting yet, so this one is made up."""

    class Server:
        async def fetchval(self, query, *arguments):
            return "10min"

    found = await doctor._timeouts(Server())
    assert (found.verdict, found.what) == (doctor.Verdict.BROKEN, "prepared_orphaned_transaction_timeout")


async def test_a_server_that_is_away_is_said_to_be():
    """Not a traceback."""
    findings = [
        *await doctor.examine_postgres("postgresql://postgres@127.0.0.1:1/none"),
        *await doctor.examine_postgres("nonsense"),
        *await doctor.examine_kafka("127.0.0.1:1"),
        *await doctor.examine_kafka("nonsense"),
        *await doctor.examine_kafka("127.0.0.1:1", {"sasl": "nonsense"}),
    ]
    assert len(findings) == 5
    assert {finding.verdict for finding in findings} == {doctor.Verdict.BROKEN}


def test_the_command_prints_json_for_programs_and_explains_itself():
    """Data on stdout, and an exit code."""
    runner = CliRunner()
    result = runner.invoke(app, ["doctor", "--postgres", "postgresql://postgres@127.0.0.1:1/none", "--output", "json"])
    assert result.exit_code == 2
    assert json.loads(result.stdout)[0]["verdict"] == "broken"
    assert "COORDINATOR_POSTGRES_URL" in runner.invoke(app, ["doctor", "--help"]).stdout
    assert runner.invoke(app, ["doctor"]).exit_code != 0


async def test_what_ends_branches_early_or_leaves_tables_behind_is_noted(database):
    """A role's own timeouts, and tables that are not at the version of this code."""
    connection = await asyncpg.connect(database)
    await apply(connection)
    await connection.execute("DELETE FROM unanimity.schema_versions WHERE component = 'inbox'")
    await connection.execute("INSERT INTO unanimity.schema_versions VALUES ('relay', 99)")
    name = database.rsplit("/", 1)[1]
    await connection.execute(f"ALTER DATABASE {name} SET statement_timeout = '2s'")
    await connection.close()
    found = by_name(await doctor.examine_postgres(database))
    assert found["timeouts of sessions"].verdict is doctor.Verdict.NOTE
    assert found["timeouts of sessions"].found == "statement_timeout 2000 ms"
    assert found["tables of relay"].verdict is doctor.Verdict.BROKEN
    assert found["tables of journal"].verdict is doctor.Verdict.OK
    assert "tables of inbox" not in found
    for what in ("version", "reached through a pooler", "primary", "max_connections", "full_page_writes"):
        assert found[what].verdict is doctor.Verdict.OK, what
    assert found["clocks apart"].verdict is doctor.Verdict.OK
    assert found["history of the server"].found == "can be read"


async def test_a_clock_that_is_wrong_is_found(database, monkeypatch):
    """A little is a note; by more than a branch may take, and ages mean nothing."""
    real = time.time
    for off_s, verdict in ((10.0, doctor.Verdict.NOTE), (-3600.0, doctor.Verdict.BROKEN)):
        monkeypatch.setattr(time, "time", lambda off_s=off_s: real() + off_s)
        assert by_name(await doctor.examine_postgres(database))["clocks apart"].verdict is verdict


def test_settings_of_a_broker_that_lose_something_are_named():
    """Each with what to set; what a broker does not say is not judged."""
    found = by_name(
        doctor._durability(
            {
                "unclean.leader.election.enable": "true",
                "auto.create.topics.enable": "true",
                "transaction.max.timeout.ms": "30000",
                "transactional.id.expiration.ms": "604800000",
            }
        )
    )
    assert {what: finding.verdict.value for what, finding in found.items()} == {
        "unclean.leader.election.enable": "broken",
        "auto.create.topics.enable": "note",
        "transaction.max.timeout.ms": "note",
        "transactional.id.expiration.ms": "ok",
    }


def test_settings_of_ours_that_do_not_fit_each_other_are_named():
    """The defaults fit."""
    assert doctor.worst(examine_settings(Settings())) == 0
    hasty = Settings(presume_abort_after_s=1.0, presume_abort_looks_apart_s=0, lease_s=1.0, recovery_s=3.0)
    notes = {finding.what for finding in examine_settings(hasty) if finding.verdict is doctor.Verdict.NOTE}
    assert notes == {"presume_abort_after_s", "presume_abort_looks_apart_s", "lease_s", "recovery_s"}
    assert doctor.worst(examine_settings(Settings(presume_abort_after_s=90_000.0))) == 2


async def test_a_topic_that_is_set_otherwise_than_its_brokers_is_named(kafka, topic):
    """As a broker describes it; one that is not there is named too."""
    found = by_name(await examine_topics(kafka.bootstrap, [topic, "nobodys"], {}))
    assert {what: finding.verdict.value for what, finding in found.items()} == {
        f"replicas of {topic}": "note",
        f"min.insync.replicas of {topic}": "note",
        f"unclean.leader.election.enable of {topic}": "ok",
        f"retention.ms of {topic}": "ok",
        "topic of nobodys": "note",
    }
    result = await asyncio.to_thread(
        CliRunner().invoke, app, ["doctor", "--kafka", kafka.bootstrap, "--topic", topic, "--output", "json"]
    )
    assert result.exit_code == 1
    assert f"replicas of {topic}" in {finding["what"] for finding in json.loads(result.stdout)}


def test_what_a_topic_may_not_be_set_to():
    """The worst of everything, what cannot be read, and what is as it should be."""
    described = {"error_code": 0, "partitions": [{"replicas": [1, 2, 3]}]}
    good = {"min.insync.replicas": "2", "unclean.leader.election.enable": "false", "retention.ms": "-1"}
    bad = {"min.insync.replicas": "1", "unclean.leader.election.enable": "true", "retention.ms": "60000"}
    assert doctor.worst([*examine_topic("t", described, good)]) == 0
    worst = {finding.what: finding.verdict.value for finding in examine_topic("t", described, bad)}
    assert worst == {
        "replicas of t": "ok",
        "min.insync.replicas of t": "note",
        "unclean.leader.election.enable of t": "broken",
        "retention.ms of t": "note",
    }
    (unread,) = examine_topic("t", described, {})
    assert (unread.found, unread.verdict) == ("cannot be read", doctor.Verdict.NOTE)


async def test_each_broker_is_looked_at(private_kafka):
    """One of three that differs is a finding of its own."""
    cluster = await private_kafka(brokers=3)
    assert by_name(await doctor.examine_kafka(cluster.bootstrap))["min.insync.replicas"].verdict is doctor.Verdict.OK
    admin = AIOKafkaAdminClient(bootstrap_servers=cluster.bootstrap)
    await admin.start()
    try:
        last = ConfigResource(ConfigResourceType.BROKER, "3", configs={"unclean.leader.election.enable": "true"})
        await admin.alter_configs([last])
    finally:
        await admin.close()

    async def noticed():
        found = by_name(await doctor.examine_kafka(cluster.bootstrap))
        return found.get("unclean.leader.election.enable")

    await until(noticed)
    assert (await noticed()).verdict is doctor.Verdict.BROKEN
