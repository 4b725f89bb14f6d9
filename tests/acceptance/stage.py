"""The stage of the acceptance tests: the social-post service on real servers, and an observer beside it."""

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
    """A surviving process, and what is really there."""

    database: str
    brokers: str
    coordinator: Coordinator
    seen: Observer
    repeats: Counter[str] = field(default_factory=Counter)
    """How often a test has told a relay that it has not delivered the message of an author, when it had."""
    armed: ArmedFaults = field(default_factory=lambda: ArmedFaults(faults=[]))

    @property
    def environment(self) -> dict[str, str]:
        """Where another process finds the servers."""
        return {"COORDINATOR_POSTGRES_URL": self.database, "COORDINATOR_KAFKA_BOOTSTRAP": self.brokers}

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


@asynccontextmanager
async def staged(database: str, kafka: LocalKafka) -> AsyncIterator[Stage]:
    """A stage on *database* and *kafka*, with the topic and tables of the service."""
    # What other stages have sent to this topic is explained by their databases.
    async with Observer(database, kafka.bootstrap, history=False) as seen:
        await seen.execute(TABLES)
        async with coordinator_of(database, kafka.bootstrap, SETTINGS) as coordinator:
            await seen.execute(EVIDENCE)
            yield Stage(database, kafka.bootstrap, coordinator, seen)


__all__ = ["TOPIC", "Stage", "staged"]
