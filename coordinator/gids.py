"""Global transaction ids: made by us, sortable by time, and recognisable as ours.

`prefix:ULID`, where a ULID is 48 bits of milliseconds and 80 random bits in Crockford's base 32. The time in it is what
lets a sweep tell an id that is too old to be presumed aborted. Nothing that a user chose is ever part of one.
"""

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from coordinator import limits
from coordinator.errors import InvalidDefinition
from coordinator.protocol.model import BranchName, Gid

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_FIVE_BITS = (_ALPHABET * 8).encode()
"""Of each byte the character for its last five bits."""
_TIME_CHARACTERS, RANDOM_BYTES = 10, 16
_EPOCH, _MILLISECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(milliseconds=1)
_GID = re.compile(r"^[a-z0-9]{4,12}:[0-9A-HJKMNP-TV-Z]{26}\Z")
_BRANCH = re.compile(r"^[a-z0-9_-]{1,32}\Z")


def new_gid(prefix: str, now: datetime, randomness: bytes) -> Gid:
    """A new id. *randomness* is sixteen random bytes; five bits of each are used."""
    if len(randomness) != RANDOM_BYTES:
        raise ValueError(f"a ULID takes {RANDOM_BYTES} random bytes, not {len(randomness)}")
    milliseconds = (now - _EPOCH) // _MILLISECOND
    return valid_gid(f"{prefix}:{_time(milliseconds)}{randomness.translate(_FIVE_BITS).decode()}")


def valid_gid(text: str) -> Gid:
    """*text* as an id. Raises `InvalidDefinition` where it is none of ours."""
    if not _GID.match(text) or len(text) > limits.GID_BYTES_MAX:
        raise InvalidDefinition(f"{text!r} is no global transaction id")
    return Gid(text)


def valid_branch(text: str) -> BranchName:
    """*text* as a branch's name: 1 to 32 of a-z, 0-9, '_' and '-'. Raises `InvalidDefinition` otherwise."""
    if not _BRANCH.match(text):
        raise InvalidDefinition(f"{text!r} is no name for a participant: 1 to 32 of a-z, 0-9, '_' and '-'")
    return BranchName(text)


def issued_at(gid: Gid) -> datetime:
    """When *gid* was made, by the clock of the process that made it."""
    milliseconds = 0
    for character in gid.partition(":")[2][:_TIME_CHARACTERS]:
        milliseconds = milliseconds * 32 + _ALPHABET.index(character)
    return _EPOCH + milliseconds * _MILLISECOND


def made_at(text: str) -> datetime | None:
    """When *text* was made, where it looks like an id of ours; None where it does not, and so tells no time."""
    try:
        return issued_at(Gid(text)) if _GID.match(text) else None
    except OverflowError:  # Its time is in no calendar: somebody else's id may look like ours.
        return None


@lru_cache(maxsize=2)
def _time(milliseconds: int) -> str:
    """In base 32. (A busy process makes many ids within a millisecond.)"""
    return "".join(_ALPHABET[(milliseconds >> shift) & 31] for shift in range(5 * _TIME_CHARACTERS - 5, -1, -5))
