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
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_TIME_CHARACTERS, _RANDOM_CHARACTERS, _RANDOM_BYTES = 10, 16, 10
_EPOCH, _MILLISECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(milliseconds=1)
_GID = re.compile(r"^[a-z0-9]{4,12}:[0-9A-HJKMNP-TV-Z]{26}\Z")
_BRANCH = re.compile(r"^[a-z0-9_-]{1,32}\Z")


def new_gid(prefix: str, now: datetime, randomness: bytes) -> Gid:
    """A new id. *randomness* is ten random bytes."""
    if len(randomness) != _RANDOM_BYTES:
        raise ValueError(f"a ULID takes {_RANDOM_BYTES} random bytes, not {len(randomness)}")
    milliseconds = (now - _EPOCH) // _MILLISECOND
    ulid = _time(milliseconds) + _encode(int.from_bytes(randomness, "big"), _RANDOM_CHARACTERS)
    return valid_gid(f"{prefix}:{ulid}")


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


@lru_cache(maxsize=2)
def _time(milliseconds: int) -> str:
    """In base 32. (A busy process makes many ids within a millisecond.)"""
    return _encode(milliseconds, _TIME_CHARACTERS)


def _encode(number: int, characters: int) -> str:
    """*number* in base 32; *characters* is even, since it is written two at a time."""
    return "".join([_PAIRS[(number >> shift) & 1023] for shift in range(5 * characters - 10, -1, -10)])
