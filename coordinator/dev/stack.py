"""`coordinator dev up`: a Postgres and a Kafka to develop against, from the best place that there is.

In this order: URLs in the environment; a Docker engine that answers; servers started on this machine. What was started
is written down with pids and start times, so that `down` ends exactly that, and a second `up` finds it running.
"""

import asyncio
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from coordinator.dev import docker
from coordinator.dev.downloads import cache_directory, java, maven, say
from coordinator.dev.kafka import LocalKafka
from coordinator.dev.postgres import LocalPostgres, binaries
from coordinator.dev.processes import Process
from coordinator.errors import Misconfigured

POSTGRES_VARIABLE = "COORDINATOR_POSTGRES_URL"
KAFKA_VARIABLE = "COORDINATOR_KAFKA_BOOTSTRAP"
_STATE = "stack.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Where the servers are, where they came from, and what must be ended."""

    postgres: str
    kafka: str
    source: str
    brokers: int = 1
    two_phase: bool = False
    processes: tuple[Process, ...] = ()
    containers: tuple[str, ...] = ()

    @property
    def alive(self) -> bool:
        """Whether everything that was started still runs."""
        return all(process.alive for process in self.processes) and docker.running(self.containers)

    def exports(self) -> str:
        """As lines for a shell."""
        return f"export {POSTGRES_VARIABLE}={self.postgres}\nexport {KAFKA_VARIABLE}={self.kafka}"


async def up(directory: Path, *, brokers: int, two_phase: bool) -> Stack:
    """Start what is not running, and say where it is. Idempotent.

    Raises `Misconfigured` that says what to install or to change, `Unavailable` that quotes the log of a server.
    """
    running = load(directory)
    given = _from_environment()
    # URLs that an earlier `up` exported name our own servers, not somebody else's.
    if given is not None and (running is None or given.exports() != running.exports()):
        await _answers(given)
        return given
    if running is not None and not running.alive:
        await down(directory)
        running = None
    if running is not None:
        if (running.brokers, running.two_phase) != (brokers, two_phase):
            raise Misconfigured("another kind of stack is running here: `coordinator dev down` first")
        return running
    stack = _of_containers(await docker.start(brokers=brokers, two_phase=two_phase), brokers, two_phase)
    if stack is None:
        stack = await _start_local(directory, brokers=brokers, two_phase=two_phase)
    _save(directory, stack)
    return stack


async def down(directory: Path, *, purge: bool = False) -> bool:
    """End what was started here; whether there was anything. *purge* deletes its data as well."""
    stack = load(directory)
    if stack is not None:
        await asyncio.gather(*(process.stop(within_s=30) for process in stack.processes))
        docker.remove(stack.containers)
        (directory / _STATE).unlink()
    if purge:
        for name in ("postgres", "kafka-1", "kafka-3"):
            shutil.rmtree(directory / name, ignore_errors=True)
    return stack is not None


async def kill(directory: Path, server: str) -> None:
    """Kill one of the servers that run here ("postgres" or "kafka"), as a power cut would; `up` brings it back.

    Raises `Misconfigured` where it is not ours to kill.
    """
    stack = load(directory)
    if stack is None or not stack.processes:
        raise Misconfigured("no server that `coordinator dev up` started on this machine runs here")
    postgres, *brokers = stack.processes
    await asyncio.gather(*(process.kill() for process in ([postgres] if server == "postgres" else brokers)))


def load(directory: Path) -> Stack | None:
    """The stack that was started here, whether or not it still runs."""
    path = directory / _STATE
    if not path.exists():
        return None
    state: dict[str, Any] = json.loads(path.read_text())
    processes = tuple(Process.from_state(process) for process in state.pop("processes"))
    return Stack(**state | {"containers": tuple(state["containers"])}, processes=processes)


def _save(directory: Path, stack: Stack) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    state = {
        "postgres": stack.postgres,
        "kafka": stack.kafka,
        "source": stack.source,
        "brokers": stack.brokers,
        "two_phase": stack.two_phase,
        "containers": stack.containers,
        "processes": [process.state() for process in stack.processes],
    }
    (directory / _STATE).write_text(json.dumps(state, indent=2))


def _from_environment() -> Stack | None:
    postgres, kafka = os.environ.get(POSTGRES_VARIABLE), os.environ.get(KAFKA_VARIABLE)
    if bool(postgres) != bool(kafka):
        raise Misconfigured(f"set both {POSTGRES_VARIABLE} and {KAFKA_VARIABLE}, or neither")
    return Stack(postgres=postgres, kafka=kafka, source="environment") if postgres and kafka else None


async def _answers(given: Stack) -> None:
    """Raises `Misconfigured` where the environment names servers that are not there."""
    first, _, _ = given.kafka.partition(",")
    host, _, port = first.rpartition(":")
    try:
        connection = await asyncpg.connect(given.postgres, timeout=10)
        await connection.close()
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, int(port)), 10)
        writer.close()
    except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as failure:
        raise Misconfigured(
            f"{POSTGRES_VARIABLE} and {KAFKA_VARIABLE} are set, but what they name does not answer ({failure}): "
            "start it, or unset both to get servers here"
        ) from failure


def _of_containers(found: Mapping[str, Any] | None, brokers: int, two_phase: bool) -> Stack | None:
    if found is None:
        return None
    return Stack(source="docker", brokers=brokers, two_phase=two_phase, **found)


def _require_local() -> None:
    """Raises one `Misconfigured` that names everything this machine lacks."""
    needs: tuple[Callable[[], object], ...] = (binaries, java, lambda: maven(cache_directory()))
    lacking = []
    for need in needs:
        try:
            need()
        except Misconfigured as lack:
            lacking.append(f"\n  - {lack}")
    if lacking:
        raise Misconfigured(
            f"no servers to be had: {POSTGRES_VARIABLE} and {KAFKA_VARIABLE} are not set, no Docker engine is used, "
            f"and on this machine{''.join(lacking)}"
        )


async def _start_local(directory: Path, *, brokers: int, two_phase: bool) -> Stack:
    _require_local()
    say("starting PostgreSQL and Apache Kafka on this machine")
    postgres = LocalPostgres(directory / "postgres", cache=cache_directory(), dies_with_us=False)
    kafka = LocalKafka(
        directory=directory / f"kafka-{brokers}",
        cache=cache_directory(),
        brokers=brokers,
        two_phase=two_phase,
        dies_with_us=False,
    )
    try:
        await asyncio.gather(postgres.start(), kafka.start())
    except BaseException:
        await asyncio.gather(postgres.kill(), kafka.kill())
        raise
    started = [postgres.process, *(member.process for member in kafka.members)]
    return Stack(
        postgres=postgres.url,
        kafka=kafka.bootstrap,
        source="local",
        brokers=brokers,
        two_phase=two_phase,
        processes=tuple(process for process in started if process is not None),
    )
