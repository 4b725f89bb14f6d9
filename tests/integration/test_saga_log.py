"""What only the log of sagas in PostgreSQL has: old sagas are forgotten, and a successor finds what is unfinished."""

import asyncio
import json

import asyncpg
import pytest

from coordinator.journal.owners import PostgresOwners
from coordinator.journal.postgres import SQL as JOURNAL
from coordinator.journal.postgres import PostgresJournal
from coordinator.journal.sagas import SQL, PostgresSagas
from coordinator.sagas.log import NewSaga, Rest


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
    await log.send("unan:0", "x", "0")
    await log.append(numbers[0], 0, '{"t":"done","s":"a","o":1}', final=True)
    await log.append(numbers[1], 0, '{"t":"done","s":"a","o":1}')
    await log.send("unan:1", "x", "1")
    assert await log.purge() == 0
    assert await log.purge(older_than_s=-1) == 1
    assert await log.load("unan:0") is None
    assert (await log.load("unan:1")).events == ['{"t":"done","s":"a","o":1}']
    connection = await asyncpg.connect(database)
    assert await connection.fetchval("SELECT count(*) FROM unanimity.saga_events") == 1
    assert [row["number"] for row in await connection.fetch("SELECT number FROM unanimity.saga_signals")] == numbers[
        1:2
    ]
    await connection.close()


START = ("unan:new", "s", "s@1", None, "f", "null", None)
UNDER_WAY = {
    "start_one": lambda number: START,
    "append_one": lambda number: (number, 0, '{"t":"done","s":"a"}', False),
    "append_freed": lambda number: (number, 0, '{"t":"resumed"}', False, "ann", "mended", "parked-saga"),
    "flush": lambda number: ("", f'{number}\x1f0\x1f{{"t":"done","s":"a"}}\x1ffalse'),
}


@pytest.mark.parametrize("statement", UNDER_WAY)
async def test_a_takeover_waits_until_what_is_being_written_is_durable(log, database, statement):
    """Otherwise a successor goes on with a saga as it was before, and what was written comes to stand beside that."""
    number, (owner, term) = (await log.start(saga("unan:0"))).number, log._owner()
    writing, other = await asyncpg.connect(database), await asyncpg.connect(database)
    journal = PostgresJournal(database)
    await journal.open()
    owners = PostgresOwners(journal, owner_id="b", lease_s=60)
    successor = await owners.register()
    await other.execute("UPDATE unanimity.owners SET lease_until = now() - interval '1 s' WHERE owner = $1", owner)
    async with writing.transaction():
        await writing.execute(SQL[statement], owner, term, *UNDER_WAY[statement](number))
        assert await owners.take_over(successor) == [], "it was taken over while it wrote"
    assert await owners.take_over(successor) == [owner]
    for each in (writing, other, journal):
        await each.close()


async def test_where_the_unfinished_begin_moves_on_and_back(log, database):
    """Onward over what has ended, and back with one that is taken over."""
    connection = await asyncpg.connect(database)

    async def first():
        return await connection.fetchval("SELECT first FROM unanimity.saga_owners")

    numbers = [(await log.start(saga(f"unan:{n}"))).number for n in range(3)]
    await log.tidy()
    assert await first() == numbers[0]
    await log.append(numbers[0], 0, '{"t":"done","s":"a","o":1}', final=True)
    await log.suspend(Rest(numbers[1], 1, 0, 0.0))
    await log.tidy()
    assert await first() == numbers[2]
    assert [loaded.number for loaded in await log.awake(["s@1"], 10)] == [numbers[1]]
    assert await first() == numbers[1]
    for number in numbers[1:]:
        await log.append(number, 0, '{"t":"done","s":"a","o":1}', final=True)
    await log.tidy()
    assert await first() == numbers[2] + 1
    await connection.close()


async def test_those_that_ended_first_are_forgotten_first_whatever_their_numbers(log, database, monkeypatch):
    """One that began early and ended late keeps none of those that ended before it."""
    monkeypatch.setattr("coordinator.limits.JOURNAL_BATCH_MAX", 1)
    numbers = [(await log.start(saga(f"unan:{n}"))).number for n in range(4)]
    for number in numbers:
        await log.append(number, 0, '{"t":"done","s":"a","o":1}', final=True)
    connection = await asyncpg.connect(database)
    await connection.execute(
        "UPDATE unanimity.saga_events SET at = now() - interval '30 days' WHERE number = ANY($1::bigint[])", numbers[2:]
    )
    assert [await log.purge(), await log.purge(), await log.purge()] == [1, 1, 0]
    assert [
        row["number"] for row in await connection.fetch("SELECT number FROM unanimity.sagas ORDER BY 1")
    ] == numbers[:2]
    await connection.close()


ADOPTED = """
INSERT INTO unanimity.sagas (gid, name, definition, fingerprint, input, owner, term)
SELECT 'unan:' || n, 's', 's@1', 'f', 'null', 'dead', 1 FROM generate_series(1, $1::int) AS n RETURNING number
"""


FIRST = "SELECT first FROM unanimity.saga_owners WHERE owner = $1"
BEGUN = """
INSERT INTO unanimity.sagas (gid, name, definition, fingerprint, input, owner, term)
SELECT 'unan:early', 's', 's@1', 'f', 'null', owner, term FROM unanimity.owners WHERE owner = $1 RETURNING number
"""


async def test_a_takeover_that_a_lost_connection_left_behind_is_not_tidied_away(log, database):
    """It comes, or ends, between the questions of one tidying: a successor finds what it took."""
    connection, other = await asyncpg.connect(database), await asyncpg.connect(database)
    (owner, term), run = log._owner(), log._forced.run
    old = await connection.fetchval(ADOPTED, 1)
    await connection.execute(
        "INSERT INTO unanimity.owners (owner, lease_until, term, taken_by) VALUES ('dead', now(), 2, $1)", owner
    )
    new = (await log.start(saga("unan:new"))).number
    await log.append(new, 0, '{"t":"done","s":"a","o":1}', final=True)
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(work):
        answer = await run(work)
        asked.set()
        await go_on.wait()
        return answer

    log._forced.run = slowly
    tidying = asyncio.create_task(log.tidy())
    await asked.wait()
    transaction = connection.transaction()
    await transaction.start()
    assert await connection.fetchval(SQL["adopt"], owner, term, ["s@1"], 10, 2, 5, False) == old
    go_on.set()
    await asyncio.sleep(0.2)
    await transaction.commit()
    await tidying
    assert await other.fetchval(FIRST, owner) <= old
    await log.append(old, 0, '{"t":"done","s":"a","o":1}', final=True)
    await log.tidy()
    assert await other.fetchval(FIRST, owner) > new
    await connection.close()
    await other.close()


async def test_a_start_that_a_lost_connection_left_behind_is_not_tidied_away(log, database):
    """It has a number, and is not visible yet, when later ones have begun and ended: tidying waits for it."""
    owner, _ = log._owner()
    hanging = await asyncpg.connect(database)
    transaction = hanging.transaction()
    await transaction.start()
    await hanging.execute("SELECT FROM unanimity.owners WHERE owner = $1 FOR SHARE", owner)
    early = await hanging.fetchval(BEGUN, owner)
    late = (await log.start(saga("unan:late"))).number
    await log.append(late, 0, '{"t":"done","s":"a","o":1}', final=True)
    tidying = asyncio.create_task(log.tidy())
    await asyncio.sleep(0.3)
    assert not tidying.done()
    await transaction.commit()
    await tidying
    assert await hanging.fetchval(FIRST, owner) == early
    await hanging.close()


ENDED = """
WITH begun AS (
    INSERT INTO unanimity.sagas (gid, name, definition, fingerprint, input, owner, term)
    SELECT 'unan:old' || n, 's', 's@1', 'f', 'null', owner, term
    FROM unanimity.owners, generate_series(1, 20000) AS n WHERE owner = $1 RETURNING number
)
INSERT INTO unanimity.saga_events (number, position, event, final) SELECT number, 0, '{}', true FROM begun
"""


UNFINISHED = """
INSERT INTO unanimity.saga_events (number, position, event)
SELECT n, 0, 'null' FROM generate_series(1000001, 1020000) AS n
"""


@pytest.mark.parametrize("known", ["nothing", "none that had ended"])
async def test_those_who_look_for_sagas_read_none_that_have_ended(log, database, known):
    """Whatever the planner believes: they look several times a second, and what has ended is kept for days."""
    connection, (owner, term) = await asyncpg.connect(database), log._owner()
    if known == "none that had ended":
        await connection.execute(UNFINISHED)
        await connection.execute("ANALYZE unanimity.saga_events")
    await connection.execute(ENDED, owner)
    await log.tidy()
    await connection.execute(
        "INSERT INTO unanimity.owners (owner, lease_until, term, taken_by) VALUES ('dead', now(), 2, $1)", owner
    )
    left = [row["number"] for row in await connection.fetch(ADOPTED, 3)]
    queries = {**SQL, "bury": JOURNAL["bury"]}
    questions = {
        "awake": (owner, term, ["s@1"], 10),
        "adopt": (owner, term, ["s@1"], 10, 3, 5, False),
        "strays": (owner, term, ["s@1"], [], 0.0, 10),
        "tidy": (owner, left[0], 0, left[-1]),
        "bury": (owner,),
    }
    for statement in ("SELECT", "ANALYZE unanimity.sagas, unanimity.saga_events, unanimity.owners"):
        await connection.execute(statement)
        for name, arguments in questions.items():
            transaction = connection.transaction()
            await transaction.start()
            answer = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {queries[name]}", *arguments)
            await transaction.rollback()
            plan = json.loads(answer)[0]["Plan"]
            pages = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
            assert pages < 150, f"{name} reads {pages} pages after {statement}; those that have ended are 20,000 rows"
    await connection.close()
    assert [loaded.number for loaded in await log.adopt(["s@1"], 10)] == left
