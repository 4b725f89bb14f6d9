"""Group commit by natural batching: while one flush is in flight, the next batch gathers.

There is no timer: an idle journal flushes at once, and a busy one shares each durable write among all that wait.
(Fixed delays were measured, and only ever lost.)
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextvars import Context
from typing import Any, Generic, TypeVar

from coordinator import limits
from coordinator.errors import Refused, Unavailable
from coordinator.journal.database import JournalConnection

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")
Writer = Callable[[Sequence[Item]], Awaitable[Sequence[Result | BaseException]]]
"""Makes a batch durable; a result, or an exception, for each item of it."""

_SHARED_FROM = 32
"""How many must wait for two writers to share them: while one half is written, the other half's callers go on."""


class GroupCommit(Generic[Item, Result]):
    """A queue before one or more writers; whichever is free takes all that waits."""

    def __init__(
        self,
        name: str,
        *writers: Writer[Item, Result],
        order: Callable[[Item], Any] | None = None,
    ) -> None:
        self._name = name
        self._free = list(reversed(writers))
        """Those that write nothing; the last one wrote last, and is taken first."""
        self._writers = len(writers)
        self._order = order
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._gathering = False
        """Whether a task is about to take what waits."""
        self._last = 1
        """How many items the last write was of."""
        self._closed = False
        self._freed = asyncio.Event()
        self._flushing_since_s: dict[int, float] = {}
        self.flushes = 0
        self.flushed: Callable[[int], None] | None = None
        """Who is told how many items shared a flush."""

    async def submit(self, item: Item) -> Result:
        """Wait until *item* is durable; its result. A caller that is cancelled takes nothing back."""
        return await self.put(item)

    def write(self, item: Item) -> Awaitable[Result]:
        """As `submit`; but who is alone writes in his own task, and cuts that write off where he is cancelled.

        There is nobody to share with, and to wake another task and be woken by it is a tenth of what a saga takes that
        runs by itself.
        """
        if self._last > 1 or self._closed or self._is_at_work():
            return self.put(item)
        return self._write_alone(item)

    def put(self, item: Item) -> "asyncio.Future[Result]":
        """Queue *item*; the future of its result, which need not be awaited."""
        if self._closed:
            raise Unavailable(f"{self._name} is closed")
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._gather()
        return future

    def crowded(self) -> str | None:
        """Why nothing should begin that would have to wait here; None while the writers keep up."""
        now_s = asyncio.get_running_loop().time()
        behind_s = now_s - min(self._flushing_since_s.values(), default=now_s)
        if len(self._waiting) < limits.JOURNAL_WAITING_MAX and behind_s < limits.JOURNAL_BEHIND_MAX_S:
            return None
        return (
            f"{self._name}: {len(self._waiting)} records wait and a write has taken {behind_s:.1f} s so far; "
            "slow down, and look at the journal's database"
        )

    async def close(self) -> None:
        """Flush what waits, and take no more. Idempotent; whoever waits for it can be cancelled."""
        self._closed = True
        while self._is_at_work():
            self._freed.clear()
            await self._freed.wait()

    def _is_at_work(self) -> bool:
        return self._gathering or bool(self._waiting) or len(self._free) < self._writers

    def _gather(self) -> None:
        """Have a task take what waits, if a writer is free and none is about to."""
        if self._waiting and self._free and not self._gathering:
            self._gathering = True
            # In no context: it writes for all that come, and not for whoever is the first.
            task = asyncio.create_task(self._write(), name=self._name, context=Context())
            self._tasks.add(task)
            task.add_done_callback(self._written)

    def _written(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if task.cancelled():  # Perhaps before it took anything.
            self._gathering = False
            self._gather()
            self._freed.set()

    async def _write(self) -> None:
        self._gathering = False
        while self._waiting and self._free:
            batch = self._taken()
            results = await self._flush([item for item, _ in batch])
            for (_, future), result in zip(batch, results, strict=True):
                if future.cancelled():
                    continue
                if isinstance(result, BaseException):
                    future.set_exception(result)
                    future.exception()  # Seen: an item that was only queued has nobody who would await it.
                else:
                    future.set_result(result)

    async def _write_alone(self, item: Item) -> Result:
        if self._is_at_work():  # It was not awaited at once.
            return await self.put(item)
        try:
            result = (await self._flush([item]))[0]
        finally:
            self._gather()  # What came meanwhile.
        if isinstance(result, BaseException):
            raise result
        return result

    def _taken(self) -> list[tuple[Item, "asyncio.Future[Result]"]]:
        """All that waits; or half of it, where there is enough for two writers at once."""
        count = len(self._waiting)
        shared = count >= _SHARED_FROM and len(self._free) > 1
        count = min(count // 2 if shared else count, limits.JOURNAL_BATCH_MAX)
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        if self._order is not None:
            order = self._order
            batch.sort(key=lambda entry: order(entry[0]))
        return batch

    async def _flush(self, items: Sequence[Item]) -> Sequence[Result | BaseException]:
        """Have a free writer write them: what each of them is told."""
        writer = self._free.pop()
        self._gather()  # What was not taken is another one's.
        self.flushes += 1
        self._last = len(items)
        self._flushing_since_s[id(writer)] = asyncio.get_running_loop().time()
        if self.flushed is not None:
            self.flushed(len(items))
        try:
            return await _results(writer, items)
        finally:
            del self._flushing_since_s[id(writer)]
            self._free.append(writer)
            self._freed.set()


async def _results(flush: Writer[Item, Result], items: Sequence[Item]) -> Sequence[Result | BaseException]:
    """What each of *items* is told. One that cannot be stored costs those nothing that share its flush."""
    try:
        return await flush(items)
    except Refused as failure:
        if len(items) == 1:
            return [failure]
        logger.warning("one of %d items cannot be stored, so that each is written alone: %s", len(items), failure)
        return [result for item in items for result in await _results(flush, [item])]
    except Exception as failure:  # noqa: BLE001 - the loop's edge: whatever it was, each of the batch is told.
        return [failure] * len(items)


async def close_all(queues: Iterable[GroupCommit[Any, Any]], connections: Collection[JournalConnection]) -> None:
    """Write what waits in *queues*, then close their *connections*; cut those that are open when the time is over."""
    try:
        await asyncio.gather(*(queue.close() for queue in queues))
        await asyncio.gather(*(connection.close() for connection in connections))
    finally:
        for connection in connections:
            connection.cut()
