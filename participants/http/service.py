"""A service in any language, whose endpoints are steps of sagas.

    payments = Service("payments", "https://payments.internal:8443", Key("2026-11", secret), networks=["10.0.0.0/8"])

    def charge_of(request: Order, reserve: Reservation) -> Charge:
        return Charge(amount=request.amount, reservation=reserve.id)

    checkout = Saga(
        "checkout",
        step(reserve, compensate=release),
        step(payments.action("/charge", charge_of, output=Receipt), compensate=payments.compensation("/charge/undo")),
    )

The body of a request is what the function given with it makes of the saga's input and earlier outputs, or the saga's
input where none is given. Its answer is the step's output.
"""

import inspect
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from ssl import SSLContext
from types import TracebackType
from typing import Any, Self, get_type_hints
from urllib.parse import unquote

import aiohttp
from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json
from yarl import URL

from coordinator import limits
from coordinator.errors import Disconnected, InDoubt, InvalidDefinition, Misconfigured, TurnedAway, Unavailable
from coordinator.sagas.steps import CONTEXT, REQUEST, StepContext
from coordinator.telemetry.context import current_headers
from participants.http.addresses import Allowed, Origin, checked_path
from participants.http.answers import failure_of
from participants.http.bodies import body_of
from participants.http.connections import Resolve, Sent, open_session, refuse_literal, why_unreached
from participants.http.signing import Delivery, Key, signed_headers

logger = logging.getLogger(__name__)

Body = Callable[..., Any]
Step = Callable[..., Awaitable[Any]]
_CHUNK_BYTES = 64 * 1024
_ENDED = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)
"""What a connection raises that ends before an answer."""


def _wall_clock() -> datetime:
    return datetime.now(tz=UTC)  # noqa: TID251 - the time that is signed is the wall clock's.


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much of a service's time, connections and bytes is borne.

    *connect_s*: to get a connection, one of the *connections* that there may be: its name, its handshake and the wait
    for it. *answer_s*: for a whole call; and again for one that is sent a second time, since its connection had carried
    others and ended before an answer.
    """

    connect_s: float = 3.0
    answer_s: float = 10.0
    connections: int = 100
    body_bytes: int = limits.HTTP_BODY_BYTES_MAX


class Service:
    """One service: its name, its origin, the key that is shared with it, and which private networks it may be in.

    Nothing but *url* is ever connected to: redirects are not followed, and proxies of the environment are not used.
    Addresses that are not on the public internet are refused unless *networks* has them. Without TLS only this machine
    is called: what is signed can be read on the way, and an answer is not signed at all. *insecure* says that it may
    all the same (a mesh encrypts, say), and is told to the log. Raises `Misconfigured` for another kind of URL.
    """

    def __init__(
        self,
        name: str,
        url: str,
        key: Key,
        *,
        networks: tuple[str, ...] | list[str] = (),
        bounds: Bounds | None = None,
        tls: SSLContext | None = None,
        insecure: bool = False,
        resolve: Resolve | None = None,
        now: Callable[[], datetime] = _wall_clock,
    ) -> None:
        self.name = name
        self.origin = Origin.parse(url)
        self.bounds = bounds or Bounds()
        self.key, self._tls, self._resolve, self._now = key, tls, resolve, now
        self._allowed = Allowed.of(networks)
        self._session: aiohttp.ClientSession | None = None
        refuse_literal(self.origin, self._allowed)
        self._check_transport(insecure)

    def _check_transport(self, insecure: bool) -> None:
        if not self.origin.is_plain:
            return
        if not insecure:
            raise Misconfigured(
                f"{self.name} would be called without TLS at {self.origin}: register it by https, or, where something "
                "else encrypts on the way, with `insecure=True`"
            )
        logger.warning(
            "%s is called without TLS at %s: whoever is on the way can forge answers", self.name, self.origin
        )

    def __repr__(self) -> str:
        return f"Service({self.name!r}, {str(self.origin)!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of the connections. Idempotent; the next request opens new ones."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def action(self, path: str, body: Body | None = None, *, output: Any = Any, name: str | None = None) -> Step:
        """A step that posts to *path*; the answer, read as *output*, is its output.

        It is called *name*, or like the last part of the path.
        """
        return self._step(path, body, output, name)

    def compensation(self, path: str, body: Body | None = None) -> Step:
        """What undoes a step by posting to *path*. The service must bear that there is nothing to undo.

        Any 2xx says that it is undone; what is in its body is not looked at.
        """
        return self._step(path, body, None, None)

    def status(self, path: str, body: Body | None = None, *, output: Any = Any) -> Step:
        """Asks what became of a step by posting to *path*.

        The answer is `{"status": "done", "output": ...}`, `{"status": "never"}` or `{"status": "unknown"}`. Never means
        that it did not happen, and will not happen either by a request that is still under way.
        """
        ask = self._step(path, body, dict[str, Any], None)
        read = TypeAdapter(output)

        async def status(**values: Any) -> Any:
            told = await ask(**values)
            if told.get("status") == "done":
                return "done", read.validate_python(told.get("output"))
            return told.get("status")

        return self._described(status, ask.__name__, inspect.signature(ask).parameters, dict(ask.__annotations__))

    async def send(self, path: str, content: bytes, delivery: Delivery, *, answer_bytes: int | None = None) -> bytes:
        """Post *content*, signed, and return the body of a 2xx answer; raises what any other answer means.

        The answer has *answer_bytes* at most, or as many as any body has.
        """
        if len(content) > self.bounds.body_bytes:
            raise TurnedAway(f"a request has {self.bounds.body_bytes} bytes at most, not {len(content)}")
        headers = signed_headers(self.key, delivery, "POST", path, content, int(self._now().timestamp()))
        headers |= {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
        headers |= current_headers()
        asked, sent = partial(self._ask, path, content, headers, answer_bytes or self.bounds.body_bytes), Sent()
        try:
            return await asked(sent)
        except Disconnected as ended:
            if not (sent.reused and isinstance(ended.__cause__, _ENDED)):
                raise
        # Servers close connections between requests: when they are idle for long, or after a failure. Nobody knows
        # whether it was that, but the idempotency key lets the same request come again.
        try:
            return await asked(Sent())
        except (Unavailable, TurnedAway) as failure:  # That is said of this request, and not of the first.
            raise Disconnected(f"{self.name} has not answered; then: {failure}", participant=self.name) from failure

    async def _ask(self, path: str, content: bytes, headers: Mapping[str, str], answer_bytes: int, sent: Sent) -> bytes:
        try:
            status, answered, body = await self._post(path, content, headers, answer_bytes, sent)
        except Misconfigured as forbidden:
            raise TurnedAway(f"{self.name} may not be called: {forbidden}", participant=self.name) from forbidden
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as failure:
            said = f"{self.name} cannot be reached: {why_unreached(failure)}"
            raise Unavailable(said, participant=self.name) from failure
        except (aiohttp.ClientError, TimeoutError, OSError) as failure:
            raise Disconnected(
                f"{self.name} has not answered ({type(failure).__name__})", participant=self.name
            ) from failure
        meant = failure_of(self.name, status, answered, body, self._now())
        if meant is not None:
            raise meant
        return body

    async def _post(
        self, path: str, content: bytes, headers: Mapping[str, str], answer_bytes: int, sent: Sent
    ) -> tuple[int, Mapping[str, str], bytes]:
        if self._session is None:
            self._session = open_session(
                self._allowed, self._resolve, connections=self.bounds.connections, tls=self._tls
            )
        url = URL(f"{self.origin}{path}", encoded=True)
        bound = aiohttp.ClientTimeout(total=self.bounds.answer_s, connect=self.bounds.connect_s)
        async with self._session.post(
            url, data=content, headers=headers, allow_redirects=False, timeout=bound, trace_request_ctx=sent
        ) as answer:
            body = bytearray()
            async for chunk in answer.content.iter_chunked(_CHUNK_BYTES):
                body += chunk
                if len(body) > answer_bytes:
                    answer.close()
                    raise aiohttp.ClientPayloadError("the answer is too long")
            return answer.status, answer.headers, bytes(body)

    def _step(self, path: str, body: Body | None, output: Any, name: str | None) -> Step:
        checked_path(path)
        hints: dict[str, Any] = {}
        parameters: Mapping[str, inspect.Parameter] = {REQUEST: _parameter(REQUEST)}
        if body is not None:
            parameters, hints = inspect.signature(body).parameters, get_type_hints(body)
        hints["return"] = output
        read = None if output is None else TypeAdapter(output)

        async def call(**values: Any) -> Any:
            context: StepContext = values[CONTEXT]
            taken = {each: values[each] for each in parameters}
            content = body_of(values[REQUEST] if body is None else body(**taken))
            answer = await self.send(path, content, _delivery(context))
            return None if read is None else self._read(read, answer)

        return self._described(call, name or _last_part(path), parameters, hints)

    def _described(
        self, call: Step, name: str, parameters: Mapping[str, inspect.Parameter], hints: dict[str, Any]
    ) -> Step:
        """*call*, with the signature that a saga reads where its arguments come from and how its output is stored."""
        taken = [_parameter(each) for each in dict.fromkeys((*parameters, CONTEXT))]
        call.__signature__ = inspect.Signature(taken)  # type: ignore[attr-defined]  # `inspect.signature` looks at it.
        call.__annotations__ = {each: hint for each, hint in hints.items() if each in ("return", *parameters)}
        call.__name__ = name
        call.participant = self.name  # type: ignore[attr-defined]  # A step without one takes it from here.
        return call

    def _read(self, read: TypeAdapter[Any], body: bytes) -> Any:
        """An answer that cannot be read is one of a step that was done, whose output nobody knows."""
        try:
            return read.validate_python(from_json(body) if body else None)
        except (ValidationError, ValueError) as failure:
            kind = type(failure).__name__
            raise InDoubt(f"{self.name} has done it, and its answer cannot be read ({kind})") from None


class Services(Mapping[str, Service]):
    """The services that sagas may call, by name; open as long as its block.

    Raises `Misconfigured` where two have one name, or where two origins share a secret: a request for one of them
    would be let in by the other, since what is signed does not say where it goes.
    """

    def __init__(self, *services: Service) -> None:
        self._by_name = {each.name: each for each in services}
        if len(self._by_name) < len(services):
            raise Misconfigured("two services have one name")
        owners: dict[bytes, Service] = {}
        for each in services:
            other = owners.setdefault(each.key.secret, each)
            if other.origin != each.origin:
                raise Misconfigured(
                    f"{other.name} and {each.name} share a secret, so that a request for {other.origin} is let in at "
                    f"{each.origin}: give each service a secret of its own, and call one service by one URL"
                )
        self._stack = AsyncExitStack()

    def __getitem__(self, name: str) -> Service:
        try:
            return self._by_name[name]
        except KeyError:
            known = ", ".join(sorted(self._by_name)) or "none"
            raise InvalidDefinition(f"no service {name!r} is registered (those are: {known})") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    async def __aenter__(self) -> Self:
        for each in self._by_name.values():
            self._stack.push_async_callback(each.close)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()


def _delivery(context: StepContext) -> Delivery:
    return Delivery(
        gid=context.gid,
        step=context.step,
        direction=context.direction,
        attempt=context.attempt,
        term=context.term,
    )


def _parameter(name: str) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY)


def _last_part(path: str) -> str:
    part = unquote(path.partition("?")[0].rstrip("/").rpartition("/")[2])
    return "".join(each if each.isidentifier() or each.isdigit() else "_" for each in part) or "root"
