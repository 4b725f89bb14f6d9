"""The barrier on psycopg: what its connections can be at, which those of other drivers cannot."""

import asyncio
from contextlib import asynccontextmanager

import psycopg
import pytest

from coordinator import InvalidDefinition
from participants.barrier import Barrier, Psycopg, Verdict
from tests.integration.test_barrier import CALL, by_psycopg, records, url

__all__ = ["url"]

BARRIER = Barrier("s", Psycopg())


@asynccontextmanager
async def statement_pending(connection):
    """In a pipeline, which has not sent it yet."""
    async with connection.pipeline():
        await connection.execute("SELECT 1")
        yield


@asynccontextmanager
async def statement_under_way(connection):
    """By another task."""
    other = asyncio.create_task(connection.execute("SELECT pg_sleep(1)"))
    while connection.info.transaction_status.name != "ACTIVE":  # noqa: ASYNC110 - until it has been sent.
        await asyncio.sleep(0.01)
    yield
    await other


@pytest.mark.parametrize(
    ("busy", "said"), [(statement_pending, "open one first"), (statement_under_way, "another task")]
)
async def test_a_connection_that_is_busy_and_commits_by_itself_is_refused(url, busy, said):
    """The record would stand, and the effect would not: every redelivery would be a duplicate."""
    async with by_psycopg(url) as connection, busy(connection):
        with pytest.raises(InvalidDefinition, match=said):
            await BARRIER.enter(connection, CALL)
    assert await records(url) == {}


async def test_a_transaction_in_a_pipeline_is_one(url):
    """Also where what opens it has not been answered yet."""
    async with by_psycopg(url) as connection, connection.pipeline():
        await connection.execute("BEGIN")
        assert (await BARRIER.enter(connection, CALL)).verdict is Verdict.PROCEED
        await connection.execute("ROLLBACK")
        async with connection.transaction():
            await connection.execute("SELECT 1")
            assert (await BARRIER.enter(connection, CALL)).verdict is Verdict.PROCEED
    assert await records(url) == {"action": "done"}


async def test_a_transaction_that_has_failed_says_so(url):
    """The delivery comes again."""
    async with by_psycopg(url) as connection:
        await connection.execute("BEGIN")
        with pytest.raises(psycopg.errors.DivisionByZero):
            await connection.execute("SELECT 1 / 0")
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            await BARRIER.enter(connection, CALL)


@pytest.mark.parametrize("cursor", [psycopg.AsyncCursor, psycopg.AsyncClientCursor, psycopg.AsyncRawCursor])
async def test_which_cursors_a_connection_makes_is_its_user_s_business(url, cursor):
    """The barrier has one of its own."""
    async with by_psycopg(url, autocommit=False) as connection:
        connection.cursor_factory = cursor
        await BARRIER.enter(connection, CALL)
        await BARRIER.keep(connection, CALL, b"\0\xff'")
        assert (await BARRIER.enter(connection, CALL)).result == b"\0\xff'"


async def test_a_connection_that_is_not_asynchronous_is_refused_by_name(url):
    with (
        psycopg.connect(url) as connection,
        pytest.raises(InvalidDefinition, match=r"`connection` is a psycopg.Connection, and .* an AsyncConnection"),
    ):
        await BARRIER.enter(connection, CALL)
