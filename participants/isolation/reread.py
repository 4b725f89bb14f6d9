"""Reading again: what an earlier step read is still so, or the step that builds on it is refused."""

from typing import Any

from coordinator.errors import Refused
from participants.barrier.drivers import Asyncpg, Driver


async def reread(connection: Any, query: str, *arguments: Any, expected: Any, driver: Driver | None = None) -> None:
    """Read one value again on the caller's open transaction, and lock its row until that ends.

    *query* selects one column of one row by `$1`, `$2`, ...: a version, or the value itself. Raises `Refused` where it
    is not *expected* any more: the saga is undone, and may be begun again on what is so now.
    """
    speaks = driver or Asyncpg()
    if not await speaks.in_transaction(connection):
        raise Refused("what is read again is written in the same transaction: open one first")
    rows = await speaks.rows(connection, f"{query} FOR UPDATE", *arguments)
    found = rows[0][0] if rows else None
    if found != expected:
        raise Refused(f"it was changed since it was read: {expected!r} then, {found!r} now")
