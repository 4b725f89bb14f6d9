"""How each driver for PostgreSQL says the same three things. Only what is used is imported."""

import re
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from functools import lru_cache
from typing import Any, Protocol

from coordinator.errors import InvalidDefinition


class Driver(Protocol):
    """What the barrier asks of the caller's connection. `InvalidDefinition` where that is none of the driver's."""

    async def in_transaction(self, connection: Any) -> bool:
        """Whether a transaction is open, or the next statement opens one."""
        ...

    def is_open(self, connection: Any) -> bool:
        """Whether one is open already."""
        ...

    def transaction(self, connection: Any) -> AbstractAsyncContextManager[Any]:
        """A transaction that is committed at the end of the block, where none is open."""
        ...

    async def rows(self, connection: Any, statement: str, *arguments: Any) -> Sequence[Any]:
        """The rows of a statement with `$1`, `$2`, ... in it."""
        ...


class Asyncpg:
    """An asyncpg `Connection`."""

    async def in_transaction(self, connection: Any) -> bool:
        """Whether a block of it is open."""
        return self.is_open(connection)

    def is_open(self, connection: Any) -> bool:
        """Whether a block of it is open."""
        _expect("Asyncpg", "an asyncpg Connection", connection, "is_in_transaction")
        return bool(connection.is_in_transaction())

    def transaction(self, connection: Any) -> AbstractAsyncContextManager[Any]:
        """A block."""
        block: AbstractAsyncContextManager[Any] = connection.transaction()
        return block

    async def rows(self, connection: Any, statement: str, *arguments: Any) -> Sequence[Any]:
        """As they are: the statements are written for it."""
        rows: Sequence[Any] = await connection.fetch(statement, *arguments)
        return rows


class SqlAlchemy:
    """SQLAlchemy's `AsyncConnection` or `AsyncSession`, on any of its asyncio drivers for PostgreSQL."""

    async def in_transaction(self, connection: Any) -> bool:
        """Always, as a statement begins one, unless the connection commits by itself."""
        self._expect_its_own(connection)
        if hasattr(connection, "sync_session"):
            connection = await connection.connection()
        driver = connection.sync_connection.connection.dbapi_connection
        return not connection.dialect.detect_autocommit_setting(driver)

    def is_open(self, connection: Any) -> bool:
        """Whether a statement, or a block, has begun one."""
        self._expect_its_own(connection)
        return bool(connection.in_transaction())

    def transaction(self, connection: Any) -> AbstractAsyncContextManager[Any]:
        """A block."""
        block: AbstractAsyncContextManager[Any] = connection.begin()
        return block

    async def rows(self, connection: Any, statement: str, *arguments: Any) -> Sequence[Any]:
        """With its own names for the parameters."""
        named = {f"p{number}": argument for number, argument in enumerate(arguments, 1)}
        rows: Sequence[Any] = (await connection.execute(_text(statement), named)).all()
        return rows

    def _expect_its_own(self, connection: Any) -> None:
        wanted = "sync_session" if hasattr(connection, "sync_session") else "sync_connection"
        _expect("SqlAlchemy", "an AsyncConnection or AsyncSession of SQLAlchemy", connection, wanted)


class Psycopg:
    """psycopg 3's `AsyncConnection`."""

    async def in_transaction(self, connection: Any) -> bool:
        """Whether one is open, or the next statement opens one.

        Raises `InvalidDefinition` while a statement of another task is under way, since nobody knows then. (Whether a
        transaction has failed, or the connection is closed, the next statement says by itself.)
        """
        self._expect_its_own(connection)
        if not connection.autocommit:
            return True
        if connection.info.pipeline_status:  # What was sent, and not answered yet, may open or end one.
            async with connection.pipeline() as pipeline:
                await pipeline.sync()
        status = connection.info.transaction_status.name
        if status == "ACTIVE":
            raise InvalidDefinition("another task has a statement under way on this connection: give each task its own")
        return bool(status != "IDLE")

    def is_open(self, connection: Any) -> bool:
        """Whether a statement, or a block, has begun one."""
        self._expect_its_own(connection)
        return bool(connection.info.transaction_status.name != "IDLE")

    def transaction(self, connection: Any) -> AbstractAsyncContextManager[Any]:
        """A block."""
        block: AbstractAsyncContextManager[Any] = connection.transaction()
        return block

    async def rows(self, connection: Any, statement: str, *arguments: Any) -> Sequence[Any]:
        """As they are, and as tuples: by a cursor of our own, whatever the connection makes."""
        from psycopg import AsyncRawCursor
        from psycopg.rows import tuple_row

        async with AsyncRawCursor(connection, row_factory=tuple_row) as cursor:
            await cursor.execute(statement, arguments)
            rows: Sequence[Any] = await cursor.fetchall()
        return rows

    def _expect_its_own(self, connection: Any) -> None:
        _expect("Psycopg", "an AsyncConnection of psycopg", connection, "autocommit", "__aenter__")


def _expect(driver: str, wanted: str, connection: Any, *attributes: str) -> None:
    """Refuse a pool, and a connection of another driver: by its attributes, since what is not used is not imported."""
    if not all(hasattr(connection, each) for each in attributes):
        given = f"{type(connection).__module__}.{type(connection).__qualname__}"
        raise InvalidDefinition(f"`connection` is a {given}, and the driver {driver}() takes {wanted}")


@lru_cache(maxsize=32)
def _text(statement: str) -> Any:
    from sqlalchemy import text

    return text(re.sub(r"\$(\d+)", r":p\1", statement))
