"""Idempotency keys and the names that they belong to: callers choose them, and an index of the journal holds them.

What it could not hold would cost those their write that share it, so it is refused before.
"""

from coordinator import limits
from coordinator.errors import InvalidDefinition


def check_key(key: str | None) -> None:
    """Raises `InvalidDefinition` for a key that the journal could not store, and for an empty or blank one.

    Whoever has none by mistake would get another's order for his own.
    """
    if key is not None:
        _check("a key", key, limits.KEY_BYTES_MAX)
        if not key.strip():
            raise InvalidDefinition(f"a key is not empty; None is no key: {key[:100]!r}")


def check_name(name: str) -> None:
    """Raises `InvalidDefinition` for a name that the journal could not store."""
    _check("a name", name, limits.NAME_BYTES_MAX)


def _check(what: str, given: str, most: int) -> None:
    try:
        text = given.encode()
    except (AttributeError, UnicodeEncodeError):
        text = b"\0"
    if b"\0" in text or len(text) > most:
        raise InvalidDefinition(
            f"{what} is text of at most {most} bytes, without NUL and lone surrogates: {repr(given)[:100]}"
        )
