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

    __slots__ = ("_cancelling", "_row", "_task", "due_s", "expired")

    def __init__(self, row: "_Row") -> None:
        self._row = row
        self.expired, self.due_s = False, 0.0

    def __enter__(self) -> None:
        task = asyncio.current_task(self._row.loop)
        assert task is not None, "a call is bounded inside a task"
        self._task, self._cancelling = task, task.cancelling()
        self._row.add(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._row.calls.pop(self, None)
        if self.expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def expire(self) -> None:
        """Its time is over."""
        self.expired = True
        self._task.cancel()


class _Row:
    """The calls of one length that are out, the oldest first."""

    def __init__(self, seconds: float, loop: asyncio.AbstractEventLoop) -> None:
        self.seconds, self.loop = seconds, loop
        self.calls: dict[Bound, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, call: Bound) -> None:
        call.due_s = self.loop.time() + self.seconds
        self.calls[call] = None
        if self._timer is None:
            self._timer = self.loop.call_at(call.due_s, self._look)

    def _look(self) -> None:
        self._timer = None
        now_s = self.loop.time()
        for call in list(self.calls):
            if call.due_s > now_s:
                self._timer = self.loop.call_at(call.due_s, self._look)
                return
            del self.calls[call]
            call.expire()
