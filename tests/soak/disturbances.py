"""What is done to the system, by a plan that a seed decides: one stream against the servers, one against the workers.

Each stream does one thing at a time, so that the majority of the brokers, the database, and somebody to recover always
are (or will be) there: the next injury of a server waits until the last one has healed, which for a broker means that
it is in sync again everywhere. (Brokers that lose all replicas of a partition at once may forget a marker: see
`docs/decisions/0003-the-kafka-codec.md`.)
"""

import asyncio
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import asyncpg
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from coordinator.dev.kafka import LocalKafka
from coordinator.dev.postgres import LocalPostgres
from tests.soak.evidence import Injury
from tests.soak.worker import TOPIC
from tests.soak.workers import Workers

SERVER_KINDS = (
    "broker killed",
    "broker frozen",
    "broker restarted",
    "postgres crashed",
    "postgres restarted",
    "postgres frozen",
)
WORKER_KINDS = (
    "worker killed",
    "worker frozen",
    "worker frozen beyond its lease",
    "connections cut",
    "network held",
    "answers lost",
)
IN_SYNC_WITHIN_S = 90.0
INTERNAL_TOPICS = ("__transaction_state",)


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do: after *rest_s* seconds of peace, *kind* to target number *target* for *lasts_s* seconds."""

    rest_s: float
    kind: str
    target: int
    lasts_s: float


def plan(kinds: Sequence[str], targets: Mapping[str, int], chance: random.Random, *, rest_s: float) -> Iterator[Step]:
    """Steps without end: every kind once in each round, in an order of the round's own."""
    while True:
        for kind in chance.sample(kinds, len(kinds)):
            # Longer than a lease, or shorter than what a caller waits for: both have failed systems like this one.
            lasts_s = chance.uniform(6, 9) if "beyond" in kind else chance.choice((0.3, 1.0, 2.0, 3.0))
            yield Step(chance.uniform(0.5, 1.5) * rest_s, kind, chance.randrange(targets.get(kind, 1)), lasts_s)


@dataclass(slots=True, kw_only=True)
class Disturbances:
    """Both streams, and what they have done so far."""

    workers: Workers
    kafka: LocalKafka
    postgres: LocalPostgres
    database: str
    """The database's URL, on the server itself."""
    seed: int
    rest_s: float
    tell: Callable[[str], None]
    done: list[Injury] = field(default_factory=list)

    async def run(self, until_s: float) -> None:
        """Hurt and heal until *until_s* of the loop's clock, but everything once; all is healed when it returns."""
        brokers, workers = len(self.kafka.members), len(self.workers.members)
        servers = {kind: brokers for kind in SERVER_KINDS if kind.startswith("broker")}
        async with asyncio.TaskGroup() as group:
            for kinds, targets in ((SERVER_KINDS, servers), (WORKER_KINDS, dict.fromkeys(WORKER_KINDS, workers))):
                chance = random.Random(f"{self.seed}/{kinds[0]}")
                group.create_task(self._stream(plan(kinds, targets, chance, rest_s=self.rest_s), until_s))

    async def _stream(self, steps: Iterator[Step], until_s: float) -> None:
        loop, struck = asyncio.get_running_loop(), set()
        for step in steps:
            if loop.time() > until_s and step.kind in struck:
                return
            struck.add(step.kind)
            await asyncio.sleep(step.rest_s)
            began_s = time.time()
            target = await self._hurt(step)
            self.done.append(Injury(kind=step.kind, target=target, began_s=began_s, ended_s=time.time()))
            self.tell(f"{step.kind}: {target}, healed after {time.time() - began_s:.1f} s")

    async def _hurt(self, step: Step) -> str:
        """Do it and undo it; what it was done to."""
        if step.kind.startswith("broker"):
            return await self._hurt_broker(step)
        if step.kind.startswith("postgres"):
            return await self._hurt_postgres(step)
        return await self._hurt_worker(step)

    async def _hurt_broker(self, step: Step) -> str:
        number = self.kafka.members[step.target].number
        match step.kind:
            case "broker frozen":
                self.kafka.freeze(number)
                await asyncio.sleep(2 * step.lasts_s)
                self.kafka.thaw(number)
            case "broker restarted":
                await self.kafka.restart(number)
            case _:
                await self.kafka.kill(number)
                await asyncio.sleep(step.lasts_s)
                await self.kafka.start(number)
        await in_sync(self.kafka)
        return f"broker {number}"

    async def _hurt_postgres(self, step: Step) -> str:
        match step.kind:
            case "postgres frozen":
                self.postgres.freeze()
                await asyncio.sleep(step.lasts_s)
                self.postgres.thaw()
            case "postgres restarted":
                await self.postgres.restart()
            case _:
                await self.postgres.kill()
                await self.postgres.start()
        return "postgres"

    async def _hurt_worker(self, step: Step) -> str:
        worker = self.workers.members[step.target]
        match step.kind:
            case "worker killed":
                self.workers.signal(worker, signal.SIGKILL)
            case "worker frozen" | "worker frozen beyond its lease":
                self.workers.signal(worker, signal.SIGSTOP)
                await asyncio.sleep(step.lasts_s)
                self.workers.signal(worker, signal.SIGCONT)
            case "connections cut":
                await cut(self.database, worker.name)
            case "network held":
                worker.wire.hold(b"")
                await asyncio.sleep(2 * step.lasts_s)
                worker.wire.release()
            case "answers lost":
                worker.wire.swallow_answers_to(b"")
                await asyncio.sleep(min(step.lasts_s, 1.0))
                worker.wire.release()
        return worker.name


async def cut(database: str, name: str) -> None:
    """End every connection of the worker *name*. A database that is away has none."""
    try:
        connection = await asyncpg.connect(database, timeout=5)
    except (OSError, TimeoutError, asyncpg.PostgresError):
        return
    try:
        query = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = $1"
        await connection.fetchval(query, name, timeout=5)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return
    finally:
        connection.terminate()


async def in_sync(kafka: LocalKafka) -> None:
    """Wait until every replica of every partition that matters is in sync again. Raises `TimeoutError`."""
    async with asyncio.timeout(IN_SYNC_WITHIN_S):
        while not await _in_sync(kafka):  # noqa: ASYNC110 - a cluster tells nobody when it is whole again.
            await asyncio.sleep(0.3)


async def _in_sync(kafka: LocalKafka) -> bool:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap, request_timeout_ms=3000)
    try:
        await admin.start()
        topics: Sequence[Mapping[str, object]] = await admin.describe_topics([TOPIC, *INTERNAL_TOPICS])
    except (KafkaError, OSError, TimeoutError):
        return False
    finally:
        await admin.close()
    return all(_whole(topic) for topic in topics)


def _whole(topic: Mapping[str, object]) -> bool:
    partitions = topic["partitions"]
    assert isinstance(partitions, list), "as Kafka describes a topic"
    return bool(partitions) and all(sorted(p["isr"]) == sorted(p["replicas"]) for p in partitions)
