"""A lost update that cannot happen where updates commute: say what changes, not what it comes to.

Two sagas book 10 each, and both have read the balance before either writes. Writing what they worked out loses one of
them. Adding is the same in any order, and so is taking back. Neither is the same twice, so both pass a barrier.
"""

import asyncio

from coordinator.sagas import Saga, StepContext, step
from examples.isolation.stage import Bank, coordinated, opened, proceeds


async def shown(url: str, *, guarded: bool) -> int:
    """The balance in the end."""
    async with opened(url, balance=100) as bank:
        saga = _booking(bank, asyncio.Barrier(2), guarded)
        async with coordinated(f"commutative-{guarded}", saga) as coordinator:
            await asyncio.gather(coordinator.run(saga, 10), coordinator.run(saga, 10))
            return await bank.balance()


def _booking(bank: Bank, both_have_read: asyncio.Barrier, guarded: bool) -> Saga:
    async def look() -> int:
        balance = await bank.balance()
        await both_have_read.wait()
        return balance

    async def book(request: int, look: int, context: StepContext) -> None:
        async with bank.pool.acquire() as connection, connection.transaction():
            if await proceeds(connection, context):
                await (bank.add(request, connection) if guarded else bank.put(look + request, connection))

    async def take_back(request: int, context: StepContext) -> None:
        async with bank.pool.acquire() as connection, connection.transaction():
            if await proceeds(connection, context):
                await bank.add(-request, connection)

    return Saga("booking", step(look), step(book, compensate=take_back))
