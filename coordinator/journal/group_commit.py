"""Group commit by natural batching: while one flush is in flight, the next batch gathers.

There is no timer: an idle journal flushes at once, and a busy one shares each durable write among all that wait.
(Fixed delays were measured, and only ever lost.)
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import Any, Generic, TypeVar

from coordinator import limits
from coordinator.errors import Unavailable
from coordinator.journal.database import JournalConnection

Item = TypeVar("Item")
Result = TypeVar("Result")


class GroupCommit(Generic[Item, Result]):
    """A queue before one writer. *flush* makes a batch durable and returns a result, or an exception, for each item."""

    def __init__(
        self,
        name: str,
        flush: Callable[[Sequence[Item]], Awaitable[Sequence[Result | BaseException]]],
        *,
        order: Callable[[Item], Any] | None = None,
    ) -> None:
        self._name = name
        self._flush = flush
        self._order = order
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._flushing_since_s: float | None = None
        self.flushes = 0
        self.flushed: Callable[[int], None] | None = None
        """Who is told how many items shared a flush."""

    async def submit(self, item: Item) -> Result:
        """Wait until *item* is durable; its result. A caller that is cancelled takes nothing back."""
        return await self.put(item)

    def put(self, item: Item) -> "asyncio.Future[Result]":
        """Queue *item*; the future of its result, which need not be awaited."""
        if self._closed:
            raise Unavailable(f"{self._name} is closed")
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name=self._name)
        return future

    def crowded(self) -> str | None:
        """Why nothing should begin that would have to wait here; None while the writer keeps up."""
        since_s = self._flushing_since_s
        behind_s = 0.0 if since_s is None else asyncio.get_running_loop().time() - since_s
        if len(self._waiting) < limits.JOURNAL_WAITING_MAX and behind_s < limits.JOURNAL_BEHIND_MAX_S:
            return None
        return (
            f"{self._name}: {len(self._waiting)} records wait and a write has taken {behind_s:.1f} s so far; "
            "slow down, and look at the journal's database"
        )

    async def close(self) -> None:
        """Flush what waits, and take no more. Idempotent; whoever waits for it can be cancelled."""
        self._closed = True
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[: limits.JOURNAL_BATCH_MAX], self._waiting[limits.JOURNAL_BATCH_MAX :]
            self.flushes += 1
            self._flushing_since_s = asyncio.get_running_loop().time()
            if self.flushed is not None:
                self.flushed(len(batch))
            if self._order is not None:
                order = self._order
                batch.sort(key=lambda entry: order(entry[0]))
            try:
                results: Sequence[Result | BaseException] = await self._flush([item for item, _ in batch])
            except Exception as failure:  # noqa: BLE001 - the loop's edge: whatever it was, each of the batch is told.
                results = [failure] * len(batch)
            self._flushing_since_s = None
            for (_, future), result in zip(batch, results, strict=True):
                _answer(future, result)


async def close_all(queues: Iterable[GroupCommit[Any, Any]], connections: Collection[JournalConnection]) -> None:
    """Write what waits in *queues*, then close their *connections*; cut those that are open when the time is over."""
    try:
        await asyncio.gather(*(queue.close() for queue in queues))
        await asyncio.gather(*(connection.close() for connection in connections))
    finally:
        for connection in connections:
            connection.cut()


def _answer(future: "asyncio.Future[Result]", result: Result | BaseException) -> None:
    if future.cancelled():
        return
    if isinstance(result, BaseException):
        future.set_exception(result)
        future.exception()  # Seen: an item that was only queued has nobody who would await it.
    else:
        future.set_result(result)
