"""What the answer of a service means for a step: done, refused, nothing happened, or nobody knows."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from coordinator import limits
from coordinator.errors import CoordinatorError, InDoubt, Outdated, Overloaded, Refused, TurnedAway, Unavailable

TOO_EARLY, TOO_MANY, UNAVAILABLE, REQUEST_TIMEOUT = 425, 429, 503, 408
_NO = {409: Refused, 412: Outdated}
"""What is meant by a 4xx that is a no; any other one is `TurnedAway`."""


def failure_of(
    service: str, status: int, headers: Mapping[str, str], body: bytes, now: datetime
) -> CoordinatorError | None:
    """What a step raises for an answer; None where it is done.

    2xx: done. 425, 429, and a 503 with `Retry-After`: nothing happened, and it may be asked again after that. (A 503
    without it is also what a proxy says whose connection to the service broke after the request was sent.) 409 is the
    service's no; any other 4xx but 408 turns the call away, and says nothing of an earlier one: a key was rotated, say,
    or a route is gone. Of those 412 says that a higher term was there. The reason stands in the body. Whatever else is
    answered (408, a redirect, a 5xx) leaves open what happened.
    """
    if 200 <= status < 300:
        return None
    said = f"{service} answered {status}" + _reason(body)
    if status in (TOO_EARLY, TOO_MANY) or (status == UNAVAILABLE and "Retry-After" in headers):
        kind = Overloaded if status == TOO_MANY else Unavailable
        return kind(said, participant=service, retry_after_s=retry_after_s(headers.get("Retry-After"), now))
    if 400 <= status < 500 and status != REQUEST_TIMEOUT:
        return _NO.get(status, TurnedAway)(said, participant=service)
    return InDoubt(said, participant=service)


def retry_after_s(value: str | None, now: datetime) -> float | None:
    """The seconds that a `Retry-After` asks for, bounded; None where it asks for nothing that can be understood."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        seconds = float(value[:9])
    else:
        try:
            until = parsedate_to_datetime(value)
        except (ValueError, OverflowError):  # The second for a zone that is too far away.
            return None
        # Without a zone it is UTC, as HTTP has it; -0000 is UTC too, of nobody knows where (RFC 5322, section 3.3).
        seconds = ((until if until.tzinfo else until.replace(tzinfo=UTC)) - now).total_seconds()
    return min(max(seconds, 0.0), limits.RETRY_AFTER_MAX_S)


def _reason(body: bytes) -> str:
    """What the body says in `reason` (or as problem+json or FastAPI have it), on one line of printable characters."""
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(told, dict):
        return ""
    for name in ("reason", "detail", "title"):
        if isinstance(said := told.get(name), str) and said:
            printable = "".join(each if each.isprintable() else " " for each in said)
            return f": {printable[: limits.ANSWER_CHARACTERS_MAX]}"
    return ""
