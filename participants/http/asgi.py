"""A middleware for any ASGI application (FastAPI, Starlette, Litestar, ...): only the coordinator's requests get in.

    app.add_middleware(SignedRequests, verifier=Verifier([key]))

    @app.post("/charge")
    async def charge(request: Request): ...  delivery_of(request.scope)

The body is read before anything of the application runs, within bounds of time, size and depth.
"""

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import quote

from coordinator.errors import InvalidDefinition
from participants.http.signing import SIGNED, Delivery, Forged, Verifier

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_DELIVERY = "unanimity.delivery"
_IN_PATHS = "/~!$&'()*+,;=:@"
"""What stands in a path as it is (RFC 3986, section 3.3), besides letters, digits and -._"""
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)


class _Rejected(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class SignedRequests:
    """Lets in what *verifier* knows, and whatever is sent to one of the *open_paths*; answers 401 to the rest."""

    def __init__(
        self,
        app: Application,
        verifier: Verifier,
        *,
        open_paths: Iterable[str] = (),
        body_bytes: int = 1024 * 1024,
        read_s: float = 10.0,
        depth: int = 32,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._app, self._verifier, self._now = app, verifier, now
        self._open = frozenset(open_paths)
        self._body_bytes, self._read_s, self._depth = body_bytes, read_s, depth

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan" or (scope["type"] == "http" and scope["path"] in self._open):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            headers = _headers(scope)
            body = await self._body(headers, receive)
            scope[_DELIVERY] = self._verifier.verify(scope["method"], _path(scope), headers, body, self._now())
            self._refuse_deep(body)
        except Forged as forged:
            await _answer(send, 401, str(forged))
        except _Rejected as rejected:
            await _answer(send, rejected.status, str(rejected))
        else:
            await self._app(scope, _replay(body, receive), send)

    def _refuse_deep(self, body: bytes) -> None:
        if _deeper(body, self._depth):
            raise _Rejected(400, f"the body is nested deeper than {self._depth}")

    async def _body(self, headers: MutableMapping[str, str], receive: Receive) -> bytes:
        if headers.get("content-encoding", "identity") != "identity":
            raise _Rejected(415, "a packed body is not unpacked")
        body = bytearray()
        try:
            async with asyncio.timeout(self._read_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Rejected(400, "the request ended in the middle")
                    body += message.get("body", b"")
                    if len(body) > self._body_bytes:
                        raise _Rejected(413, f"a body has {self._body_bytes} bytes at most")
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            raise _Rejected(408, "the body was not sent in time") from None


def delivery_of(scope: Scope) -> Delivery:
    """What the request that *scope* belongs to is about. Raises `InvalidDefinition` where the middleware is missing."""
    found = scope.get(_DELIVERY)
    if not isinstance(found, Delivery):
        raise InvalidDefinition(
            "nobody has verified this request: the application has no SignedRequests, or the path is open"
        )
    return found


def _headers(scope: Scope) -> MutableMapping[str, str]:
    """By name; one of ours that is there twice would be read differently by others."""
    headers: dict[str, str] = {}
    for raw, value in scope["headers"]:
        name = raw.decode("latin-1").lower()
        if name in headers and name in SIGNED:
            raise Forged(f"the request has the header {name} twice")
        headers[name] = value.decode("latin-1")
    return headers


def _path(scope: Scope) -> str:
    """As it was sent, with its query; or as it would have been, where the server does not say, as ASGI lets it.

    (What was sent is not known then of a path with %2F in it, say: such a request is not let in.)
    """
    raw = scope.get("raw_path")
    path = quote(scope["path"], safe=_IN_PATHS) if raw is None else raw.decode("latin-1")
    query = scope.get("query_string", b"").decode("latin-1")
    return f"{path}?{query}" if query else path


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _deeper(body: bytes, most: int) -> bool:
    if body.count(b"[") + body.count(b"{") <= most:
        return False
    depth = 0
    for bracket in re.findall(rb"[\[\]{}]", _STRINGS.sub(b"", body)):
        depth += 1 if bracket in b"[{" else -1
        if depth > most:
            return True
    return False


async def _answer(send: Send, status: int, reason: str) -> None:
    body = json.dumps({"reason": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
