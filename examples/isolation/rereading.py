"""A lost update, and the second look that notices it.

A saga reads the balance, waits for a word of somebody, and writes what it has worked out. Meanwhile another one changes
the account. Without a second look that change is lost. With it the saga is refused, undone, and may begin again. The
step passes a barrier first, so that an attempt that comes again is not taken for a change by others.
"""

import asyncio
import contextlib

from coordinator.errors import Compensated
from coordinator.sagas import Saga, StepContext, step
from examples.isolation.stage import Bank, coordinated, opened, proceeds
from participants.isolation import reread


async def shown(url: str, *, guarded: bool) -> int:
    """The balance in the end: interest of 10 % on 100, and 50 that came in between."""
    async with opened(url, balance=100) as bank:
        has_read, go_on = asyncio.Event(), asyncio.Event()
        saga = _interest(bank, has_read, go_on, guarded)
        async with coordinated(f"reread-{guarded}", saga) as coordinator:
            handle = await coordinator.start(saga)
            await has_read.wait()
            await bank.add(50)
            go_on.set()
            with contextlib.suppress(Compensated):
                await handle.result()
                return await bank.balance()
            await coordinator.run(saga)  # Once more, from what is so now.
            return await bank.balance()


def _interest(bank: Bank, has_read: asyncio.Event, go_on: asyncio.Event, guarded: bool) -> Saga:
    async def look() -> tuple[int, int]:
        balance, version = await bank.pool.fetchrow("SELECT balance, version FROM account")
        return balance, version

    async def approve() -> None:
        has_read.set()
        await go_on.wait()

    async def book(look: tuple[int, int], context: StepContext) -> None:
        balance, version = look
        async with bank.pool.acquire() as connection, connection.transaction():
            if await proceeds(connection, context):
                if guarded:
                    await reread(connection, "SELECT version FROM account", expected=version)
                await bank.put(balance + balance // 10, connection)

    return Saga("interest", step(look), step(approve), step(book, pivot=True))
