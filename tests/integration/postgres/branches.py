"""What tests of branches share: making one, deciding within one, and waiting for what must come true."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from coordinator.gids import new_gid
from coordinator.ports import Message, Record, Standing
from coordinator.protocol.model import BranchName, Gid, Prepared, Recipe, Vote
from participants import Postgres
from participants.postgres.session import PostgresSession

PREPARED_NOW = "SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()"
ROWS = "SELECT count(*) FROM business"


def fresh_gid() -> Gid:
    """A new gid of ours."""
    return new_gid("unan", datetime.now(tz=UTC), os.urandom(16))


async def begin(participant: Postgres, recipe: Recipe = Recipe.TWO_PHASE, gid: Gid | None = None) -> PostgresSession:
    """A branch that has written one row."""
    session = await participant.begin(gid or fresh_gid(), recipe=recipe)
    await session.connection.execute("INSERT INTO business VALUES (1)")
    return session


async def prepared(participant: Postgres) -> Prepared:
    """A branch that has written one row and voted YES."""
    session = await begin(participant)
    vote, evidence = await session.vote(10.0)
    assert vote is Vote.YES
    return Prepared(gid=session.gid, branch=participant.name, evidence=evidence)


class RowJournal:
    """A journal whose decision is a row of `business`: enough for the commit that carries it."""

    async def decide_within(
        self, connection: Any, record: Record, messages: Sequence[Message], *, ready: frozenset[BranchName]
    ) -> None:
        """Write it."""
        await connection.execute("INSERT INTO business VALUES (0)")


def record(gid: Gid, standing: Standing = Standing.COMMIT) -> Record:
    """A record about *gid*."""
    return Record(gid=gid, name="test", recipe=Recipe.COMMIT_RECORD, standing=standing)


async def commit_with(session: PostgresSession, journal: Any = None) -> None:
    """Commit *session* with its decision."""
    await session.commit_with(journal or RowJournal(), record(session.gid), [], ready=frozenset())


async def until(holds: Callable[[], Awaitable[bool]], within_s: float = 20.0) -> None:
    """Wait for a condition. Raises `TimeoutError` where it never holds."""
    async with asyncio.timeout(within_s):
        while not await holds():  # noqa: ASYNC110 - what is waited for happens in another process.
            await asyncio.sleep(0.01)
