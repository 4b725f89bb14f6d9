"""One delivery, one transaction: the barrier, the effect and the answer that its duplicates get."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
from fastapi import Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, ValidationError

from coordinator import InDoubt, InvalidDefinition, KeyReused, Refused, Replaced, Unavailable
from participants.barrier import Barrier, Call, Direction, Verdict
from participants.http import delivery_of

# What it writes is of the call's gid and step: one transaction may have several steps here.
Effect = Callable[[asyncpg.Connection, Call, Any], Awaitable[dict[str, Any]]]
# How a reservation had ended that is asked to end the other way: the coordinator is to hear it, not to ask again.
_HAD_ENDED = {Direction.CONFIRM: {"ended": "aborted"}, Direction.CANCEL: {"ended": "committed"}}
_TRY_AGAIN = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError, asyncpg.TooManyConnectionsError, Unavailable)


class Money(BaseModel):
    """How much of whose: what the tables take, so that anything else is a 422 and no failure of the service."""

    account: str = Field(pattern=r"^[^\x00]+$")
    amount: int = Field(gt=0, le=10**12)


class Nothing(BaseModel):
    """What a confirmation and a cancellation are sent: their headers say it all."""


class No(Exception):
    """The effect cannot be had, and cannot be had later either: the step is refused."""


async def take(connection: Any, told: Money) -> None:
    """Take money out of an account. Raises `No` where it has not that much."""
    taken = await connection.execute(
        "UPDATE accounts SET balance = balance - $2 WHERE name = $1 AND balance >= $2", told.account, told.amount
    )
    if taken == "UPDATE 0":
        raise No("the account has not that much")


async def guarded(
    request: Request, pool: asyncpg.Pool, barrier: Barrier, direction: Direction, model: type[BaseModel], effect: Effect
) -> Response:
    """Have *effect* at most once for the request's step, and answer as the coordinator understands it."""
    delivery = delivery_of(request.scope)
    if delivery.direction != direction:
        return _says(400, f"this is the path of a {direction}")
    body = await request.body()
    try:
        told = model.model_validate_json(body or b"{}")
    except ValidationError as invalid:
        return _says(422, f"{invalid.error_count()} values are wrong")
    call = Call(delivery.gid, delivery.step, direction, body, delivery.term)
    try:
        async with pool.acquire() as connection, connection.transaction():
            return await _pass(connection, barrier, call, told, effect)
    except KeyReused as reused:
        return _says(422, str(reused))
    except Replaced as outdated:  # Not 409: whoever has the higher term may have had the effect.
        return _says(412, str(outdated))
    except InvalidDefinition as wrong:  # Ours, not the step's: 409 would say that it was never done.
        return _says(400, str(wrong))
    except Refused as refused:
        return _says(409, str(refused))
    except InDoubt as doubt:  # Nothing else says "ask again, and then ask a person".
        return _says(500, str(doubt))
    except _TRY_AGAIN:
        return JSONResponse({"reason": "another transaction was in the way"}, 503, {"Retry-After": "0"})


async def _pass(connection: Any, barrier: Barrier, call: Call, told: Any, effect: Effect) -> Response:
    passage = await barrier.enter(connection, call)
    match passage.verdict:
        case Verdict.TOO_LATE:
            if ended := _HAD_ENDED.get(call.direction):
                return JSONResponse(ended)
            return _says(409, "it was undone before")
        case Verdict.NOTHING_TO_UNDO:
            return JSONResponse({})
        case Verdict.DUPLICATE:
            return JSONResponse(json.loads(passage.result or b"{}"), 409 if passage.refused else 200)
    try:
        async with connection.transaction():
            answer = await effect(connection, call, told)
    except No as no:
        answer = {"reason": str(no)}
        await barrier.keep(connection, call, json.dumps(answer).encode(), refused=True)
        return JSONResponse(answer, 409)
    await barrier.keep(connection, call, json.dumps(answer).encode())
    return JSONResponse(answer)


def _says(status: int, reason: str) -> Response:
    return JSONResponse({"reason": reason}, status)
