"""Reading again: what an earlier step read is still so, or the step that builds on it is refused."""

from typing import Any

from coordinator.errors import InvalidDefinition, TurnedAway
from participants.barrier.drivers import Asyncpg, Driver


class Changed(TurnedAway):
    """What a step builds on is not so any more: this attempt has done nothing. An earlier one of the same step may have
    changed it, so this says nothing of that.
    """


async def reread(connection: Any, query: str, *arguments: Any, expected: Any, driver: Driver | None = None) -> None:
    """Read one value again on the caller's open transaction, and lock its row until that ends.

    *query* selects one column of one row by `$1`, `$2`, ...: a version, or the value itself. Raises `Changed` where it
    is not *expected* any more, or its row is gone: the saga is undone, and may be begun again on what is so now. That
    it was the step itself that changed it, by an attempt whose answer was lost, only a barrier can tell: enter it
    before. Raises `InvalidDefinition` where there are several rows: all but one would go unread.
    """
    speaks = driver or Asyncpg()
    if not await speaks.in_transaction(connection):
        raise InvalidDefinition("what is read again is written in the same transaction: open one first")
    rows = await speaks.rows(connection, f"{query} FOR UPDATE", *arguments)
    if not rows:
        raise Changed(f"it is gone since it was read: it was {expected!r} then")
    if len(rows) > 1:
        raise InvalidDefinition(f"one row is read again, and these are {len(rows)}: {query}")
    found = rows[0][0]
    if found != expected:
        raise Changed(f"it was changed since it was read: {expected!r} then, {found!r} now")
