"""Loops that run for as long as the service does: at a steady pace, whatever one of their rounds raises.

A loop never dies silently: what a round raised is logged and counted, and the next round comes at its time.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from coordinator.ports import Clock

logger = logging.getLogger(__name__)


def is_cancelled() -> bool:
    """Whether the `CancelledError` at hand is for this task. (Or else something that it awaited was cancelled.)"""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


@dataclass(slots=True, kw_only=True)
class Periodic:
    """Calls *round_* every *period_s*, with a tenth of jitter so that replicas do not march in step."""

    name: str
    round_: Callable[[], Awaitable[None]]
    period_s: float
    clock: Clock
    chance: random.Random
    failures: int = 0
    _task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin; the first round comes after one period."""
        self._task = asyncio.create_task(self._run(), name=self.name)

    async def stop(self) -> None:
        """End between two rounds or inside one. Idempotent, and legal before start."""
        if self._task is None:
            return
        task, self._task = self._task, None
        task.cancel()
        await asyncio.wait([task])  # Whoever stops it can be cancelled, too.

    async def _run(self) -> None:
        task = asyncio.current_task()
        assert task is not None, "a loop is a task"
        while not task.cancelling():  # Also where a round has swallowed that it is to end.
            await self.clock.sleep(self.period_s * self.chance.uniform(0.9, 1.1))
            try:
                await asyncio.create_task(
                    self._round(), name=self.name
                )  # Its own: it may cancel the one that it is in.
            except (Exception, asyncio.CancelledError):  # Nothing that one round raises may end the rounds after it.
                if task.cancelling():
                    return  # We are stopped. Or else it was something that the round waited for.
                self.failures += 1
                logger.exception("a round of %s failed; the next one comes in %.1f s", self.name, self.period_s)

    async def _round(self) -> None:
        await self.round_()
