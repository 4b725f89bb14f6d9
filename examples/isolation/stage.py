"""What the examples share: a table with one account behind a barrier, and sagas whose log is in memory."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from coordinator import Coordinator, Refused
from coordinator.sagas import Attempts, Saga, StepContext
from participants.barrier import Barrier, Call, Direction, Verdict

PATIENT = Attempts(at_most=50, backoff_s=0.02, backoff_max_s=0.1)
_BARRIER = Barrier("account")


async def proceeds(connection: Any, context: StepContext) -> bool:
    """Whether this delivery is the one that has the step's effect, or undoes it: on its open transaction.

    An attempt whose answer was lost comes again, and finds what it has changed itself. Only the barrier tells that
    apart from what others have changed.
    """
    undoes = context.direction == "compensation"
    call = Call(context.gid, context.step, Direction.COMPENSATION if undoes else Direction.ACTION, term=context.term)
    verdict = (await _BARRIER.enter(connection, call)).verdict
    if verdict is Verdict.TOO_LATE:
        raise Refused("it was undone before it came")
    return verdict is Verdict.PROCEED


class Bank:
    """One account, with a version that every change raises."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool

    async def balance(self) -> int:
        """What is on the account."""
        return int(await self.pool.fetchval("SELECT balance FROM account"))

    async def add(self, amount: int, connection: Any = None) -> None:
        """Change the balance by *amount*: a commutative update, in whatever order others change it."""
        change = "UPDATE account SET balance = balance + $1, version = version + 1"
        await (connection or self.pool).execute(change, amount)

    async def put(self, balance: int, connection: Any = None) -> None:
        """Set the balance to what somebody has worked out from an earlier one."""
        await (connection or self.pool).execute("UPDATE account SET balance = $1, version = version + 1", balance)


@asynccontextmanager
async def opened(url: str, balance: int) -> AsyncIterator[Bank]:
    """The bank in the database at *url*, with a new account."""
    async with asyncpg.create_pool(url, min_size=1, max_size=4) as pool:
        await pool.execute("DROP TABLE IF EXISTS account")
        await pool.execute("CREATE TABLE account (balance int NOT NULL, version int NOT NULL DEFAULT 1)")
        await pool.execute("INSERT INTO account VALUES ($1)", balance)
        async with pool.acquire() as connection:
            await _BARRIER.create(connection)
        yield Bank(pool)


@asynccontextmanager
async def coordinated(name: str, *sagas: Saga) -> AsyncIterator[Coordinator]:
    """A coordinator of *sagas*. (In earnest its journal is a database's URL.)"""
    async with Coordinator(journal=f"memory://{name}", sagas=sagas) as coordinator:
        yield coordinator
