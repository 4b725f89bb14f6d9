"""Connections that lead only to addresses which were checked, kept open between requests. (Needs the extra `http`.)"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from ssl import SSLCertVerificationError, SSLContext
from threading import Thread
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from coordinator.errors import Misconfigured
from participants.http.addresses import Allowed, Origin

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
_LOOKUPS_AT_ONCE = 4
# Servers close idle connections, many after five seconds; a request that meets that moment has an unknown outcome.
_IDLE_S = 4.0
_LINE_BYTES_MAX = 8190
# OpenSSL's codes for what is wrong with a certificate.
_OTHER_NAME, _OUT_OF_DATE = (62, 64), (9, 10)


@dataclass(slots=True)
class Sent:
    """What is known of how a request was sent: whether its connection had carried another one before."""

    reused: bool = False


class ForbiddenAddress(Misconfigured):
    """The name of a service has an address where no request may go."""


class SystemNames:
    """The addresses of names, as this machine knows them: looked up by a few threads of one service's own.

    A name that hangs takes as many threads as there are and no more, and those are its own service's: nobody else waits
    for them, neither another service nor, since they are daemons, a process that ends. (A lookup cannot be called off.)
    """

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(_LOOKUPS_AT_ONCE)

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """Raises `OSError` where there are none."""
        await self._places.acquire()
        found: asyncio.Future[Sequence[str]] = asyncio.get_running_loop().create_future()
        Thread(target=self._look, args=(host, port, found), name=f"names of {host}", daemon=True).start()
        return await found

    def _look(self, host: str, port: int, found: "asyncio.Future[Sequence[str]]") -> None:
        said: Sequence[str] | Exception
        try:
            answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            said = [str(sockaddr[0]) for _, _, _, _, sockaddr in answers]
        except Exception as failure:  # noqa: BLE001 - it is raised where the name is asked for.
            said = failure
        with suppress(RuntimeError):  # The loop may be closed by now.
            found.get_loop().call_soon_threadsafe(self._told, said, found)

    def _told(self, said: Sequence[str] | Exception, found: "asyncio.Future[Sequence[str]]") -> None:
        self._places.release()
        if found.done():  # Nobody waits any more.
            return
        if isinstance(said, Exception):
            found.set_exception(said)
        else:
            found.set_result(said)


def open_session(
    allowed: Allowed, resolve: Resolve | None, *, connections: int, tls: SSLContext | None
) -> aiohttp.ClientSession:
    """A session that has no cookies, reads no environment and unpacks nothing. Without *resolve* it asks the system.

    The `trace_request_ctx` of each request is a `Sent`.
    """
    connector = aiohttp.TCPConnector(
        resolver=_CheckedResolver(allowed, resolve or SystemNames()),
        use_dns_cache=False,
        socket_factory=_CheckedSockets(allowed),
        limit=connections,
        keepalive_timeout=_IDLE_S,
        ssl=tls if tls is not None else True,
    )
    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(_note_reuse)
    return aiohttp.ClientSession(
        connector=connector,
        trace_configs=[trace],
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
        max_line_size=_LINE_BYTES_MAX,
        max_field_size=_LINE_BYTES_MAX,
    )


async def _note_reuse(session: aiohttp.ClientSession, context: Any, params: object) -> None:
    context.trace_request_ctx.reused = True


def refuse_literal(origin: Origin, allowed: Allowed) -> None:
    """Raise `ForbiddenAddress` where *origin* is an address, and one where no request may go."""
    if (literal := origin.literal) is not None and not allowed.allows(literal):
        raise ForbiddenAddress(f"{origin} is not on the public internet, and in no network that is allowed")


def why_unreached(failure: Exception) -> str:
    """Why there is no connection, and what to do about it where that is not what the words say."""
    if isinstance(failure, aiohttp.ClientConnectorCertificateError):
        wrong = failure.certificate_error
        code = wrong.verify_code if isinstance(wrong, SSLCertVerificationError) else None
        said = wrong.verify_message if isinstance(wrong, SSLCertVerificationError) else str(wrong)
        return f"its certificate is refused ({said.rstrip('.')}): {_remedy(code)}"
    if isinstance(failure, aiohttp.ClientConnectorSSLError):
        return f"no TLS at {failure.host}:{failure.port} ({failure.strerror}): correct the scheme or port of its URL"
    return str(failure)


def _remedy(code: int | None) -> str:
    if code in _OTHER_NAME:
        return "register it by a name that the certificate has, or give it a certificate for this one"
    if code in _OUT_OF_DATE:
        return "renew it, or set the clock"
    return "give its Service `tls=ssl.create_default_context(cafile=...)`, with the authority that signed it"


class _CheckedResolver(AbstractResolver):
    """One address that is forbidden forbids the name: whoever controls it wants something else than to be reached."""

    def __init__(self, allowed: Allowed, resolve: Resolve) -> None:
        self._allowed = allowed
        self._resolve = resolve

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        results: list[ResolveResult] = []
        for found in await self._resolve(host, port):
            address = ip_address(found)
            if not self._allowed.allows(address):
                raise ForbiddenAddress(f"{host} has the address {address}, where no request may go")
            version = socket.AF_INET if address.version == 4 else socket.AF_INET6
            flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
            results.append(
                ResolveResult(hostname=host, host=str(address), port=port, family=version, proto=0, flags=flags)
            )
        return results

    async def close(self) -> None:
        """Nothing is held."""


class _CheckedSockets:
    """The last look: whatever way an address came to be connected to, it is allowed."""

    def __init__(self, allowed: Allowed) -> None:
        self._allowed = allowed

    def __call__(self, info: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, sockaddr = info
        if not self._allowed.allows(ip_address(sockaddr[0])):
            raise ForbiddenAddress(f"no request may go to {sockaddr[0]}")
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        return made
