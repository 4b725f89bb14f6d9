"""The servers of one run, what is passed around while it is measured, and how it says how far it is."""

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import psutil
from rich.console import Console

from coordinator import limits
from coordinator.dev.downloads import cache_directory
from coordinator.dev.kafka import LocalKafka
from coordinator.dev.postgres import LocalPostgres
from tests.benchmarks.measure import Book


@dataclass(frozen=True, slots=True)
class Settings:
    """How much is measured."""

    rounds: int = 5
    seconds: float = 2.0
    """How long each side of the transactions is driven in each round."""
    warm_s: float = 12.0
    """How long the broker is driven before anything is measured: its JIT needs it."""
    warm_side_s: float = 0.3
    """How long each side is driven before it is measured for the first time."""
    pause_s: float = 0.15
    """What one side left to be done off its callers' path is not charged to the next."""
    rows: int = 100_000
    """How many rows a relay finds in its backlog."""
    rate: int = 500
    latency_s: float = 4.0
    """How long each side is given `rate` events a second in each round."""
    sagas: int = 10_000
    """How many sagas are asleep, or are left behind by a process that dies."""
    deaths: int = 3
    """How many processes die so, one after the other."""
    lease_s: float = limits.LEASE_S
    """The lease of that process, and of the one that finds what it has left."""


QUICK = Settings(
    rounds=2,
    deaths=1,
    seconds=0.3,
    warm_s=1.0,
    warm_side_s=0.1,
    pause_s=0.05,
    rows=5_000,
    latency_s=1.0,
    sagas=500,
    lease_s=2.0,
)


@dataclass(slots=True)
class Progress:
    """One line for each step, as it is done, on stderr."""

    steps: int = 0
    done: int = 0
    console: Console = field(default_factory=lambda: Console(stderr=True, highlight=False))
    began: float = field(default_factory=time.monotonic)

    def step(self, text: str) -> None:
        """Say what was just measured."""
        self.done += 1
        minutes, seconds = divmod(int(time.monotonic() - self.began), 60)
        self.console.print(f"[dim]{minutes:2d}:{seconds:02d}  {self.done:3d}/{self.steps}[/]  {text}", soft_wrap=True)

    def say(self, text: str) -> None:
        """Say what is going on."""
        self.console.print(f"[bold]{text}[/]")


@dataclass(slots=True)
class Stage:
    """What every part of the benchmark works with."""

    postgres: LocalPostgres
    kafka: LocalKafka
    settings: Settings
    book: Book = field(default_factory=Book)
    progress: Progress = field(default_factory=Progress)

    def servers_cpu_s(self) -> dict[str, float]:
        """The CPU time that each server has used so far."""
        running = {
            "postgres": [self.postgres.process],
            "kafka": [member.process for member in self.kafka.members],
        }
        return {name: sum(cpu_s(process.pid) for process in group if process) for name, group in running.items()}

    async def ask_postgres_version(self) -> str:
        """The server's own word."""
        connection = await asyncpg.connect(self.postgres.url)
        try:
            return str(await connection.fetchval("SHOW server_version"))
        finally:
            await connection.close()


def cpu_s(pid: int) -> float:
    """What a process and its children have used so far, and what their ended children had."""
    process, used = psutil.Process(pid), 0.0
    for member in (process, *process.children(recursive=True)):
        try:
            times = member.cpu_times()
        except psutil.NoSuchProcess:
            continue
        used += times.user + times.system + times.children_user + times.children_system
    return used


def own_directory() -> Path:
    """Where this run's servers keep their data; what killed runs left is removed."""
    directory = Path(".dev") / f"bench-{os.getpid()}"
    for found in directory.parent.glob("bench-*"):
        if found == directory or not psutil.pid_exists(int(found.name.removeprefix("bench-"))):
            shutil.rmtree(found, ignore_errors=True)
    return directory


@asynccontextmanager
async def servers() -> AsyncIterator[tuple[LocalPostgres, LocalKafka]]:
    """A PostgreSQL and a Kafka broker of this run's own, durable as they are by default; gone afterwards."""
    directory = own_directory()
    postgres = LocalPostgres(directory / "postgres", cache=cache_directory())
    kafka = LocalKafka(directory=directory / "kafka", cache=cache_directory(), two_phase=True)
    try:
        await asyncio.gather(postgres.start(), kafka.start())
        yield postgres, kafka
    finally:
        await asyncio.gather(postgres.kill(), kafka.kill())
        shutil.rmtree(directory, ignore_errors=True)
