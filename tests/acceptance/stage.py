"""The stage of the acceptance tests: the social-post service on real servers, and an observer beside it."""

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from coordinator import Coordinator, CoordinatorError, InDoubt
from coordinator.dev.kafka import LocalKafka
from coordinator.faults.injectors import ArmedFaults
from examples.social_post.observer import Observer, until
from examples.social_post.promises import POLICIES, SETTINGS
from examples.social_post.service import TABLES, TOPIC, coordinator_of, create_post
from tests.acceptance.copies import EVIDENCE, unexplained

WHOLE_WITHIN_S = 40.0


@dataclass
class Stage:
    """A surviving process, what is really there, and processes that may be killed."""

    database: str
    brokers: str
    coordinator: Coordinator
    seen: Observer
    children: list["Children"] = field(default_factory=list)
    repeats: Counter[str] = field(default_factory=Counter)
    """How often a test has told a relay that it has not delivered the message of an author, when it had."""
    armed: ArmedFaults = field(default_factory=lambda: ArmedFaults(faults=[]))

    async def post(self, author: str, *, policy: str = "rollback", recipe: str | None = None) -> str:
        """Write one post; what the caller was told: committed, aborted or in doubt."""
        try:
            await create_post(self.coordinator, author=author, body="hello", policy=POLICIES[policy], recipe=recipe)
        except InDoubt:
            return "in doubt"
        except CoordinatorError:
            return "aborted"
        return "committed"

    async def whole(self, author: str, answer: str = "in doubt") -> tuple[int, int]:
        """Wait until rows and messages agree with each other and with *answer*; how many there are.

        Copies of one message are one message, as they are for a consumer with an inbox; see `unexplained` for them.
        """
        allowed = {"committed": [(1, 1)], "aborted": [(0, 0)]}.get(answer, [(0, 0), (1, 1)])
        counts = (-1, -1)

        async def agreed() -> bool:
            nonlocal counts
            counts = (await self.seen.rows(author), len(self.seen.copies[author]))
            return counts in allowed and await self.seen.prepared() == 0

        await until(agreed, WHOLE_WITHIN_S)
        return counts

    async def sent(self, author: str, copies: int) -> bool:
        """Whether so many copies of the message of *author* were sent."""
        return self.seen.messages[author] == copies

    async def unexplained(self) -> dict[str, int]:
        """Messages of which there are more copies than relays had reason to send."""
        return await unexplained(self.seen, self.repeats)

    async def quiet(self) -> dict[str, int]:
        """Wait until nothing is left over; what still is."""
        left = await self.seen.settled_within(WHOLE_WITHIN_S)
        return {what: count for what, count in left.items() if count}


class Children:
    """One fork server: processes that are killed by their faults, one after the other."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process, self._turn = process, asyncio.Lock()

    @classmethod
    async def start(cls, database: str, brokers: str) -> "Children":
        """Start it."""
        import os

        environment = {
            **os.environ,
            "COORDINATOR_POSTGRES_URL": database,
            "COORDINATOR_KAFKA_BOOTSTRAP": brokers,
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.acceptance.forkserver",
            env=environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        return cls(process)

    async def run(self, **order: str) -> tuple[int, int]:
        """Run one child to its end; (pid, the signal that killed it)."""
        async with self._turn:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            await self._process.stdin.drain()
            answer = json.loads(await self._process.stdout.readline())
            return answer["pid"], answer["signal"]

    async def stop(self) -> None:
        """End it."""
        self._process.kill()
        await self._process.wait()


@asynccontextmanager
async def staged(database: str, kafka: LocalKafka) -> AsyncIterator[Stage]:
    """A stage on *database* and *kafka*, with the topic and tables of the service."""
    # What other stages have sent to this topic is explained by their databases.
    async with Observer(database, kafka.bootstrap, history=False) as seen:
        await seen.execute(TABLES)
        async with coordinator_of(database, kafka.bootstrap, SETTINGS) as coordinator:
            await seen.execute(EVIDENCE)
            yield Stage(database, kafka.bootstrap, coordinator, seen)


__all__ = ["TOPIC", "Children", "Stage", "staged"]
