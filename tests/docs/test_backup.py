"""Backup and restore as `docs/operating.md` has it: what was decided is carried out, and what is unknown is let go."""

import asyncio
import os
import signal
import subprocess
import sys

import asyncpg
import pytest

from coordinator.dev.downloads import cache_directory
from coordinator.dev.postgres import LocalPostgres, _hand_to, _unprivileged_user, binaries
from examples.social_post.observer import Observer, until
from examples.social_post.promises import SETTINGS
from examples.social_post.service import TABLES, coordinator_of
from tests.docs.pages import part
from tests.docs.privileges import PAGE

WITHIN_S = 40


async def killed(database: str, brokers: str, author: str, fault: str) -> None:
    """A process writes a post in two phases, and is killed on the way."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "examples.social_post.worker", author, "two-phase", "rollback"),
        env={
            **os.environ,
            "COORDINATOR_POSTGRES_URL": database,
            "COORDINATOR_KAFKA_BOOTSTRAP": brokers,
            "COORDINATOR_FAULTS": f"{fault}=crash",
        },
    )
    assert await asyncio.wait_for(child.wait(), WITHIN_S) == -signal.SIGKILL


async def elsewhere(database: str) -> None:
    """Other processes take ids, more of them than one process does at its start after the restore."""
    connection = await asyncpg.connect(database)
    await connection.execute("SELECT nextval('unanimity.transactional_id_numbers') FROM generate_series(1, 200)")
    await connection.close()


@pytest.fixture
async def restored(servers_directory):
    """A server that is not there yet: its data are restored into a folder of its own."""
    server = LocalPostgres(servers_directory / "postgres-restored", cache=cache_directory())
    server.directory.mkdir()
    yield server
    await server.kill()


@pytest.mark.timeout(240)
async def test_a_restored_journal_carries_out_what_it_knows_and_lets_go_of_what_it_does_not(
    private_postgres, kafka, posts_topic, restored
):
    """One transaction was decided before the backup; another was prepared after it, at the broker too, for ever."""
    server, known, lost = await private_postgres(), "decided before the backup", "prepared after the backup"
    connection = await asyncpg.connect(server.url)
    await connection.execute(TABLES)
    await connection.close()
    await killed(server.url, kafka.bootstrap, known, "pg.commit_prepared:before")
    dump = [binaries() / "pg_dump", "--dbname", server.url, "--data-only", "--table", "posts"]
    dumped = await asyncio.to_thread(subprocess.run, dump, check=True, capture_output=True, text=True)
    assert known not in dumped.stdout  # The page warns of it.

    backup = part(PAGE, "backup").replace("127.0.0.1:5432", f"127.0.0.1:{server.port}")
    backup = backup.replace("--pgdata backup", f"--pgdata {restored.directory / 'data'}")
    environment = {"PATH": f"{binaries()}:/usr/bin:/bin"}
    await asyncio.to_thread(subprocess.run, ["bash", "-euc", backup], check=True, env=environment)
    await elsewhere(server.url)
    await killed(server.url, kafka.bootstrap, lost, "journal.decide:before")
    await server.stop()

    _hand_to(_unprivileged_user(), restored.directory)
    await restored.start()
    connection = await asyncpg.connect(restored.url)
    await connection.execute(part(PAGE, "restore"))
    await connection.close()
    async with (
        Observer(restored.url, kafka.bootstrap) as seen,
        coordinator_of(restored.url, kafka.bootstrap, SETTINGS),
    ):

        async def whole() -> bool:
            counts = [(await seen.rows(author), seen.messages[author]) for author in (known, lost)]
            return counts == [(1, 1), (0, 0)] and not any((await seen.leftovers()).values())

        assert await until(whole, WITHIN_S) is not None, (seen.messages, await seen.leftovers())
