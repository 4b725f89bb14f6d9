"""Servers end when they should, and nothing is left behind: by `down`, by Ctrl-C, by SIGKILL of who started them."""

import asyncio
import json
import os
import signal
import sys

import asyncpg
import psutil

from coordinator.dev.downloads import cache_directory
from coordinator.dev.processes import Process, eventually
from tests.servers import OWNED, ROOT, remove_if_abandoned

FROZEN = """
import asyncio, fcntl, os, sys
from pathlib import Path
from coordinator.dev.downloads import cache_directory
from coordinator.dev.postgres import LocalPostgres

async def main():
    owned = open(Path(sys.argv[1]) / sys.argv[2], "w")
    fcntl.flock(owned, fcntl.LOCK_EX)
    server = LocalPostgres(Path(sys.argv[1]) / "postgres", cache=cache_directory())
    await server.start()
    server.freeze()
    print("frozen", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""
WAITING = """
import asyncio

async def test_waits(postgres, servers_directory, postgres_directory):
    print(f"\\n{postgres_directory}\\n{servers_directory} is the other one", flush=True)
    await asyncio.sleep(60)
"""


def processes_in(directory):
    """Every process that works in *directory*, as a PostgreSQL and all its backends do in theirs."""
    working = {process: process.info["cwd"] for process in psutil.process_iter(["cwd"])}
    return [process for process, where in working.items() if where and where.startswith(f"{directory}/")]


async def run(*command, **options):
    environment = {**os.environ, "COORDINATOR_CACHE_DIR": str(cache_directory()), "COORDINATOR_DEV_DOCKER": "never"}
    for variable in ("COORDINATOR_POSTGRES_URL", "COORDINATOR_KAFKA_BOOTSTRAP"):
        environment.pop(variable, None)
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        cwd=ROOT,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        preexec_fn=heed_interrupts,
        **options,
    )


def heed_interrupts():
    """Whoever runs the tests in a shell's background has its children ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


async def dev(directory, *arguments):
    """What `coordinator dev …` prints."""
    running = await run("-m", "coordinator", "dev", *arguments, "--directory", str(directory))
    output, _ = await running.communicate()
    assert running.returncode == 0
    return output.decode()


async def test_up_twice_is_one_stack_and_down_leaves_no_process(tmp_path):
    """Nor does it need an open path to the directory; the data, and the addresses, are there the next time."""
    tmp_path.chmod(0o700)
    first = await dev(tmp_path, "up", "--export")
    started = json.loads((tmp_path / "stack.json").read_text())
    assert await dev(tmp_path, "up", "--export") == first
    assert json.loads((tmp_path / "stack.json").read_text()) == started
    connection = await asyncpg.connect(started["postgres"])
    await connection.execute("CREATE TABLE kept ()")
    assert started["kafka"] in await dev(tmp_path, "status")

    await dev(tmp_path, "down")
    assert len(started["processes"]) == 2
    assert not [process for process in started["processes"] if Process.from_state(process).alive]
    assert not processes_in(tmp_path)

    assert await dev(tmp_path, "up", "--export") == first
    try:
        connection = await asyncpg.connect(started["postgres"])
        await connection.execute("TABLE kept")
        await connection.close()
    finally:
        await dev(tmp_path, "down", "--purge")
    assert list(tmp_path.iterdir()) == []


async def test_a_server_frozen_when_its_session_was_killed_is_removed_by_the_next(tmp_path):
    """Frozen backends do not see that their server is gone: somebody has to end them."""
    session = await run("-c", FROZEN, str(tmp_path), OWNED)
    assert await asyncio.wait_for(session.stdout.readline(), 60) == b"frozen\n"
    remove_if_abandoned(tmp_path)
    assert processes_in(tmp_path), "a session that lives keeps its servers"
    session.kill()
    await session.wait()
    assert await eventually(lambda: len(processes_in(tmp_path)) > 0, 1)
    remove_if_abandoned(tmp_path)
    assert await eventually(lambda: not processes_in(tmp_path), 10)
    assert not tmp_path.exists()


async def test_an_interrupted_test_session_leaves_nothing(tmp_path):
    """Ctrl-C ends the tests, their servers, and what they wrote."""
    (tmp_path / "test_waiting.py").write_text(WAITING)
    options = ("-q", "-s", "-p", "tests.servers", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"))
    session = await run("-m", "pytest", *options, str(tmp_path / "test_waiting.py"), stderr=asyncio.subprocess.STDOUT)
    directory = ROOT / ".dev" / f"test-{session.pid}"
    said = [""]
    while f"{directory} is the other one" not in said:
        line = await asyncio.wait_for(session.stdout.readline(), 60)
        assert line, said
        said.append(line.decode().strip())
    running = ROOT / said[-2]
    assert processes_in(running)
    session.send_signal(signal.SIGINT)
    await asyncio.wait_for(session.communicate(), 30)
    assert not processes_in(running)
    assert not running.exists()
    assert not directory.exists()
