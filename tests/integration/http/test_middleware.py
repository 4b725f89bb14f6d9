"""What the middleware lets through, and what it turns away before the application sees anything of it."""

import asyncio
import json
import time
from urllib.parse import unquote

import aiohttp
import pytest

from coordinator.errors import Refused
from participants.http import Delivery, Key, SignedRequests, Verifier, delivery_of
from participants.http.signing import signed_headers
from tests.integration.http.server import serving, whole

KEY = Key("k", b"s" * 32)
DELIVERY = Delivery(gid="g", step="s", direction="action")


class Application:
    """Answers with what it was given."""

    def __init__(self):
        self.seen = []

    async def __call__(self, scope, receive, send):
        body = await whole(receive)
        try:
            self.seen.append((delivery_of(scope), body))
        except Refused:
            self.seen.append((None, body))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


async def post(body, *, headers=None, path="/charge", **options):
    """Send *body* signed, with more *headers*; the status, the reason, and what the application saw."""
    app = Application()
    guarded = SignedRequests(app, Verifier([KEY]), **options)
    async with serving(guarded) as port, aiohttp.ClientSession() as session:
        signed = list(signed_headers(KEY, DELIVERY, "POST", path, body, int(time.time())).items())
        url = f"http://127.0.0.1:{port}{path}"
        async with session.post(url, data=body, headers=[*signed, *(headers or [])]) as answer:
            told = json.loads(await answer.read())
            return answer.status, told.get("reason", ""), app.seen


async def test_a_signed_request_is_let_in_with_its_body_and_what_it_is_about():
    status, _, seen = await post(b'{"amount": 5}', path="/charge?currency=EUR%20x")
    assert status == 200
    assert seen == [(DELIVERY, b'{"amount": 5}')]


async def test_behind_a_proxy_that_strips_a_prefix_the_server_puts_it_back():
    """What was signed is the whole path; and so are the paths that are open."""
    guarded = SignedRequests(Application(), Verifier([KEY]), open_paths=["/api/health"])
    signed = signed_headers(KEY, DELIVERY, "POST", "/api/charge", b"{}", int(time.time()))
    async with serving(guarded, root_path="/api") as port, aiohttp.ClientSession() as session:
        async with session.post(f"http://127.0.0.1:{port}/charge", data=b"{}", headers=signed) as answer:
            assert answer.status == 200
        async with session.get(f"http://127.0.0.1:{port}/health") as answer:
            assert answer.status == 200


@pytest.mark.parametrize("header", ["Unanimity-Gid", "Unanimity-Direction", "Idempotency-Key", "Unanimity-Signature"])
async def test_a_header_of_ours_that_is_there_twice_is_turned_away(header):
    """Another reader of the request might take the other one."""
    signed = signed_headers(KEY, DELIVERY, "POST", "/charge", b"", int(time.time()))
    lines = [f"{name}: {value}" for name, value in signed.items()]
    for doubled in ([f"{header}: other", *lines], [*lines, f"{header}: {signed[header.lower()]}"]):
        async with serving(SignedRequests(app := Application(), Verifier([KEY]))) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            head = "\r\n".join(["POST /charge HTTP/1.1", "Host: x", "Connection: close", *doubled, "", ""])
            writer.write(head.encode())
            answer = await reader.read()
            writer.close()
        assert b" 401 " in answer.splitlines()[0]
        assert b"twice" in answer
        assert app.seen == []


async def test_what_is_too_long_packed_or_deep_is_turned_away():
    assert (await post(b"x" * 101, body_bytes=100))[::2] == (413, [])
    assert (await post(b"{}", headers=[("Content-Encoding", "gzip")]))[::2] == (415, [])
    assert (await post(b"[" * 33))[::2] == (400, [])
    assert (await post(b"[" * 33 + b"]" * 33))[::2] == (400, [])
    assert (await post(b'{"a": ' * 33))[::2] == (400, [])


async def test_what_only_looks_deep_is_let_in():
    flat = json.dumps({"text": "[[{{" * 50 + '\\"[', "list": [{"a": 1}] * 50}).encode()
    assert (await post(flat))[0] == 200
    assert (await post(b"[" * 32 + b"]" * 32))[0] == 200


async def test_a_body_that_comes_too_slowly_is_not_waited_for():
    guarded = SignedRequests(app := Application(), Verifier([KEY]), read_s=0.2)
    async with serving(guarded) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /charge HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
        async with asyncio.timeout(10):
            assert b" 408 " in await reader.readline()
        writer.close()
    assert app.seen == []


async def test_an_open_path_is_open_and_tells_nothing_of_a_delivery():
    app = Application()
    guarded = SignedRequests(app, Verifier([KEY]), open_paths=["/health"])
    async with serving(guarded) as port, aiohttp.ClientSession() as session:
        for path, status in (("/health", 200), ("/health/", 401), ("/other", 401)):
            async with session.get(f"http://127.0.0.1:{port}{path}") as answer:
                assert answer.status == status, path
    assert app.seen == [(None, b"")]


@pytest.mark.parametrize("path", ["/charge", "/a%20b/%C3%A4?c=%20", "/v1/a:b@c;d=(e)*!$&'+,=~"])
@pytest.mark.parametrize("told", ["raw_path", "nothing"])
async def test_a_server_may_leave_the_raw_path_out(path, told):
    """It is optional in ASGI; what was signed is made out of the path then."""
    app, answers = Application(), []
    path_only, _, query = path.partition("?")
    scope = {"type": "http", "method": "POST", "path": unquote(path_only), "query_string": query.encode()}
    signed = signed_headers(KEY, DELIVERY, "POST", path, b"{}", int(time.time()))
    scope["headers"] = [(name.encode(), value.encode()) for name, value in signed.items()]
    if told == "raw_path":
        scope["raw_path"] = path_only.encode()

    async def receive():
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message):
        answers.append(message)

    await SignedRequests(app, Verifier([KEY]))(scope, receive, send)
    assert answers[0]["status"] == 200
    assert app.seen == [(DELIVERY, b"{}")]
