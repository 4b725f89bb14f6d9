"""The rested pool: transactional ids, first in first out, each used by one transaction at a time.

An id that was just committed is not ready for the next transaction: the broker answers before it has written the
markers. In a first-in-first-out pool that is large enough the ids rest by themselves, and the pool grows until they do.

An id is initialised exactly once, when it is made. Afterwards every `EndTxn` answers with the producer for the next
transaction, so an id whose transaction did not get such an answer is not used again: its owner's successor settles it.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from coordinator import limits
from coordinator.errors import Overloaded
from coordinator.ports import PoolFigures
from participants.kafka.codec import Producer

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class PooledId:
    """A transactional id, the producer for its next transaction, and since when it rests (event loop seconds).

    *term* counts the losses of our own before it was made: one that was made before the last is our successor's.
    """

    transactional_id: str
    producer: Producer
    rests_since_s: float
    term: int


@dataclass(slots=True, kw_only=True)
class IdPool:
    """Ids of one kind (ordinary or two-phase) on one cluster."""

    claim: Callable[[int], Awaitable[list[str]]]
    """Make this many ids durable as this process' own."""
    initialise: Callable[[str], Awaitable[Producer]]
    rest_s: float = limits.KAFKA_ID_REST_S
    size: int = 0
    _resting: deque[PooledId] = field(default_factory=deque)
    _growing: asyncio.Task[None] | None = None
    _term: int = 0

    @property
    def used(self) -> int:
        """Ids that are with a transaction now."""
        return self.size - len(self._resting)

    async def take(self) -> PooledId:
        """The id that has rested longest. Grows the pool when that is not long enough, and waits when there is none.

        Where it is empty and cannot grow, raises why: `Unavailable`, or `Misconfigured`. `Overloaded` at its bound.
        """
        now_s = asyncio.get_running_loop().time()
        if self._resting:
            if now_s - self._resting[0].rests_since_s < self.rest_s and self.size < limits.KAFKA_POOL_MAX:
                self._grow()
            return self._resting.popleft()
        while not self._resting:
            if self.size >= limits.KAFKA_POOL_MAX:
                raise Overloaded(f"all {self.size} transactional ids are in use; slow down")
            await asyncio.shield(self._grow())
        return self._resting.popleft()

    def give_back(self, pooled: PooledId, producer: Producer) -> None:
        """Its transaction has ended, and *producer* is for the next one."""
        if pooled.term != self._term:
            self.drop(pooled)
            return
        pooled.producer = producer
        pooled.rests_since_s = asyncio.get_running_loop().time()
        self._resting.append(pooled)

    def put_back_unused(self, pooled: PooledId) -> None:
        """Nothing was sent on it: it has not stopped resting."""
        if pooled.term != self._term:
            self.drop(pooled)
            return
        self._resting.appendleft(pooled)

    def drop(self, pooled: PooledId) -> None:
        """Never use it again: it belongs to somebody else now, or nobody knows its next producer."""
        self.size -= 1
        logger.info("transactional id %s is not used any more", pooled.transactional_id)

    def drop_all(self) -> None:
        """This process lost its term: all ids, also those in use or being made, belong to whoever took over."""
        self._term += 1
        self.size -= len(self._resting)
        self._resting.clear()

    def figures(self) -> PoolFigures:
        """How it is now."""
        now_s = asyncio.get_running_loop().time()
        rest_s = now_s - self._resting[0].rests_since_s if self._resting else 0.0
        return PoolFigures(size=self.size, resting=len(self._resting), rest_s=rest_s)

    async def close(self) -> None:
        """End growing. Idempotent."""
        if self._growing is not None:
            self._growing.cancel()
            await asyncio.wait({self._growing})
            self._growing = None

    def _grow(self) -> asyncio.Task[None]:
        """Grow by half, in the background and once at a time."""
        if self._growing is None or self._growing.done():
            count = min(max(limits.KAFKA_POOL_MIN, self.size // 2), limits.KAFKA_POOL_MAX - self.size)
            self._growing = asyncio.create_task(self._add(count), name="grow the pool of transactional ids")
            self._growing.add_done_callback(_seen)
        return self._growing

    async def _add(self, count: int) -> None:
        term = self._term
        names = await self.claim(count)
        results = await asyncio.gather(*(self._initialised(name, term) for name in names), return_exceptions=True)
        failures = [result for result in results if isinstance(result, BaseException)]
        if len(failures) == len(names):
            raise failures[0]

    async def _initialised(self, name: str, term: int) -> None:
        producer = await self.initialise(name)
        if term == self._term:
            self.size += 1
            rested_s = asyncio.get_running_loop().time() - self.rest_s
            self._resting.append(PooledId(name, producer, rested_s, term))


def _seen(task: asyncio.Task[None]) -> None:
    """A pool that could not grow says so to whoever waits for it; one that nobody waits for is only logged."""
    if not task.cancelled() and (failure := task.exception()) is not None:
        logger.warning("the pool of transactional ids could not grow: %s", failure)
