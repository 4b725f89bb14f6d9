"""What each answer of a real server means for a step."""

import asyncio
import email.utils
import json
import socket
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from coordinator.errors import (
    Disconnected,
    InDoubt,
    Misconfigured,
    Outdated,
    Overloaded,
    Refused,
    TurnedAway,
    Unavailable,
)
from participants.http import Delivery, Key, Verifier
from participants.http.answers import retry_after_s
from participants.http.service import Bounds, Service
from tests.integration.http.server import Answers, message, serving

KEY = Key("2026-11", b"s3cret-canary" * 4)
DELIVERY = Delivery(gid="unan-1", step="charge", direction="action", term=3)
HERE = ["127.0.0.1/32"]


def service(port, **options):
    return Service("payments", f"http://127.0.0.1:{port}", KEY, networks=HERE, **options)


async def asked(*planned, **options):
    """What is made of one answer: the body, or what is raised."""
    async with serving(app := Answers(*planned)) as port, service(port, **options) as payments:
        return await payments.send("/charge", b"{}", DELIVERY), app


REASON = b'{"reason": "no funds"}'


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (409, Refused),
        (400, TurnedAway), (401, TurnedAway), (404, TurnedAway), (413, TurnedAway), (422, TurnedAway),
        (451, TurnedAway), (412, Outdated),
        (425, Unavailable), (429, Overloaded), (503, InDoubt),
        (408, InDoubt), (500, InDoubt), (501, InDoubt), (502, InDoubt), (504, InDoubt), (599, InDoubt),
        (301, InDoubt), (302, InDoubt), (303, InDoubt), (307, InDoubt), (308, InDoubt), (304, InDoubt),
    ],
)  # fmt: skip
async def test_what_a_status_means(status, kind):
    with pytest.raises(kind) as raised:
        await asked((status, {}, b"" if status == 304 else REASON))
    assert type(raised.value) is kind
    assert raised.value.participant == "payments"
    if status != 304:
        assert str(raised.value) == f"payments answered {status}: no funds"


@pytest.mark.parametrize(("status", "body"), [(200, b'{"id": 1}'), (201, b"7"), (202, b"null"), (204, b"")])
async def test_every_2xx_is_done(status, body):
    found, _ = await asked((status, {}, body))
    assert found == body


async def test_requests_are_signed_and_say_what_they_are_about():
    _, app = await asked((200, {}, b"{}"))
    scope, body = app.requests[0]
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    now = datetime.now(tz=UTC).timestamp()
    assert Verifier([KEY]).verify("POST", "/charge", headers, body, now) == DELIVERY
    assert headers["idempotency-key"] == "unan-1:charge:action"
    assert headers["host"].startswith("127.0.0.1:")
    assert "cookie" not in headers


async def test_calls_of_a_service_reuse_its_connection_also_after_a_refusal():
    answers = Answers((200, {}, b"1"), (409, {}, REASON), (200, {}, b"3"))
    async with serving(answers) as port, service(port) as payments:
        await payments.send("/charge", b"{}", DELIVERY)
        with pytest.raises(Refused):
            await payments.send("/charge", b"{}", DELIVERY)
        await payments.send("/charge/undo", b"{}", DELIVERY)
    assert len({scope["client"] for scope, _ in answers.requests}) == 1


async def test_a_503_says_that_nothing_happened_only_where_it_says_when_to_come_again():
    """Without that it may be a proxy's word, whose connection to the service broke after the request was sent."""
    said = b"upstream connect error or disconnect/reset before headers. reset reason: connection termination"
    with pytest.raises(InDoubt):
        await asked((503, {}, said))
    with pytest.raises(Unavailable):
        await asked((503, {"retry-after": "0"}, REASON))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("7", 7.0), ("0", 0.0), ("99999999999", 300.0), ("-3", None), ("soon", None), ("1e3", None)],
)
async def test_retry_after_is_understood_and_bounded(value, seconds):
    with pytest.raises(Unavailable) as raised:
        await asked((503, {"Retry-After": value}, b""))
    assert raised.value.retry_after_s == seconds


async def test_retry_after_may_be_a_date():
    at = datetime(2026, 1, 1, tzinfo=UTC)
    date = email.utils.format_datetime(at + timedelta(seconds=40), usegmt=True)
    with pytest.raises(Overloaded) as raised:
        await asked((429, {"Retry-After": date}, b""), now=lambda: at)
    assert raised.value.retry_after_s == 40.0


@pytest.mark.parametrize(
    ("zone", "seconds"),
    [("GMT", 40.0), ("-0000", 40.0), ("+0000", 40.0), ("", 40.0), ("+0100", 0.0), ("+99999999999999999999", None)],
)
def test_the_zone_of_a_retry_after_is_understood_or_passed_over(zone, seconds):
    """A service that writes it otherwise than HTTP has it says what it means, or nothing; the answer is understood."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    assert retry_after_s(f"Thu, 01 Jan 2026 00:00:40 {zone}", at) == seconds


@pytest.mark.parametrize(
    "url", ["http://payments.internal", "http://8.8.8.8:8080", "http://10.1.2.3", "http://[fd12::1]"]
)
def test_a_service_elsewhere_is_not_called_without_tls_unless_somebody_says_so(url, caplog):
    """Its answers could be forged on the way: a payment would be taken for done."""
    with pytest.raises(Misconfigured, match="insecure=True"):
        Service("payments", url, KEY, networks=["10.0.0.0/8", "fd12::/16"])
    assert not caplog.records
    Service("payments", url, KEY, networks=["10.0.0.0/8", "fd12::/16"], insecure=True)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000", "http://[::1]:8000", "http://localhost:8000", "https://a.b"])
def test_this_machine_is_called_without_tls_and_https_is_no_warning(url, caplog):
    Service("payments", url, KEY, networks=["127.0.0.0/8", "::1/128"])
    assert not caplog.records


def test_whatever_a_service_is_asked_says_whose_it_is():
    """An action, its compensation, and the question what became of it: calls are counted by it."""
    payments = Service("payments", "https://payments.internal", KEY)
    asked = [payments.action("/charge"), payments.compensation("/charge/undo"), payments.status("/charge/status")]
    assert [each.participant for each in asked] == ["payments"] * 3
    assert [each.__name__ for each in asked] == ["charge", "undo", "status"]


async def test_where_nobody_listens_nothing_happened():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        async with service(bound.getsockname()[1]) as payments:
            with pytest.raises(Unavailable):
                await payments.send("/charge", b"{}", DELIVERY)


async def test_a_name_that_is_not_found_means_that_nothing_happened():
    async def fails(host, port):
        raise socket.gaierror(-2, "Name or service not known")

    async with Service("payments", "http://payments.internal", KEY, insecure=True, resolve=fails) as payments:
        with pytest.raises(Unavailable):
            await payments.send("/charge", b"{}", DELIVERY)


async def test_a_name_that_is_not_found_in_time_means_that_nothing_happened():
    async def hangs(host, port):
        await asyncio.sleep(60)

    bounds = Bounds(connect_s=0.2, answer_s=5.0)
    async with Service(
        "payments", "http://payments.internal", KEY, insecure=True, resolve=hangs, bounds=bounds
    ) as payments:
        with pytest.raises(Unavailable):
            await payments.send("/charge", b"{}", DELIVERY)


async def test_a_request_that_gets_no_connection_in_time_was_never_sent():
    """All that there may be are taken by calls that are not answered: of those nobody knows."""

    async def never():
        await asyncio.sleep(60)

    async with (
        serving(app := Answers((200, {}, never))) as port,
        service(port, bounds=Bounds(connections=2, connect_s=0.3, answer_s=2.0)) as payments,
    ):
        calls = (payments.send("/charge", b"{}", DELIVERY) for _ in range(3))
        told = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(each) for each in told] == [Disconnected, Disconnected, Unavailable]
    assert len(app.requests) == 2


async def test_no_answer_in_time_means_that_nobody_knows():
    async def never():
        await asyncio.sleep(60)

    with pytest.raises(Disconnected, match="has not answered"):
        await asked((200, {}, never), bounds=Bounds(answer_s=0.2))


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        b"not HTTP at all\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000 + b"\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["nothing", "half", "garbage", "long header", "bad chunk"],
)
async def test_a_connection_that_breaks_means_that_nobody_knows(answer):
    async def serve(reader, writer):
        await message(reader)  # What was not read when it is closed would be a reset, and not the answer.
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, service(server.sockets[0].getsockname()[1]) as payments:
        with pytest.raises(Disconnected):
            await payments.send("/charge", b"{}", DELIVERY)


@asynccontextmanager
async def closing(*planned):
    """The port of a server that ends a connection at its second request, and all requests.

    A second connection answers as planned; without a plan there is none.
    """
    requests, writers = [], []

    async def serve(reader, writer):
        writers.append(writer)
        while request := await message(reader):
            requests.append(request)
            if len(requests) == 2:
                if not planned:
                    server.close()
                break
            status, headers, body = (200, "", "{}") if len(requests) == 1 else planned[0]
            writer.write(f"HTTP/1.1 {status} X\r\n{headers}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1], requests
    server.close()
    for writer in writers:
        writer.close()


@pytest.mark.parametrize(
    ("planned", "kind"),
    [
        ([(200, "", "7")], None),
        ([(409, "", "{}")], Refused),
        ([(500, "", "{}")], InDoubt),
        ([(401, "", "{}")], Disconnected),
        ([(412, "", "{}")], Disconnected),
        ([(429, "", "{}")], Disconnected),
        ([(503, "Retry-After: 0\r\n", "{}")], Disconnected),
        ([], Disconnected),
    ],
    ids=lambda each: str(each[0][0]) if isinstance(each, list) and each else "",
)
async def test_a_connection_that_ends_between_two_requests_is_no_doubt_about_the_second(planned, kind):
    """It is sent once more; what is answered then says nothing of the first time, unless it is the step's own."""
    second = replace(DELIVERY, gid="unan-2")
    async with closing(*planned) as (port, requests), service(port) as payments:
        await payments.send("/charge", b"{}", DELIVERY)
        if kind is None:
            assert await payments.send("/charge", b"{}", second) == b"7"
        else:
            with pytest.raises(kind) as raised:
                await payments.send("/charge", b"{}", second)
            assert type(raised.value) is kind
    assert requests[1:] == [requests[1]] * (2 if planned else 1), "the very same, with its idempotency key"


async def test_a_connection_that_ends_at_its_first_request_is_not_tried_again():
    """It had not been idle: the server has met this request, and may have done it."""
    met = []

    async def serve(reader, writer):
        met.append(await message(reader))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, service(server.sockets[0].getsockname()[1]) as payments:
        with pytest.raises(Disconnected):
            await payments.send("/charge", b"{}", DELIVERY)
    assert len(met) == 1


async def test_an_answer_without_end_is_cut_off_and_a_packed_one_is_not_unpacked():
    with pytest.raises(Disconnected):
        await asked((200, {}, b"x" * 3_000), bounds=Bounds(body_bytes=2_000))
    packed, _ = await asked((200, {"Content-Encoding": "gzip"}, b"\x1f\x8b-not-unpacked"))
    assert packed == b"\x1f\x8b-not-unpacked"


async def test_a_request_that_is_too_long_is_not_sent():
    bounds = Bounds(body_bytes=10)
    async with serving(app := Answers((200, {}, b"{}"))) as port, service(port, bounds=bounds) as payments:
        with pytest.raises(Refused, match="10 bytes"):
            await payments.send("/charge", b"x" * 11, DELIVERY)
    assert app.requests == []


async def test_connections_are_used_again():
    async with serving(app := Answers((200, {}, b"{}"))) as port, service(port) as payments:
        for _ in range(5):
            await payments.send("/charge", b"{}", DELIVERY)
    assert len({scope["client"] for scope, _ in app.requests}) == 1


async def test_a_secret_stands_in_no_error_log_or_text(caplog):
    caplog.set_level("DEBUG")
    body = json.dumps({"reason": "x\n\x1b[31m"}).encode()
    async with serving(Answers((409, {}, body))) as port, service(port) as payments:
        with pytest.raises(Refused) as raised:
            await payments.send("/charge", b"{}", DELIVERY)
        shown = repr(raised.value) + repr(payments) + repr(vars(payments)) + caplog.text
    assert "s3cret-canary" not in shown
    assert "\x1b" not in str(raised.value)
    assert "\n" not in str(raised.value)
