"""What is really there: rows in Postgres, messages that a `read_committed` consumer sees, and what is left in doubt."""

import asyncio
import time
from collections import Counter, defaultdict
from typing import Any

import asyncpg
from aiokafka import AIOKafkaConsumer

from coordinator import CoordinatorError
from examples.social_post.service import TOPIC
from participants.kafka.cluster import Cluster
from participants.kafka.codec_cluster import Fetch, decode_fetch
from participants.kafka.connection import Security


class Observer:
    """Looks at both systems from outside, the way anybody else would.

    It reads all messages that there are; with *history* false, those that come from now on.
    """

    def __init__(self, database: str, brokers: str, *, history: bool = True) -> None:
        self.messages: Counter[str] = Counter()
        self.copies: defaultdict[str, Counter[str]] = defaultdict(Counter)
        """The same by author and message id, by which a consumer knows a message that a relay has sent again."""
        self._database, self._brokers, self._history = database, brokers, history
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Observer":
        """Begin to read."""
        self._pool = await asyncpg.create_pool(
            self._database, min_size=1, max_size=3, server_settings={"application_name": "observer"}
        )
        self._consumer = AIOKafkaConsumer(
            TOPIC,
            bootstrap_servers=self._brokers,
            isolation_level="read_committed",
            auto_offset_reset="earliest" if self._history else "latest",
        )
        await self._consumer.start()
        for partition in self._consumer.assignment():
            await self._consumer.position(partition)  # From here on it misses nothing.
        self._cluster = Cluster(self._brokers, Security())
        self._task = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop reading."""
        if self._task is not None:
            self._task.cancel()
        await self._consumer.stop()
        self._cluster.close()
        await self._pool.close()

    async def execute(self, statement: str) -> None:
        """Run *statement* on the database."""
        await self._pool.execute(statement)

    async def fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """The rows of *query*."""
        return list(await self._pool.fetch(query, *arguments))

    async def rows(self, author: str) -> int:
        """How many posts of *author* are committed."""
        return int(await self._pool.fetchval("SELECT count(*) FROM posts WHERE author = $1", author))

    async def prepared(self) -> int:
        """How many branches are prepared."""
        return int(await self._pool.fetchval("SELECT count(*) FROM pg_prepared_xacts"))

    async def settled(self, pid: int) -> bool:
        """Whether nothing is left of the process *pid*: no record, no id, no owner."""
        query = "SELECT count(*) FROM unanimity.owners WHERE owner LIKE '%-' || $1 || '-%'"
        return bool(await self._pool.fetchval(query, str(pid)) == 0)

    async def cut(self) -> None:
        """End every other connection to the database, as a failing network would."""
        await self._pool.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name <> 'observer'"
        )

    async def settled_within(self, seconds: float) -> dict[str, int]:
        """Wait until nothing is left over; what still was at the last look."""
        left: dict[str, int] = {}

        async def nothing() -> bool:
            nonlocal left
            left = await self.leftovers()
            return not any(left.values())

        await until(nothing, seconds)
        return left

    async def leftovers(self) -> dict[str, int]:
        """Everything that should be gone when all is over."""
        query = "SELECT count(*) FROM unanimity.decisions WHERE done_at IS NULL"
        return {
            "prepared branches": await self.prepared(),
            "unfinished decisions": int(await self._pool.fetchval(query)),
            "outbox rows": int(await self._pool.fetchval("SELECT count(*) FROM unanimity.outbox")),
            "messages behind an open Kafka transaction": await self._behind(),
        }

    async def _behind(self) -> int:
        """How far readers are held up: the last stable offset's distance from the end; -1 where no broker answers.

        Asked of the broker now: what a consumer was told at its last fetch may be long past, where a broker hung.
        """
        try:
            leader = (await self._cluster.partitions(TOPIC))[0]
            fetched = await self._cluster.ask(leader, Fetch(TOPIC, 0, 0, bytes_max=1), decode_fetch)
        except CoordinatorError:
            return -1
        return fetched.high_watermark - fetched.last_stable_offset

    async def _read(self) -> None:
        async for message in self._consumer:
            author = (message.key or b"").decode()
            self.messages[author] += 1
            self.copies[author][dict(message.headers)["message-id"].decode()] += 1


async def until(condition: Any, within_s: float) -> float | None:
    """How many seconds *condition* (an async function) took to become true; None when it did not."""
    began_s = time.monotonic()
    while time.monotonic() - began_s < within_s:
        if await condition():
            return time.monotonic() - began_s
        await asyncio.sleep(0.05)
    return None
