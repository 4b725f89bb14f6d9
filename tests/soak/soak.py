"""One soak: servers and workers of its own, load and injuries for a while, healing, settling, and looking at it."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from coordinator.dev.downloads import cache_directory
from coordinator.dev.kafka import LocalKafka
from coordinator.dev.postgres import LocalPostgres
from tests.soak import observations as look
from tests.soak.disturbances import Disturbances
from tests.soak.evidence import COMMITTED, Observations
from tests.soak.worker import TABLES, TOPIC
from tests.soak.workers import Workers

DATABASE = "soak"
PARTITIONS = 3
GOING_WITHIN_S = 90.0
SETTLED_WITHIN_S = 120.0
PROGRESS_EVERY_S = 10.0


class NotGoing(Exception):
    """A soak that cannot be judged: it did not begin, or what it needs to look at does not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How long, how much, and of what."""

    minutes: float
    seed: int
    workers: int = 3
    brokers: int = 3
    transactions_per_s: float = 40.0
    rest_s: float = 2.0
    """The mean peace between two injuries of one stream."""
    faults: str = ""
    """Faults that every worker arms at its own boundaries, as `COORDINATOR_FAULTS` has them."""


@dataclass(slots=True, kw_only=True)
class Soak:
    """What is at work, while it is."""

    options: Options
    kafka: LocalKafka
    postgres: LocalPostgres
    database: str
    workers: Workers
    tell: Callable[[str], None]

    async def run(self) -> tuple[Observations, dict[str, Any]]:
        """Disturb, heal, settle, and look; the facts are what the report tells beside the observations."""
        began_s = time.time()
        await self._all_commit_since(began_s, "before the first injury")
        self.tell(f"every worker commits; disturbing for {self.options.minutes:g} minutes")
        disturbances = Disturbances(
            workers=self.workers,
            kafka=self.kafka,
            postgres=self.postgres,
            database=self.database,
            seed=self.options.seed,
            rest_s=self.options.rest_s,
            tell=self.tell,
        )
        stood: dict[str, list[str]] = {}
        beside = [asyncio.create_task(self._progress()), asyncio.create_task(look.watch(self.database, stood))]
        await disturbances.run(asyncio.get_running_loop().time() + 60 * self.options.minutes)
        for task in beside:
            task.cancel()
        healed_s = time.time()
        self.tell("all is healed; waiting for every worker to commit again")
        with contextlib.suppress(NotGoing):  # The checker says so, with all else that it finds.
            await self._all_commit_since(healed_s, "after all was healed")
        self.workers.end_load()
        ended_s = time.time()
        leftovers = await self._settle()
        settled_s = time.time() - ended_s
        self.tell(f"settled in {settled_s:.1f} s; looking")
        async with self.connection() as connection:
            seen = Observations(
                rows=await look.rows(connection),
                sightings=await look.sightings(self.kafka.bootstrap),
                told=look.told(self.workers.histories),
                decided=await look.decided(connection),
                stood=stood,
                leftovers=leftovers,
                alerts=await look.alerts(connection),
                injuries=disturbances.done,
                healed_s=healed_s,
            )
        stuck = await self.workers.leave()
        if stuck:
            seen.leftovers["process that did not end on SIGTERM"] = stuck
        return seen, {"settled_s": settled_s, "deaths": self.workers.deaths}

    async def _all_commit_since(self, since_s: float, when: str) -> None:
        """Wait until every worker has committed a transaction that began after *since_s*. Raises `NotGoing`."""
        names = {worker.name for worker in self.workers.members}
        until_s = time.time() + GOING_WITHIN_S
        while True:
            told = look.told(self.workers.histories)
            going = {one.worker for one in told if one.answer == COMMITTED and one.began_s > since_s}
            if going == names:
                return
            if time.time() > until_s:
                raise NotGoing(
                    f"{', '.join(sorted(names - going))} did not commit {when}: see {self.workers.directory}"
                )
            await asyncio.sleep(0.5)

    async def _progress(self) -> None:
        while True:
            await asyncio.sleep(PROGRESS_EVERY_S)
            answers = Counter(told.answer for told in look.told(self.workers.histories))
            self.tell(", ".join(f"{count} {answer}" for answer, count in answers.most_common()))

    async def _settle(self) -> dict[str, list[str]]:
        """Wait until no caller waits and nothing is left over; what still is, when it was waited for long enough."""
        until_s = time.time() + SETTLED_WITHIN_S
        while True:
            busy = self.workers.busy()  # First: a caller's transaction may still be nowhere to be seen.
            async with self.connection() as connection:
                left = await look.leftovers(connection, self.kafka.bootstrap)
            left["worker with callers that wait"] = busy
            if not any(left.values()) or time.time() > until_s:
                return left
            await asyncio.sleep(0.5)

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator["asyncpg.Connection[Any]"]:
        """A connection to the database, beside the workers' own."""
        connection = await asyncpg.connect(self.database)
        try:
            yield connection
        finally:
            await connection.close()


@contextlib.asynccontextmanager
async def started(options: Options, directory: Path, tell: Callable[[str], None]) -> AsyncIterator[Soak]:
    """A soak whose servers and workers run; their logs and histories stay in *directory*."""
    cache = cache_directory()
    postgres = LocalPostgres(directory / "postgres", cache=cache)
    kafka = LocalKafka(directory=directory / "kafka", cache=cache, brokers=options.brokers, two_phase=True)
    tell(f"starting PostgreSQL and {options.brokers} brokers")
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(postgres.start())
            group.create_task(kafka.start())
        database = await postgres.create_database(DATABASE)
        connection = await asyncpg.connect(database)
        await connection.execute(TABLES)
        await connection.close()
        await kafka.create_topic(TOPIC, partitions=PARTITIONS)
        workers = Workers(
            directory=directory / "workers",
            database=DATABASE,
            postgres_port=postgres.port,
            kafka=kafka.bootstrap,
            count=options.workers,
            seed=options.seed,
            transactions_per_s=options.transactions_per_s,
            faults=options.faults,
        )
        workers.directory.mkdir(parents=True)
        async with workers:
            tell(f"starting {options.workers} workers")
            yield Soak(options=options, kafka=kafka, postgres=postgres, database=database, workers=workers, tell=tell)
    finally:
        kafka.thaw()
        postgres.thaw()
        await asyncio.gather(kafka.kill(), postgres.kill())
