"""What only the log of sagas in PostgreSQL has: old sagas are forgotten, and a successor finds what is unfinished."""

import asyncpg
import pytest

from coordinator.journal.owners import PostgresOwners
from coordinator.journal.postgres import PostgresJournal
from coordinator.journal.sagas import PostgresSagas
from coordinator.sagas.log import NewSaga


@pytest.fixture
async def log(database):
    """The log of a process that is an owner."""
    journal = PostgresJournal(database)
    await journal.open()
    await PostgresOwners(journal, owner_id="a", lease_s=60).register()
    opened = PostgresSagas(journal, database)
    yield opened
    await opened.close()
    await journal.close()


def saga(gid):
    return NewSaga(gid=gid, name="s", definition="s@1", key=None, fingerprint="f", input="null")


async def test_only_sagas_that_ended_long_ago_are_forgotten(log, database):
    """With all that happened to them, and all that they were sent."""
    numbers = [(await log.start(saga(f"unan:{n}"))).number for n in range(3)]
    await log.append(numbers[0], 0, '{"t":"done","s":"a","o":1}', final=True)
    await log.append(numbers[1], 0, '{"t":"done","s":"a","o":1}')
    await log.send("unan:1", "x", "1")
    assert await log.purge() == 0
    assert await log.purge(older_than_s=-1) == 1
    assert await log.load("unan:0") is None
    assert (await log.load("unan:1")).events == ['{"t":"done","s":"a","o":1}']
    connection = await asyncpg.connect(database)
    assert await connection.fetchval("SELECT count(*) FROM unanimity.saga_events") == 1
    await connection.close()


async def test_where_the_unfinished_begin_moves_on_and_back(log, database):
    """Onward over what has ended, and back with one that is taken over."""
    connection = await asyncpg.connect(database)

    async def first():
        return await connection.fetchval("SELECT first FROM unanimity.saga_owners")

    numbers = [(await log.start(saga(f"unan:{n}"))).number for n in range(3)]
    await log.tidy()
    assert await first() == numbers[0]
    await log.append(numbers[0], 0, '{"t":"done","s":"a","o":1}', final=True)
    await log.suspend(numbers[1], wake_in_s=0.0, seen=0)
    await log.tidy()
    assert await first() == numbers[2]
    assert [loaded.number for loaded in await log.awake(["s@1"], 10)] == [numbers[1]]
    assert await first() == numbers[1]
    for number in numbers[1:]:
        await log.append(number, 0, '{"t":"done","s":"a","o":1}', final=True)
    await log.tidy()
    assert await first() == numbers[2] + 1
    await connection.close()
