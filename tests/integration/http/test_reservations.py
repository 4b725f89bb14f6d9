"""What a service's answers about a reservation mean for the transaction, and what it is asked then."""

import json
import os
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from coordinator import Coordinator, CoordinatorError, Refused, Unavailable
from coordinator.errors import Outdated
from coordinator.gids import new_gid
from examples.social_post.observer import until
from participants.http import Key, Verifier
from participants.http.reservations import reservations
from participants.http.service import Service
from participants.tcc import Tcc
from tests.integration.http.server import Answers, serving

KEY = Key("stock", b"s" * 32)
NOW = datetime(2026, 11, 1, tzinfo=UTC)
OK, REASON = (200, {}, b"{}"), b'{"reason": "sold out"}'


class Stock(Answers):
    """Has nothing pending whenever it is asked for that; what else it is asked has its planned answers."""

    async def __call__(self, scope, receive, send):
        if scope["path"] == "/r/pending":
            await Answers((200, {}, b'{"pending": []}'))(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    @property
    def asked(self):
        """The last part of each path, in order."""
        return [scope["path"].rpartition("/")[2] for scope, _ in self.requests]


@asynccontextmanager
async def stock(*answers):
    """A coordinator whose only participant is a service that answers so; and what it was sent."""
    async with (
        serving(app := Stock(*answers)) as port,
        Service("warehouse", f"http://127.0.0.1:{port}", KEY, networks=["127.0.0.1/32"]) as service,
        Coordinator(
            journal=f"memory://{os.urandom(4).hex()}", participants={"stock": Tcc(**reservations(service, "/r"))}
        ) as coordinator,
    ):
        yield coordinator, app


async def reserve(coordinator, **options):
    async with coordinator.transaction("order", **options) as transaction:
        (await transaction.enlist("stock")).reserve({"item": "apple"})


async def test_a_transaction_is_tried_and_confirmed_by_signed_requests():
    async with stock(OK) as (coordinator, app):
        await reserve(coordinator)
    assert app.asked == ["try", "confirm"]
    for (scope, body), direction in zip(app.requests, ("try", "confirm"), strict=True):
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        delivery = Verifier([KEY]).verify("POST", scope["path"], headers, body, time.time())
        assert (delivery.step, delivery.direction) == ("stock", direction)
        assert headers["idempotency-key"] == f"{delivery.gid}:stock:{direction}"
    assert [body for _, body in app.requests] == [b'{"item":"apple"}', b""]


@pytest.mark.parametrize(
    ("answer", "kind", "then"),
    [
        ((409, {}, REASON), Refused, []),
        ((422, {}, REASON), Refused, []),
        ((412, {}, REASON), Outdated, []),
        ((503, {"Retry-After": "0"}, REASON), Unavailable, []),
        ((503, {}, REASON), CoordinatorError, ["cancel"]),
        ((429, {}, REASON), Unavailable, []),
        ((500, {}, REASON), CoordinatorError, ["cancel"]),
        ((302, {"Location": "/elsewhere"}, b""), CoordinatorError, ["cancel"]),
    ],
    ids=lambda each: str(each[0]) if isinstance(each, tuple) else "",
)
async def test_a_try_that_is_not_done_aborts_and_only_what_nobody_knows_is_cancelled(answer, kind, then):
    async with stock(answer, OK) as (coordinator, app):
        with pytest.raises(kind) as raised:
            await reserve(coordinator)
    assert isinstance(raised.value, CoordinatorError)
    if answer[2]:
        assert "sold out" in str(raised.value)
    assert app.asked == ["try", *then]


@pytest.mark.parametrize(
    "answer",
    [(409, {}, REASON), (412, {}, REASON), (500, {}, REASON), (200, {}, b'{"ended": "maybe"}'), (200, {}, b"x")],
)
async def test_a_confirmation_is_asked_for_until_it_is_answered(answer):
    """A service may not refuse it, nor answer what nobody understands."""
    async with stock(OK, answer, answer, OK) as (coordinator, app):
        await reserve(coordinator)
    assert app.asked == ["try", "confirm", "confirm", "confirm"]
    keys = {dict(scope["headers"])[b"idempotency-key"] for scope, _ in app.requests[1:]}
    assert len(keys) == 1


async def test_what_is_owed_is_not_asked_for_before_the_service_wants_to_be_asked():
    """Its `Retry-After` counts for a confirmation as for a step."""
    async with stock(OK, (503, {"Retry-After": "1"}, b""), (429, {"Retry-After": "1"}, b""), OK) as (coordinator, app):
        began_s = time.monotonic()
        await reserve(coordinator)
        assert time.monotonic() - began_s >= 2.0
    assert app.asked == ["try", "confirm", "confirm", "confirm"]


async def test_a_service_that_lists_everything_is_read_all_the_same():
    """20,000 reservations are more bytes than any other answer may have."""
    listing = json.dumps(
        {"pending": [{"gid": new_gid("unan", NOW, bytes([n % 256] * 16)), "age_s": n} for n in range(20_000)]}
    )
    async with (
        serving(app := Answers((200, {}, listing.encode()))) as port,
        Service("warehouse", f"http://127.0.0.1:{port}", KEY, networks=["127.0.0.1/32"]) as service,
    ):
        assert len(listing) > service.bounds.body_bytes
        assert len(await reservations(service, "/r")["pending"](branch="stock", prefix="unan:")) == 20_000
    ((scope, body),) = app.requests
    assert (scope["path"], json.loads(body)) == ("/r/pending", {"prefix": "unan:", "limit": 10_000})
    assert dict(scope["headers"])[b"unanimity-step"] == b"stock"


async def test_a_confirmation_that_meets_a_cancellation_is_told_to_people():
    """Somebody at the service had cancelled what had promised: what was decided stands, and there is an alert."""
    async with stock(OK, (200, {}, b'{"ended": "aborted"}')) as (coordinator, app):
        await reserve(coordinator)
        alerts = coordinator.engine.driver.performer.alerts

        async def told():
            return await alerts.open_alerts()

        assert await until(told, 10.0) is not None
        (alert,) = await alerts.open_alerts()
    assert (alert.kind, "stock aborted" in alert.detail) == ("heuristic", True)
    assert app.asked == ["try", "confirm"]
