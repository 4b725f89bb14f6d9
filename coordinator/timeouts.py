"""`asyncio.timeout` for very many calls: those of one length expire in the order in which they began, so that all of
them share one timer. (One each is a tenth of a saga's CPU time.)
"""

import asyncio
from types import TracebackType


class Timeouts:
    """Bounds blocks: `with timeouts.within(seconds)` ends its task's block with `TimeoutError`."""

    def __init__(self) -> None:
        self._rows: dict[float, _Row] = {}

    def within(self, seconds: float) -> "Bound":
        """A block that takes *seconds* at most. To be entered at once, by the task that calls this."""
        row = self._rows.get(seconds)
        if row is None:
            row = self._rows[seconds] = _Row(seconds, asyncio.get_running_loop())
        return Bound(row)


class Bound:
    """One block. What `asyncio.Timeout` promises holds: somebody else's cancellation stays a cancellation."""

    __slots__ = ("_cancelling", "_row", "_task", "due_s")

    def __init__(self, row: "_Row") -> None:
        self._row = row

    def __enter__(self) -> None:
        row = self._row
        task = asyncio.current_task(row.loop)
        assert task is not None, "a call is bounded inside a task"
        self._task, self._cancelling = task, task.cancelling()
        self.due_s = row.loop.time() + row.seconds
        row.calls[self] = True
        if row.timer is None:
            row.timer = row.loop.call_at(self.due_s, row.look)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._row.calls.pop(self, False):
            return
        if self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def expire(self) -> None:
        """Its time is over, and it has left its row."""
        self._task.cancel()


class _Row:
    """The calls of one length that are out, the oldest first."""

    def __init__(self, seconds: float, loop: asyncio.AbstractEventLoop) -> None:
        self.seconds, self.loop = seconds, loop
        self.calls: dict[Bound, bool] = {}
        self.timer: asyncio.TimerHandle | None = None

    def look(self) -> None:
        self.timer = None
        now_s = self.loop.time()
        for call in list(self.calls):
            if call.due_s > now_s:
                self.timer = self.loop.call_at(call.due_s, self.look)
                return
            del self.calls[call]
            call.expire()
