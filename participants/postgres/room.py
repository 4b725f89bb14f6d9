"""Room for so many at once: who comes later waits in order, and not for long; where too many wait, nobody else does."""

import asyncio

from coordinator import limits
from coordinator.errors import Overloaded
from coordinator.protocol.model import BranchName


class Room:
    """A bound. *full* says what is used up and what to do about it."""

    def __init__(self, name: BranchName, size: int, full: str) -> None:
        self._name, self._full = name, full
        self._free = asyncio.Semaphore(size)
        self.waiting = 0

    def crowded(self) -> str | None:
        """Why nobody else should come; None while there is a place, or few who wait for one."""
        if self.waiting < limits.WAITING_MAX:
            return None
        return f"{self._name}: {self.waiting} wait already; {self._full}"

    async def enter(self) -> None:
        """Take a place. Raises `Overloaded` when none is free in time, and at once where too many wait for one."""
        if not self._free.locked():
            await self._free.acquire()  # Without a timer: this is the common case, and returns at once.
            return
        if (reason := self.crowded()) is not None:
            raise Overloaded(reason, participant=self._name)
        self.waiting += 1
        try:
            async with asyncio.timeout(limits.PARTICIPANT_CALL_S):
                await self._free.acquire()
        except TimeoutError as error:
            raise Overloaded(f"{self._name}: {self._full}", participant=self._name) from error
        finally:
            self.waiting -= 1

    def leave(self) -> None:
        """Give the place back."""
        self._free.release()
