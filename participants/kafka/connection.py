"""One pipelined connection to one broker: aiokafka's own (framing, TLS, SASL), carrying our requests.

aiokafka asks a request to prepare itself, to encode its header and body, and to decode its answer. `_Raw` does that
with the bytes of our codec, so that many requests are in flight at once and no line of networking is written again.
"""

import asyncio
import contextlib
import ssl
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from io import BytesIO
from typing import Any, ClassVar, Protocol, TypeVar

from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import KafkaError

from coordinator import limits
from coordinator.errors import Disconnected, Misconfigured, Unavailable
from participants.kafka.codec_cluster import ApiVersions
from participants.kafka.wire import MalformedResponse, Reader

Answer = TypeVar("Answer")
Address = tuple[str, int]
CLIENT_ID = "unanimity"
_REQUEST_HEADER = struct.Struct(">hhih")  # The request's key and version, the correlation id, the client id's length.


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    """How to be let in: aiokafka's own options, passed on as they are."""

    security_protocol: str = "PLAINTEXT"
    ssl_context: ssl.SSLContext | None = None
    sasl_mechanism: str | None = None
    sasl_plain_username: str | None = None
    sasl_plain_password: str | None = None
    sasl_oauth_token_provider: Any = None

    def options(self) -> Mapping[str, Any]:
        """As keyword arguments for aiokafka."""
        given = {option.name: getattr(self, option.name) for option in fields(self)}
        return {name: value for name, value in given.items() if value is not None}


class Request(Protocol):
    """What can be asked: a key, a version, and a body."""

    @property
    def key(self) -> int:
        """The request's number."""
        ...

    @property
    def version(self) -> int:
        """The version of its layout."""
        ...

    def body(self) -> bytes:
        """Its fields, encoded."""
        ...


class _Bytes:
    """Encoded bytes, as aiokafka asks for them."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    def encode(self) -> bytes:
        return self._data


@dataclass(frozen=True, slots=True)
class _ResponseHeader:
    correlation_id: int


class _Body:
    """The rest of an answer, undecoded."""

    @staticmethod
    def decode(data: BytesIO) -> bytes:
        return data.read()


class _Raw:
    """A request in the shape that aiokafka's connection sends."""

    RESPONSE_TYPE: ClassVar[type[_Body]] = _Body
    __slots__ = ("_request",)

    def __init__(self, request: Request) -> None:
        self._request = request

    def prepare(self, versions: object) -> "_Raw":
        return self

    def build_request_header(self, *, correlation_id: int, client_id: str) -> _Bytes:
        # The client id of a request header is the one string that stayed in the old, not compact, encoding.
        name = client_id.encode()
        fixed = _REQUEST_HEADER.pack(self._request.key, self._request.version, correlation_id, len(name))
        return _Bytes(b"%b%b\x00" % (fixed, name))

    def encode(self) -> bytes:
        return self._request.body()

    def parse_response_header(self, data: BytesIO) -> _ResponseHeader:
        correlation_id = int.from_bytes(data.read(4), "big")
        # ApiVersions answers with the old header, so that any client can read it; the others with tags, usually none.
        if self._request.key != ApiVersions.key and data.read(1) != b"\x00":
            data.seek(4)
            reader = Reader(data.read())
            reader.tags()
            data.seek(4 + reader.position)
        return _ResponseHeader(correlation_id)


class Connection:
    """A connection that asks and answers. Any failure closes it, and leaves what was in flight unknown."""

    def __init__(self, address: Address, security: Security, *, timeout_s: float = limits.PARTICIPANT_CALL_S) -> None:
        self.address = address
        self.in_flight = 0
        """Requests without an answer yet. A broker works on one request per connection at a time."""
        self._connection = AIOKafkaConnection(
            *address,
            client_id=CLIENT_ID,
            request_timeout_ms=int(timeout_s * 1000),
            **security.options(),
        )

    async def open(self) -> None:
        """Connect and authenticate. Raises `Unavailable`, or `Misconfigured` where the broker refuses us."""
        try:
            await self._connection.connect()
        except (OSError, TimeoutError) as failure:
            raise Unavailable(f"Kafka at {self.address[0]}:{self.address[1]} does not answer: {failure}") from failure
        except KafkaError as failure:
            if "auth" in type(failure).__name__.lower():
                raise Misconfigured(f"Kafka at {self.address[0]}:{self.address[1]} refused us: {failure}") from failure
            raise Unavailable(f"Kafka at {self.address[0]}:{self.address[1]} does not answer: {failure}") from failure

    @property
    def usable(self) -> bool:
        """Whether it is open."""
        return bool(self._connection.connected())

    async def ask(self, request: Request, decode: Callable[[bytes], Answer]) -> Answer:
        """Send *request* and decode its answer. Raises `Disconnected` when no answer came: it may have been done."""
        self.in_flight += 1
        try:
            return decode(await self._connection.send(_Raw(request)))
        except (KafkaError, MalformedResponse, OSError, TimeoutError) as failure:
            self.close()
            where = f"{self.address[0]}:{self.address[1]}"
            raise Disconnected(f"{type(request).__name__} to {where} has no answer: {failure!r}") from failure
        finally:
            self.in_flight -= 1

    def close(self) -> None:
        """Close it, and fail what is in flight. Idempotent."""
        with contextlib.suppress(asyncio.InvalidStateError):
            self._connection.close()
