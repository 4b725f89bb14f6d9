"""How a request says who sent it, and what it is about: headers, signed together with the method, path and body.

The signature is HMAC-SHA256, in hex, over these lines, joined by a line feed:

    unanimity-1
    POST
    /charge?currency=EUR               the path and query, as they are sent
    1764000000                         Unanimity-Time, in seconds of Unix time
    2026-11                            Unanimity-Key, which tells keys apart while they are changed
    <gid>                              Unanimity-Gid
    <step>                             Unanimity-Step, percent-encoded
    action                             Unanimity-Direction
    1                                  Unanimity-Attempt
    7                                  Unanimity-Term
    <SHA-256 of the body, in hex>

`Idempotency-Key` is gid:step:direction. Everything that a service acts upon is signed, so none of it can be changed;
a copy of a request is let in while its time is near, and is then a duplicate, which the barrier answers.
"""

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from coordinator.errors import InvalidDefinition, Misconfigured, Refused

VERSION = "unanimity-1"
TIME, KEY, SIGNATURE = "unanimity-time", "unanimity-key", "unanimity-signature"
GID, STEP, DIRECTION = "unanimity-gid", "unanimity-step", "unanimity-direction"
ATTEMPT, TERM, IDEMPOTENCY_KEY = "unanimity-attempt", "unanimity-term", "idempotency-key"
WINDOW_S = 300
_SECRET_BYTES_MIN = 32
SIGNED = frozenset({TIME, KEY, SIGNATURE, GID, STEP, DIRECTION, ATTEMPT, TERM, IDEMPOTENCY_KEY})
_NUMBER = re.compile(r"[0-9]{1,18}")
_VISIBLE = re.compile(r"[!-~]{1,500}")


class Forged(Refused):
    """The request is not one of the coordinator's: it is not signed, wrongly signed, or too old."""


@dataclass(frozen=True, slots=True)
class Key:
    """A secret that the coordinator and one service share, and the name by which the service finds it."""

    name: str
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not _VISIBLE.fullmatch(self.name):
            raise Misconfigured(f"the name of a key is printable and has no spaces, unlike {self.name!r}")
        if len(self.secret) < _SECRET_BYTES_MIN:
            raise Misconfigured(f"the secret of key {self.name!r} has less than {_SECRET_BYTES_MIN} bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What a request is about. Its key for idempotency has no attempt in it, nor a term."""

    gid: str
    step: str
    direction: str
    attempt: int = 1
    term: int = 0

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt."""
        return f"{self.gid}:{quote(self.step, safe='')}:{self.direction}"


def signed_headers(key: Key, delivery: Delivery, method: str, path: str, body: bytes, at: int) -> dict[str, str]:
    """The headers of a request that is sent at *at*, in seconds of Unix time.

    Raises `InvalidDefinition` for a gid that no header can carry as it is.
    """
    if not _VISIBLE.fullmatch(delivery.gid):
        raise InvalidDefinition(f"a gid that is sent is printable ASCII without spaces, unlike {delivery.gid!r}")
    headers = {
        TIME: str(at),
        KEY: key.name,
        GID: delivery.gid,
        STEP: quote(delivery.step, safe=""),
        DIRECTION: delivery.direction,
        ATTEMPT: str(delivery.attempt),
        TERM: str(delivery.term),
    }
    signature = _signature(key, method, path, headers, body)
    return {**headers, IDEMPOTENCY_KEY: delivery.idempotency_key, SIGNATURE: signature}


class Verifier:
    """Tells the coordinator's requests from others, by any of *keys*: while a key is changed there are two."""

    def __init__(self, keys: Iterable[Key], *, window_s: int = WINDOW_S) -> None:
        self._keys = {key.name: key for key in keys}
        self._window_s = window_s
        if not self._keys:
            raise Misconfigured("without a key no request can be told from a forged one")

    def verify(self, method: str, path: str, headers: Mapping[str, str], body: bytes, now: float) -> Delivery:
        """What the request is about. Raises `Forged`. The names of *headers* are in lower case."""
        try:
            key = self._keys.get(headers[KEY])
            given = headers[SIGNATURE]
            named = {name: headers[name] for name in _SIGNED}
        except KeyError as missing:
            raise Forged(f"the request has no header {missing}") from None
        if key is None or not hmac.compare_digest(
            _signature(key, method, path, named, body).encode(), given.encode("utf-8", "replace")
        ):
            raise Forged("the request is not signed by a key that is known here")
        return self._signed(named, headers.get(IDEMPOTENCY_KEY), now)

    def _signed(self, named: Mapping[str, str], idempotency_key: str | None, now: float) -> Delivery:
        """The rest is the sender's word; what is wrong with it is the sender's fault, or an old copy."""
        if not all(_NUMBER.fullmatch(named[name]) for name in (TIME, ATTEMPT, TERM)):
            raise Forged("the request's time, attempt and term are numbers")
        if abs(now - int(named[TIME])) > self._window_s:
            raise Forged("the request was signed too long ago, or the clocks differ")
        delivery = Delivery(
            gid=named[GID],
            step=unquote(named[STEP]),
            direction=named[DIRECTION],
            attempt=int(named[ATTEMPT]),
            term=int(named[TERM]),
        )
        if idempotency_key != delivery.idempotency_key:
            raise Forged("the request's idempotency key is not that of its step")
        return delivery


# In the order of the lines.
_SIGNED = (TIME, KEY, GID, STEP, DIRECTION, ATTEMPT, TERM)


def _signature(key: Key, method: str, path: str, headers: Mapping[str, str], body: bytes) -> str:
    lines = (VERSION, method, path, *(headers[name] for name in _SIGNED), hashlib.sha256(body).hexdigest())
    return hmac.new(key.secret, "\n".join(lines).encode("utf-8", "replace"), hashlib.sha256).hexdigest()
