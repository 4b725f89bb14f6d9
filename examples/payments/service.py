"""Accounts that are charged by sagas: `/charge`, and `/charge/undo` for what was charged. `/reservation` is for TCC."""

import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from fastapi import FastAPI, Request, Response

from examples.payments import holds
from examples.payments.guarded import Money, guarded, take
from participants.barrier import Barrier, Call, Direction
from participants.http import Key, SignedRequests, Verifier

TABLES = """
    CREATE TABLE IF NOT EXISTS accounts (name text PRIMARY KEY, balance bigint NOT NULL CHECK (balance >= 0));
    CREATE TABLE IF NOT EXISTS charges (
        id uuid PRIMARY KEY, gid text NOT NULL, step text NOT NULL, account text NOT NULL, amount bigint NOT NULL
    );
"""


async def charge(connection: Any, call: Call, told: Money) -> dict[str, Any]:
    """Take the money, if it is there."""
    await take(connection, told)
    identifier = uuid.uuid4()
    await connection.execute(
        "INSERT INTO charges VALUES ($1, $2, $3, $4, $5)", identifier, call.gid, call.step, told.account, told.amount
    )
    return {"charge": str(identifier)}


async def refund(connection: Any, call: Call, told: Money) -> dict[str, Any]:
    """Give back what this step has charged, to whom it was charged: the books know that, not who asks."""
    await connection.execute(
        "WITH undone AS (DELETE FROM charges WHERE gid = $1 AND step = $2 RETURNING account, amount) "
        "UPDATE accounts SET balance = balance + undone.amount FROM undone WHERE name = undone.account",
        call.gid, call.step,
    )  # fmt: skip
    return {}


def create_app(database: str, keys: Iterable[Key]) -> FastAPI:
    """The service on the PostgreSQL at *database*, for the coordinators that have one of *keys*."""
    barrier = Barrier("payments")
    pools: list[asyncpg.Pool] = []

    @asynccontextmanager
    async def connected(app: FastAPI) -> AsyncIterator[None]:
        async with asyncpg.create_pool(database, min_size=1, max_size=10) as pool:
            async with pool.acquire() as connection:
                await barrier.create(connection)
                await connection.execute(TABLES + holds.TABLE)
            pools[:] = [pool]
            yield

    app = FastAPI(title="payments", lifespan=connected)
    app.add_middleware(SignedRequests, verifier=Verifier(keys), open_paths=["/health", "/effects"])

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "up"}

    @app.get("/effects")
    async def effects(gid: str) -> int:
        """For the contract test: what stands of a transaction."""
        return int(await pools[0].fetchval("SELECT count(*) FROM charges WHERE gid = $1", gid))

    @app.post("/charge")
    async def charge_endpoint(request: Request) -> Response:
        return await guarded(request, pools[0], barrier, Direction.ACTION, Money, charge)

    @app.post("/charge/undo")
    async def undo_endpoint(request: Request) -> Response:
        return await guarded(request, pools[0], barrier, Direction.COMPENSATION, Money, refund)

    holds.add_endpoints(app, lambda: pools[0], barrier)
    return app
