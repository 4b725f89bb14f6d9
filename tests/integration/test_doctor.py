"""`coordinator doctor` names every setting that would break a promise, with its remedy and an exit code for scripts."""

import json

import asyncpg
from typer.testing import CliRunner

from coordinator import doctor
from coordinator.cli import app
from coordinator.dev.downloads import cache_directory
from coordinator.dev.postgres import LocalPostgres
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


async def test_what_a_failover_could_lose_is_a_note(private_postgres, servers_directory):
    """A standby that nothing waits for, or commits that are not flushed there; without a standby nothing fails over."""
    server = await private_postgres()
    standby = LocalPostgres(servers_directory / f"standby-of-{server.port}", cache=cache_directory())
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
        *await doctor.examine_kafka("127.0.0.1:1"),
    ]
    assert {finding.verdict for finding in findings} == {doctor.Verdict.BROKEN}


def test_the_command_prints_json_for_programs_and_explains_itself():
    """Data on stdout, and an exit code."""
    runner = CliRunner()
    result = runner.invoke(app, ["doctor", "--postgres", "postgresql://postgres@127.0.0.1:1/none", "--output", "json"])
    assert result.exit_code == 2
    assert json.loads(result.stdout)[0]["verdict"] == "broken"
    assert "COORDINATOR_POSTGRES_URL" in runner.invoke(app, ["doctor", "--help"]).stdout
    assert runner.invoke(app, ["doctor"]).exit_code != 0
