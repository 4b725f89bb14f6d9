"""The relay of a database in memory."""

import asyncio
from collections.abc import Mapping
from typing import Any

from participants.memory.broker import MemoryBroker
from participants.memory.database import MemoryDatabase


class MemoryRelay:
    """Delivers ready rows to brokers in memory, in order, while they are up."""

    def __init__(self, database: MemoryDatabase, brokers: Mapping[str, Any]) -> None:
        self.poll_every_s = 0.05
        self._database, self._brokers = database, brokers
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run(), name="memory relay")

    async def stop(self) -> None:
        """End. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    def wake(self) -> None:
        """There is something to deliver."""
        self._wake.set()

    async def lag(self) -> Mapping[str, Any]:
        """Rows that wait and that are ready."""
        rows = self._database.outbox
        return {"waiting": sum(row.waiting for row in rows), "ready": sum(not row.waiting for row in rows)}

    async def _run(self) -> None:
        while True:
            self._deliver()
            self._wake.clear()
            try:
                async with asyncio.timeout(self.poll_every_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _deliver(self) -> None:
        rows = self._database.outbox
        for row in [row for row in rows if not row.waiting]:
            broker = self._brokers.get(row.message.participant)
            if isinstance(broker, MemoryBroker) and not broker.down:
                broker.topics.messages.append(row.message)
                rows.remove(row)
