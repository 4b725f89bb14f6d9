"""Stopping within one deadline, however many things have to end: each leaves the later ones their share of the time."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable, Iterator

from coordinator import limits

logger = logging.getLogger(__name__)


class Stop:
    """One deadline. It begins with the first question about it."""

    def __init__(self, within_s: float = limits.STOP_WITHIN_S) -> None:
        self._within_s = within_s
        self._until_s: float | None = None

    def left_s(self, *, leaving_s: float) -> float:
        """Seconds that may still be used, where the rest of the stop needs *leaving_s*."""
        now_s = asyncio.get_running_loop().time()
        if self._until_s is None:
            self._until_s = now_s + self._within_s
        return max(0.0, self._until_s - leaving_s - now_s)

    async def step(self, name: str, end: Callable[[], Awaitable[object]], *, leaving_s: float) -> None:
        """Do *end*, or leave it behind when its time is over: what it has not done others will find undone."""
        try:
            async with asyncio.timeout(self.left_s(leaving_s=leaving_s)):
                await end()
        except TimeoutError:
            logger.warning("%s did not end in time, and is left behind", name)


class EndsBlock:
    """Ends the block that a task is in by cancelling the task, once, and tells that cancellation from any other."""

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self._left = self._cancelled = False

    def end(self) -> None:
        """End the block, unless it has been left."""
        if self._task is not None and not self._left:
            self._cancelled = self._task.cancel()

    def leave(self, error: BaseException | None) -> bool:
        """The block was left with *error*; whether that was our own doing, and goes no further."""
        self._left = True
        if not self._cancelled or self._task is None:
            return False
        return self._task.uncancel() == 0 and isinstance(error, asyncio.CancelledError)


@contextlib.contextmanager
def on_sigterm(react: Callable[[], None]) -> Iterator[None]:
    """Call *react* on the event loop at each SIGTERM, in place of the end of the process."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, react)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
