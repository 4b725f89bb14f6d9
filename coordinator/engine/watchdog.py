"""Notices that this process stood still: its event loop was blocked, or the whole process was paused.

Who stood still for a third of a lease may have been taken over since, and does not know. So nothing is done on the
strength of the lease until it has been renewed, by a question that was asked after the standstill. Whoever looks first
notices: it need not be the timer whose beat was missed.
"""

import asyncio
import logging
from dataclasses import dataclass, field

from coordinator import limits
from coordinator.ports import Clock

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Watchdog:
    """Compares the clock with the last beat, once there was one."""

    clock: Clock
    lag_max_s: float = limits.LEASE_S * limits.LAG_SHARE
    stalls: int = 0
    lag_s: float = 0.0
    """By how much the last beat was late."""
    steady_until_s: float = float("inf")
    """Until then nobody need look: it did not stand still, or has renewed its lease since."""
    _beat_due_s: float = float("inf")
    _stalled_since_s: float | None = None
    """When a standstill was noticed, which is after its end."""
    _steady: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def stalled(self) -> bool:
        """Whether this process stood still, and has not renewed its lease since."""
        return self.stalled_at(self.clock.monotonic_s())

    def stalled_at(self, now_s: float) -> bool:
        """The same, for whoever has looked at the clock already."""
        if self._stalled_since_s is None and now_s - self._beat_due_s > self.lag_max_s:
            self._notice(now_s)
        return self._stalled_since_s is not None

    def beat(self, next_in_s: float) -> bool:
        """The event loop runs, and means to come back in *next_in_s*; returns `stalled`."""
        now_s = self.clock.monotonic_s()
        self.lag_s = max(0.0, now_s - self._beat_due_s)
        stalled = self.stalled
        self._expect(now_s + next_in_s)
        return stalled

    def renewed(self, asked_s: float) -> None:
        """The lease was renewed by a question that was asked at *asked_s*."""
        if self._stalled_since_s is not None and asked_s >= self._stalled_since_s:
            self._stalled_since_s = None
            self._expect(self._beat_due_s)
            self._steady.set()

    async def steady(self) -> None:
        """Wait until this process holds a lease that was renewed after the last standstill."""
        while self.stalled:
            await self._steady.wait()

    def _notice(self, now_s: float) -> None:
        self.stalls += 1
        logger.warning("this process stood still for %.1f s: it renews its lease first", now_s - self._beat_due_s)
        self._stalled_since_s = now_s
        self._expect(now_s)
        self._steady.clear()

    def _expect(self, due_s: float) -> None:
        self._beat_due_s = due_s
        self.steady_until_s = due_s + self.lag_max_s if self._stalled_since_s is None else float("-inf")
