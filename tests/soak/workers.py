"""The workers, as their parent sees them: started, watched, started again when they died, frozen, and ended."""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from coordinator.dev.processes import Process
from coordinator.faults.injectors import FAULTS_VARIABLE
from tests.integration.postgres.relay import Relay
from tests.soak.worker import Orders, idle_mark

WATCH_EVERY_S = 0.1
START_AGAIN_AFTER_S = 0.5


@dataclass(slots=True)
class Worker:
    """One worker's place: at most one process at a time, each with a history of its own."""

    name: str
    wire: Relay
    """Its way to Postgres, which can be broken."""
    process: Process | None = None
    incarnation: int = 0

    @property
    def alive(self) -> bool:
        """Whether its process runs (or is frozen)."""
        return self.process is not None and self.process.alive


@dataclass(slots=True, kw_only=True)
class Workers:
    """All workers, for as long as the block lasts."""

    directory: Path
    database: str
    """The name of the database, behind each worker's own wire to its server."""
    postgres_port: int
    kafka: str
    count: int
    seed: int
    transactions_per_s: float
    faults: str = ""
    """What the workers arm inside themselves, as `COORDINATOR_FAULTS` has it."""
    lanes: int = 6
    members: list[Worker] = field(default_factory=list)
    deaths: int = 0
    """Processes that ended without being asked to: killed by us, or at their own start while a server was away."""
    _loaded: bool = True
    _watching: asyncio.Task[None] | None = None

    @property
    def histories(self) -> Sequence[Path]:
        """What the callers were told, a file for each process: NAME-INCARNATION.jsonl."""
        return sorted(self.directory.glob("*.jsonl"))

    async def __aenter__(self) -> "Workers":
        """Start them."""
        for number in range(self.count):
            wire = await Relay(self.postgres_port).__aenter__()
            self.members.append(Worker(f"w{number + 1}", wire))
        for worker in self.members:
            self.start(worker)
        self._watching = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        """End them, whatever state they are in."""
        if self._watching is not None:
            self._watching.cancel()
        await asyncio.gather(*(worker.process.kill() for worker in self.members if worker.process is not None))
        for worker in self.members:
            await worker.wire.__aexit__()

    def start(self, worker: Worker) -> None:
        """Start the worker's next process."""
        worker.incarnation += 1
        name = f"{worker.name}-{worker.incarnation}"
        path = self.directory / f"{name}.json"
        Orders(
            name=worker.name,
            incarnation=worker.incarnation,
            postgres=f"postgresql://postgres@127.0.0.1:{worker.wire.port}/{self.database}?application_name={worker.name}",
            kafka=self.kafka,
            history=str(path.with_suffix(".jsonl")),
            seed=self.seed,
            lanes=self.lanes if self._loaded else 0,
            transactions_per_s=self.transactions_per_s / self.count,
        ).save(path)
        command = [sys.executable, "-m", "tests.soak.worker", str(path)]
        environment = {**os.environ, FAULTS_VARIABLE: self.faults}
        worker.process = Process.start(command, log=path.with_suffix(".log"), environment=environment)

    def signal(self, worker: Worker, number: int) -> None:
        """Send a signal to the worker's process, if there is one."""
        if worker.process is not None:
            worker.process.send(number)

    def end_load(self) -> None:
        """No new transactions: the coordinators stay at work."""
        self._loaded = False
        for worker in self.members:
            self.signal(worker, signal.SIGUSR1)

    def busy(self) -> list[str]:
        """Workers in which a caller still waits for an answer, or that are not there to answer."""
        return [
            worker.name
            for worker in self.members
            if not worker.alive or not idle_mark(self.directory / f"{worker.name}-{worker.incarnation}.json").exists()
        ]

    async def leave(self) -> list[str]:
        """Ask all to end; those that had to be killed because they did not."""
        if self._watching is not None:
            self._watching.cancel()
        started = [worker for worker in self.members if worker.process is not None]
        loop = asyncio.get_running_loop()
        stuck = []
        for worker in started:
            self.signal(worker, signal.SIGTERM)
        until = loop.time() + 30
        for worker in started:
            while worker.alive and loop.time() < until:  # noqa: ASYNC110 - a process tells nobody that it ends.
                await asyncio.sleep(0.05)
            if worker.alive:
                stuck.append(worker.name)
                self.signal(worker, signal.SIGUSR2)
                await asyncio.sleep(1)  # It is killed next, and has much to say.
        return stuck

    async def _watch(self) -> None:
        """Start again what died, after a moment, as an orchestrator would."""
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            for worker in self.members:
                if worker.process is not None and not worker.alive:
                    await worker.process.kill()  # Only to collect it.
                    self.deaths += 1
                    await asyncio.sleep(START_AGAIN_AFTER_S)
                    self.start(worker)
