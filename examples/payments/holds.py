"""Money that is held for a transaction (try), and then charged (confirm) or given back (cancel), below `/reservation`.

A held amount is neither the account's nor the shop's: it has left the balance, and is no charge yet.
"""

import uuid
from collections.abc import Callable
from typing import Any

import asyncpg
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, Field

from examples.payments.guarded import Money, Nothing, guarded, take
from participants.barrier import Barrier, Call, Direction
from participants.http import delivery_of

TABLE = """
    CREATE TABLE IF NOT EXISTS holds (
        id uuid PRIMARY KEY, gid text NOT NULL, step text NOT NULL, account text NOT NULL, amount bigint NOT NULL,
        at timestamptz NOT NULL DEFAULT now()
    );
"""


class Listing(BaseModel):
    """Which holds are listed: those of gids that begin so, the oldest first."""

    prefix: str = ""
    limit: int = Field(default=10_000, gt=0, le=10_000)


async def hold(connection: Any, call: Call, told: Money) -> dict[str, Any]:
    """Take the money out of the account, if it is there."""
    await take(connection, told)
    await connection.execute(
        "INSERT INTO holds VALUES ($1, $2, $3, $4, $5)",
        uuid.uuid4(), call.gid, call.step, told.account, told.amount,
    )  # fmt: skip
    return {}


async def charge_held(connection: Any, call: Call, told: Nothing) -> dict[str, Any]:
    """Charge what was held."""
    await connection.execute(
        "WITH held AS (DELETE FROM holds WHERE gid = $1 AND step = $2 RETURNING id, gid, step, account, amount) "
        "INSERT INTO charges SELECT * FROM held",
        call.gid, call.step,
    )  # fmt: skip
    return {}


async def give_back(connection: Any, call: Call, told: Nothing) -> dict[str, Any]:
    """Put what was held back into the account."""
    await connection.execute(
        "WITH held AS (DELETE FROM holds WHERE gid = $1 AND step = $2 RETURNING account, amount) "
        "UPDATE accounts SET balance = balance + held.amount FROM held WHERE name = held.account",
        call.gid, call.step,
    )  # fmt: skip
    return {}


def add_endpoints(app: FastAPI, pool: Callable[[], asyncpg.Pool], barrier: Barrier) -> None:
    """The four endpoints that `participants.http.reservations` calls."""

    @app.post("/reservation/try")
    async def try_endpoint(request: Request) -> Response:
        return await guarded(request, pool(), barrier, Direction.TRY, Money, hold)

    @app.post("/reservation/confirm")
    async def confirm_endpoint(request: Request) -> Response:
        return await guarded(request, pool(), barrier, Direction.CONFIRM, Nothing, charge_held)

    @app.post("/reservation/cancel")
    async def cancel_endpoint(request: Request) -> Response:
        return await guarded(request, pool(), barrier, Direction.CANCEL, Nothing, give_back)

    @app.post("/reservation/pending")
    async def pending_endpoint(request: Request, asked: Listing | None = None) -> dict[str, Any]:
        """What is held for the step that asks, and not ended: for a coordinator, since only it may know."""
        step = delivery_of(request.scope).step
        asked = asked or Listing()
        rows = await pool().fetch(
            "SELECT gid, extract(epoch FROM now() - at)::float8 AS age_s FROM holds "
            "WHERE step = $1 AND starts_with(gid, $2) ORDER BY at LIMIT $3",
            step, asked.prefix, asked.limit,
        )  # fmt: skip
        return {"pending": [dict(row) for row in rows]}
