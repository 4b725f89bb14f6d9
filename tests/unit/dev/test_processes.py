"""Server processes are known for sure, end for sure, and get ports that nobody takes from them."""

import asyncio
import signal
import sys
from pathlib import Path

import psutil
import pytest

from coordinator.dev.processes import Process, eventually, failed_to_start, free_port

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)",
]


@pytest.fixture
def log(tmp_path):
    return tmp_path / "server.log"


@pytest.fixture
async def start(log):
    """A factory of processes; killed afterwards."""
    made = []

    def create(command, **options):
        made.append(Process.start(command, log=log, **options))
        return made[-1]

    yield create
    for process in made:
        await process.kill()


async def test_a_recycled_pid_is_never_signalled(start):
    """A process that has the pid but not the start time that we know is somebody else's."""
    theirs = start(SLEEP)
    ours = Process(theirs.pid, theirs.started - 100)
    assert not ours.alive
    await ours.kill()
    await ours.stop()
    assert theirs.alive


async def test_a_process_is_found_again_by_its_state(start):
    """What is written down is enough to know it, and to end it in the way it wants."""
    process = start(SLEEP, ends_on=signal.SIGINT)
    again = Process.from_state(process.state())
    assert again == process
    assert again.ends_on == signal.SIGINT
    assert again.alive


async def test_a_process_that_does_not_listen_is_killed_in_time(start, log):
    """Stopping is asked for first, and then forced."""
    process = start(STUBBORN)
    assert await eventually(lambda: "deaf" in log.read_text(), 10)
    await process.stop(within_s=0.2)
    assert not process.alive


async def test_a_frozen_process_can_be_stopped(start):
    """It is thawed, so that it hears that it should end: nobody has to wait and kill it."""
    process = start(SLEEP)
    process.send(signal.SIGSTOP)
    assert await eventually(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, 10)
    stopping = asyncio.get_running_loop().time()
    await process.stop(within_s=30)
    assert not process.alive
    assert asyncio.get_running_loop().time() - stopping < 15


async def test_stopping_and_killing_what_is_gone_does_nothing(start):
    process = start(SLEEP)
    await process.kill()
    await process.kill()
    await process.stop()
    assert not psutil.pid_exists(process.pid)


async def test_a_server_dies_with_the_process_that_started_it(log):
    """However that ends: here it kills itself, so nothing of its own could have cleaned up."""
    starter = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from coordinator.dev.processes import Process\n"
        "process = Process.start(['sleep', '60'], log=Path(sys.argv[1]))\n"
        "print(process.pid, process.started, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = await asyncio.create_subprocess_exec(
        sys.executable, "-c", starter, str(log), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await ended.communicate()
    pid, started = output.split()
    orphan = Process(int(pid), float(started))
    assert ended.returncode == -signal.SIGKILL
    assert await eventually(lambda: not orphan.alive, 10)


def test_ports_are_given_once_and_lie_below_those_of_outgoing_connections():
    ports = [free_port() for _ in range(300)]
    assert len(set(ports)) == 300
    lowest_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    if lowest_outgoing > 11_000:
        assert max(ports) < lowest_outgoing


def test_a_server_that_did_not_start_is_quoted(log):
    """The last words are in the error, the first ones are not."""
    log.write_text("\n".join(f"line {n}" for n in range(100)))
    failure = str(failed_to_start("The server", log))
    assert "line 99" in failure
    assert "line 50" not in failure
    assert str(log) in failure


async def test_what_is_frozen_stands_still(start):
    """When the call returns, and not only when the process has had its turn to take the signal."""
    process = start([sys.executable, "-c", "while True: pass"])
    for _ in range(50):
        process.freeze()
        assert psutil.Process(process.pid).status() == psutil.STATUS_STOPPED
        process.send(signal.SIGCONT)
        await asyncio.sleep(0.005)
