"""Try, confirm and cancel over HTTP: four endpoints of a service, as the functions that `participants.tcc.Tcc` takes.

    stock = Tcc(**reservations(warehouse, "/reservation"))

`/reservation/try` is posted what is to be reserved, and answers as an action does. `/reservation/confirm` and
`/reservation/cancel` are posted nothing but the headers, until they answer 2xx: with an empty body (or `{}`) where it
is so now, and `{"ended": "committed"}` or `{"ended": "aborted"}` where it had ended the other way before.
`/reservation/pending` is posted `{"prefix": "unan:", "limit": 10000}`, and answers with so many at most of what is
reserved and not finished, of gids that begin so, the oldest first: `{"pending": [{"gid": ..., "age_s": ...}]}`.

The step of each request is the name that the participant is registered by: one transaction may have several of one
service, and a reservation is found by gid and step. What is pending is asked of one step, too.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from coordinator import limits
from coordinator.errors import InDoubt
from coordinator.protocol.model import Ending
from participants.http.addresses import checked_path
from participants.http.service import Service
from participants.http.signing import Delivery

_LISTED_MAX = 10_000
# A service that lists all that it has, whatever it is asked for, is read all the same up to here.
_LISTING_BYTES_MAX = 16 * limits.HTTP_BODY_BYTES_MAX
_ENDED = {"committed": Ending.COMMITTED, "aborted": Ending.ABORTED}


class _Ended(BaseModel):
    ended: str | None = None


class _Reserved(BaseModel):
    gid: str
    age_s: float


class _Pending(BaseModel):
    pending: list[_Reserved]


def reservations(service: Service, path: str) -> dict[str, Callable[..., Awaitable[Any]]]:
    """The arguments of a `Tcc` whose endpoints are below *path* of *service*."""
    base = checked_path(path).rstrip("/")

    async def attempt(gid: str, what: Any, branch: str) -> None:
        delivery = Delivery(gid=gid, step=branch, direction="try", term=1)
        await service.send(f"{base}/try", to_json(what), delivery)

    async def confirm(gid: str, term: int, branch: str) -> Ending | None:
        delivery = Delivery(gid=gid, step=branch, direction="confirm", term=term)
        return _ended(await service.send(f"{base}/confirm", b"", delivery))

    async def cancel(gid: str, term: int, branch: str) -> Ending | None:
        delivery = Delivery(gid=gid, step=branch, direction="cancel", term=term)
        return _ended(await service.send(f"{base}/cancel", b"", delivery))

    async def pending(branch: str, prefix: str) -> list[tuple[str, float]]:
        delivery = Delivery(gid="none", step=branch, direction="status", term=1)
        asked = to_json({"prefix": prefix, "limit": _LISTED_MAX})
        listing = await service.send(f"{base}/pending", asked, delivery, answer_bytes=_LISTING_BYTES_MAX)
        told = _read(_Pending, listing)
        return [(each.gid, each.age_s) for each in told.pending]

    return {"attempt": attempt, "confirm": confirm, "cancel": cancel, "pending": pending}


def _ended(body: bytes) -> Ending | None:
    if not body:
        return None
    said = _read(_Ended, body).ended
    if said is not None and said not in _ENDED:
        raise InDoubt(f"it ended as {said[:40]!r}, which nobody understands")
    return _ENDED[said] if said is not None else None


def _read(model: type[Any], body: bytes) -> Any:
    try:
        return model.model_validate_json(body)
    except ValidationError:
        raise InDoubt("the answer about a reservation cannot be read") from None
