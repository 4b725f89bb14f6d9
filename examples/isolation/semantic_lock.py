"""A dirty read, and the semantic lock that keeps it out.

A cheque of 100 is credited and then bounces, so that the credit is undone. In between somebody pays out what he sees.
Without a lock the account ends at -100. With it, who pays out waits until the cheque's saga has ended. The lock
is taken behind the barrier, since a late duplicate would keep it for ever.
"""

import asyncio
from typing import Any

from coordinator.errors import Compensated, Refused
from coordinator.sagas import Saga, StepContext, step
from examples.isolation.stage import PATIENT, Bank, coordinated, opened, proceeds
from participants.isolation import SemanticLocks


async def shown(url: str, *, guarded: bool) -> int:
    """The balance in the end."""
    async with opened(url, balance=0) as bank:
        locks = SemanticLocks()
        async with bank.pool.acquire() as connection:
            await locks.create(connection)
        looked = asyncio.Event()
        cheque, payment = _cheque(bank, locks, looked, guarded), _payment(bank, locks, looked, guarded)
        async with coordinated(f"semantic-lock-{guarded}", cheque, payment) as coordinator:
            handle = await coordinator.start(cheque, 100)
            while not await bank.balance():  # noqa: ASYNC110 - the credit is there to be seen.
                await asyncio.sleep(0.01)
            ended = await asyncio.gather(coordinator.run(payment, 100), handle.result(), return_exceptions=True)
            assert isinstance(ended[1], Compensated)
            return await bank.balance()


def _cheque(bank: Bank, locks: SemanticLocks, looked: asyncio.Event, guarded: bool) -> Saga:
    async def credit(request: int, context: StepContext) -> None:
        async with bank.pool.acquire() as connection, locks.taken(connection, gid=context.gid) as take:
            if await proceeds(connection, context):
                if guarded:
                    await take("account")
                await bank.add(request, connection)

    async def take_back(request: int, context: StepContext) -> None:
        async with bank.pool.acquire() as connection, connection.transaction():
            if await proceeds(connection, context):
                await bank.add(-request, connection)
            await locks.release(connection, gid=context.gid)

    async def clear() -> None:
        await looked.wait()
        raise Refused("the cheque bounced")

    return Saga("cheque", step(credit, compensate=take_back, retry=PATIENT), step(clear))


def _payment(bank: Bank, locks: SemanticLocks, looked: asyncio.Event, guarded: bool) -> Saga:
    async def pay_out(request: int, context: StepContext) -> None:
        try:
            async with bank.pool.acquire() as connection, locks.taken(connection, gid=context.gid) as take:
                if await proceeds(connection, context):
                    if guarded:
                        await take("account")  # `Conflict` while another has it.
                    await _pay(bank, connection, request)
                    await locks.release(connection, gid=context.gid)
        finally:
            looked.set()

    return Saga("payment", step(pay_out, retry=PATIENT))


async def _pay(bank: Bank, connection: Any, amount: int) -> None:
    if await bank.balance() < amount:
        raise Refused("there is not enough on the account")
    await bank.add(-amount, connection)
