"""Participants on a fresh database with one table, closed afterwards."""

import asyncpg
import pytest

from coordinator.protocol.model import BranchName
from participants import Postgres


async def query(url: str, text: str, *arguments: object) -> object:
    """One value, on a connection that the test alone uses."""
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(text, *arguments)
    finally:
        await connection.close()


@pytest.fixture
def look(database):
    """Ask the test's database."""

    async def ask(text: str, *arguments: object) -> object:
        return await query(database, text, *arguments)

    return ask


@pytest.fixture
async def open_participant(database):
    """A factory of participants, as of several processes."""
    await query(database, "CREATE TABLE business (n int)")
    opened = []

    async def open_one(url: str = database, *, name: str = "db", **options: object) -> Postgres:
        participant = Postgres(url, **options)
        participant.name = BranchName(name)
        await participant.open()
        opened.append(participant)
        return participant

    yield open_one
    for participant in opened:
        await participant.close()


@pytest.fixture
async def participant(open_participant):
    """One of them."""
    return await open_participant()
