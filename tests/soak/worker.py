"""A process under load: transactions of every recipe, one row and one to three messages each, until it is killed.

    python -m tests.soak.worker ORDERS.json

Its lanes work side by side, each one transaction after the other. What its callers are told is in the history that
the coordinator writes; a transaction's name says its recipe and its policy. SIGUSR1 ends the load and leaves the
coordinator at work (so that it finishes what others left); SIGTERM ends the process, and SIGUSR2 makes it
write to its log what its tasks wait for.
"""

import asyncio
import json
import logging
import random
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import asyncpg
import uvloop

from coordinator import BackupPolling, Coordinator, CoordinatorError, FailurePolicy, InDoubt, Rollback, Settings
from participants import Kafka, Postgres

TOPIC = "soak"
TABLES = """
    CREATE TABLE IF NOT EXISTS soak_rows (
        gid      text NOT NULL,
        key      text NOT NULL,
        sequence integer NOT NULL,
        messages integer NOT NULL
    )
"""
RECIPES = ("commit-record", "two-phase", "last-resource", "outbox")
POLICIES: dict[str, FailurePolicy] = {
    "rollback": Rollback(within_s=3.0),
    "backup-polling": BackupPolling(push_within_s=1.0, poll_every_s=0.2),
}
SETTINGS = Settings(
    lease_s=4.0, recovery_s=0.5, presume_abort_after_s=5.0, presume_abort_looks_apart_s=1.0, settle_within_s=2.0
)
BROKEN_SHARE = 0.05
PAUSE_AFTER_FAILURE_S = 0.2
STATEMENT_S = 10.0
"""A block's own statements are the application's to bound: a connection may never answer, and nobody may close it."""
LOST = (asyncpg.InternalClientError, OSError)
"""What else a block's own statement raises on a connection that is being lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What a worker is told: who it is, where the servers are, and how much to do."""

    name: str
    incarnation: int
    postgres: str
    kafka: str
    history: str
    seed: int
    lanes: int
    transactions_per_s: float

    def save(self, path: Path) -> None:
        """Write them where the worker finds them."""
        path.write_text(json.dumps(asdict(self)))


class Broken(Exception):
    """The block changes its mind: everything is rolled back."""


@dataclass(slots=True)
class Lane:
    """One transaction after the other, with keys and sequences of its own."""

    coordinator: Coordinator
    orders: Orders
    number: int
    chance: random.Random
    generation: int = 0
    sequence: int = 0

    async def run(self, stopping: asyncio.Event) -> None:
        """Until told to stop."""
        mean_s = self.orders.lanes / self.orders.transactions_per_s
        while not stopping.is_set():
            await asyncio.sleep(self.chance.uniform(0.2, 1.8) * mean_s)
            try:
                await self.transact(self.chance.choice(RECIPES), self.chance.choice(list(POLICIES)))
            except Broken:
                continue
            except InDoubt:
                self.generation += 1  # It may be committed behind the next one, so its key is not used again.
            except (CoordinatorError, asyncpg.PostgresError, asyncpg.InterfaceError, *LOST) as failure:
                logging.info("lane %d: %r", self.number, failure)
                await asyncio.sleep(PAUSE_AFTER_FAILURE_S)

    async def transact(self, recipe: str, policy: str) -> None:
        """One row with its messages: the first on the lane's own key, the others wherever their key leads."""
        orders, messages = self.orders, self.chance.choice((1, 1, 2, 3))
        key = f"{orders.name}.{orders.incarnation}.{self.number}.{self.generation}"
        self.sequence += 1
        async with self.coordinator.transaction(
            f"{recipe} {policy}", recipe=recipe, policy=POLICIES[policy], deadline_s=15
        ) as transaction:
            connection = await transaction.enlist("db")
            insert = "INSERT INTO soak_rows VALUES ($1, $2, $3, $4)"
            await connection.execute(insert, transaction.gid, key, self.sequence, messages, timeout=STATEMENT_S)
            for n in range(messages):
                lane_key = key if n == 0 else f"{transaction.gid}:{n}"
                value = body_of(transaction.gid, lane_key, self.sequence)
                await transaction.publish("events", topic=TOPIC, key=lane_key, value=value)
            if self.chance.random() < BROKEN_SHARE:
                raise Broken


def body_of(gid: str, key: str, sequence: int) -> bytes:
    """What a message says."""
    return json.dumps({"gid": gid, "key": key, "sequence": sequence}).encode()


def idle_mark(orders: Path) -> Path:
    """The file that a worker makes when its last caller has been answered."""
    return orders.with_suffix(".idle")


def tell_what_is_waited_for(loop: asyncio.AbstractEventLoop) -> None:
    """Write the stack of every task to the log."""
    for task in asyncio.all_tasks(loop):
        task.print_stack(file=sys.stderr)


async def main(path: Path) -> None:
    """Work until SIGTERM."""
    orders = Orders(**json.loads(path.read_bytes()))  # noqa: ASYNC240 - nothing else runs yet.
    idle, leaving = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, idle.set)
    loop.add_signal_handler(signal.SIGTERM, leaving.set)
    loop.add_signal_handler(signal.SIGUSR2, tell_what_is_waited_for, loop)
    async with Coordinator(
        journal=orders.postgres,
        participants={"db": Postgres(orders.postgres, pool=12), "events": Kafka(orders.kafka, two_phase=True)},
        settings=SETTINGS,
        history=Path(orders.history),
    ) as coordinator:
        lanes = [
            Lane(
                coordinator, orders, number, random.Random(f"{orders.seed}/{orders.name}/{orders.incarnation}/{number}")
            )
            for number in range(orders.lanes)
        ]
        async with asyncio.TaskGroup() as group:
            for lane in lanes:
                group.create_task(lane.run(idle))
        idle_mark(path).touch()
        await leaving.wait()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    uvloop.run(main(Path(sys.argv[1])))
