"""The barrier where it is put up wrongly, and what becomes of its table; on each driver."""

import asyncio
import subprocess
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta

import asyncpg
import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from coordinator import Coordinator, InDoubt, InvalidDefinition, Parked, Refused
from coordinator.gids import new_gid
from coordinator.sagas import Attempts, Saga, StepContext, step
from participants.barrier import Asyncpg, Barrier, Call, Direction, Psycopg, SqlAlchemy, Standing, Verdict
from participants.barrier.memory import Memory, MemoryConnection

CALL = Call("g", "pay", Direction.ACTION, b"p")
UNDO = Call("g", "pay", Direction.COMPENSATION, b"u")
WAITS = "SELECT count(*) FROM pg_locks WHERE NOT granted"


@asynccontextmanager
async def by_asyncpg(url, *, autocommit=True):
    connection = await asyncpg.connect(url)
    yield connection
    await connection.close()


@asynccontextmanager
async def by_psycopg(url, *, autocommit=True):
    connection = await psycopg.AsyncConnection.connect(url, autocommit=autocommit)
    yield connection
    await connection.close()


@asynccontextmanager
async def by_sqlalchemy(url, *, autocommit=True, session=False):
    options = {"isolation_level": "AUTOCOMMIT"} if autocommit else {}
    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"), **options)
    async with AsyncSession(engine) if session else engine.connect() as connection:
        yield connection
    await engine.dispose()


@asynccontextmanager
async def memory_connected(url, *, autocommit=True):
    yield MemoryConnection()


@pytest.fixture
async def url(database):
    """A database with a barrier."""
    connection = await asyncpg.connect(database)
    await Barrier("s").create(connection)
    await Barrier("s").create(connection)  # It is there already.
    await connection.close()
    return database


DRIVERS = {
    "asyncpg": (Asyncpg(), by_asyncpg),
    "psycopg": (Psycopg(), by_psycopg),
    "sqlalchemy": (SqlAlchemy(), by_sqlalchemy),
    "sqlalchemy session": (SqlAlchemy(), lambda url, **options: by_sqlalchemy(url, session=True, **options)),
}


async def records(url):
    connection = await asyncpg.connect(url)
    rows = await connection.fetch("SELECT direction, state FROM unanimity.barrier ORDER BY 1")
    await connection.close()
    return dict(rows)


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_connection_that_commits_by_itself_is_refused(url, driver):
    """A record that is not in the transaction of its effect would lose or double it."""
    kind, connected = DRIVERS[driver]
    async with connected(url) as connection:
        for use in (Barrier("s", kind).enter, Barrier("s", kind).settle):
            with pytest.raises(InvalidDefinition, match="inside the transaction"):
                await use(connection, CALL)
        with pytest.raises(InvalidDefinition, match="inside the transaction"):
            await Barrier("s", kind).keep(connection, CALL, b"r")
    assert await records(url) == {}


@pytest.mark.parametrize("driver", DRIVERS)
async def test_what_is_no_connection_of_its_driver_is_refused_by_name(url, driver):
    """A pool, and every connection that another driver speaks."""
    kind, connected = DRIVERS[driver]
    async with AsyncExitStack() as stack:
        wrong = [await stack.enter_async_context(asyncpg.create_pool(url, min_size=1, max_size=1))]
        for speaks, opened in DRIVERS.values():
            if type(speaks) is not type(kind):
                wrong.append(await stack.enter_async_context(opened(url)))
        barrier, name = Barrier("s", kind), type(kind).__name__
        for connection in wrong:
            for use in (barrier.enter, barrier.intend, barrier.settle, barrier.ask):
                with pytest.raises(InvalidDefinition, match=rf"`connection` is a .*the driver {name}\(\) takes an"):
                    await use(connection, CALL)
        assert (await barrier.intend(await stack.enter_async_context(connected(url)), CALL)).verdict is Verdict.PROCEED


@pytest.mark.parametrize("driver", [*DRIVERS, "memory"])
async def test_no_answer_is_kept_of_what_was_committed_before(url, driver):
    """It had its effect: as a refusal it would have nothing to undo."""
    kind, connected = DRIVERS.get(driver, (Memory(), memory_connected))
    barrier = Barrier("s", kind)
    async with connected(url, autocommit=False) as connection:
        async with kind.transaction(connection):
            await barrier.enter(connection, CALL)
            await barrier.keep(connection, CALL, b"first")
            await barrier.keep(connection, CALL, b"kept")
        async with kind.transaction(connection):
            with pytest.raises(InvalidDefinition, match="has not entered on this transaction"):
                await barrier.keep(connection, CALL, b"no", refused=True)
            assert (await barrier.enter(connection, CALL)).result == b"kept"
            assert (await barrier.enter(connection, UNDO)).verdict is Verdict.PROCEED


@pytest.mark.parametrize("driver", ["psycopg", "sqlalchemy", "sqlalchemy session"])
async def test_a_transaction_that_the_first_statement_begins_is_one(url, driver):
    """It is there until it is committed, and gone with a rollback."""
    kind, connected = DRIVERS[driver]
    for end, there in (("rollback", {}), ("commit", {"action": "done"})):
        async with connected(url, autocommit=False) as connection:
            assert (await Barrier("s", kind).enter(connection, CALL)).verdict is Verdict.PROCEED
            await getattr(connection, end)()
        assert await records(url) == there


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_marker_is_never_part_of_another_transaction(url, driver):
    """With it the marker would be rolled back: the undo would find nothing to undo."""
    kind, connected = DRIVERS[driver]
    async with connected(url, autocommit=False) as connection:
        async with kind.transaction(connection):
            with pytest.raises(InvalidDefinition, match="committed by itself"):
                await Barrier("s", kind).intend(connection, CALL)
        assert (await Barrier("s", kind).intend(connection, CALL)).verdict is Verdict.PROCEED
        assert await records(url) == {"action": "intended"}


async def test_what_had_no_effect_has_no_open_marker(url):
    """Otherwise it would be kept for ever."""
    async with by_asyncpg(url) as connection:
        assert (await Barrier("s").intend(connection, UNDO)).verdict is Verdict.NOTHING_TO_UNDO
    assert await records(url) == {"action": "blocked", "compensation": "done"}


async def test_only_who_entered_keeps_an_answer_and_only_an_action_is_refused(url):
    """An undo must succeed in the end."""
    barrier = Barrier("s")
    async with by_asyncpg(url) as connection, connection.transaction():
        with pytest.raises(InvalidDefinition, match="has not entered"):
            await barrier.keep(connection, CALL, b"r")
        await barrier.enter(connection, UNDO)
        with pytest.raises(InvalidDefinition, match="cannot be refused"):
            await barrier.keep(connection, UNDO, b"r", refused=True)


async def test_terms_are_as_large_as_the_journal_s(url):
    """A bigint, on every driver."""
    for number, (kind, connected) in enumerate(DRIVERS.values()):
        call = Call(f"g{number}", "s", Direction.ACTION, b"", 2**62)
        async with connected(url, autocommit=False) as connection, kind.transaction(connection):
            assert (await Barrier("s", kind).enter(connection, call)).verdict is Verdict.PROCEED


@pytest.mark.parametrize("driver", DRIVERS)
async def test_purging_forgets_whole_old_steps_and_no_open_marker(url, driver):
    """Of one scope, a batch at a time. An undo is young for both, also where nothing of the old action is changed."""
    kind, connected = DRIVERS[driver]
    barrier, old = Barrier("s", kind), Call("old", "pay", Direction.ACTION)
    async with by_asyncpg(url) as connection:
        for call in (old, Call("old", "pay", Direction.COMPENSATION), Call("half", "pay", Direction.ACTION)):
            async with connection.transaction():
                await Barrier("s").enter(connection, call)
        refused = Call("refused", "pay", Direction.ACTION)
        async with connection.transaction():
            await Barrier("s").enter(connection, refused)
            await Barrier("s").keep(connection, refused, b"no", refused=True)
        async with connection.transaction():
            await Barrier("other").enter(connection, old)
        await Barrier("s").intend(connection, Call("open", "pay", Direction.ACTION))
        await connection.execute("UPDATE unanimity.barrier SET recorded_at = now() - interval '8 days'")
        for call in (Call("half", "pay", Direction.COMPENSATION), Call("refused", "pay", Direction.COMPENSATION)):
            async with connection.transaction():
                await Barrier("s").enter(connection, call)
    async with connected(url, autocommit=False) as connection, kind.transaction(connection):
        assert await barrier.purge(connection) == 2
        assert await barrier.purge(connection) == 0
    async with by_asyncpg(url) as connection:
        left = await connection.fetch("SELECT scope, gid FROM unanimity.barrier GROUP BY 1, 2 ORDER BY 1, 2")
    assert [tuple(row) for row in left] == [("other", "old"), ("s", "half"), ("s", "open"), ("s", "refused")]


async def test_purging_takes_a_bounded_batch(url):
    """However much there is."""
    async with by_asyncpg(url) as connection:
        await connection.execute("""
            INSERT INTO unanimity.barrier (scope, gid, step, direction, state, term, recorded_at)
            SELECT 's', n::text, '', 'message', 'done', 0, now() - interval '8 days' FROM generate_series(1, 1500) AS n
        """)
        assert [await Barrier("s").purge(connection) for _ in range(3)] == [1000, 500, 0]


async def paid_and_undone(url, barrier, made_ago):
    """What an undo answers a while after its action, when all that may be forgotten is."""
    gid = new_gid("test", datetime.now(UTC) - made_ago, bytes(16))
    async with by_asyncpg(url) as connection:
        async with connection.transaction():
            await barrier.enter(connection, Call(gid, "pay", Direction.ACTION))
        await connection.execute("UPDATE unanimity.barrier SET recorded_at = now() - $1::interval", made_ago)
        await barrier.purge(connection)
        async with connection.transaction():
            return (await barrier.enter(connection, Call(gid, "pay", Direction.COMPENSATION))).verdict


async def test_an_undo_of_a_purged_action_is_in_doubt_and_leaves_no_record(url):
    """It had its effect: that there is nothing to undo would be a lie. Without a purge, or before it, it is undone."""
    day = timedelta(days=1)
    with pytest.raises(InDoubt, match=r"forgets after 7.0 days, and the transaction is 8.0 days old.*sagas skip"):
        await paid_and_undone(url, Barrier("s"), 8 * day)
    assert await records(url) == {}
    assert await paid_and_undone(url, Barrier("s"), 6 * day) is Verdict.PROCEED
    assert await paid_and_undone(url, Barrier("patient", retention_s=9 * 86_400), 8 * day) is Verdict.PROCEED


@pytest.mark.parametrize("driver", DRIVERS)
async def test_who_is_in_doubt_and_commits_all_the_same_leaves_no_record(url, driver):
    """A second undo would find it, and answer that it was undone."""
    kind, connected = DRIVERS[driver]
    gid = new_gid("test", datetime.now(UTC) - timedelta(days=8), bytes(16))
    async with connected(url, autocommit=False) as connection, kind.transaction(connection):
        with pytest.raises(InDoubt):
            await Barrier("s", kind).enter(connection, Call(gid, "pay", Direction.COMPENSATION))
        with pytest.raises(InDoubt):
            await Barrier("s", kind).ask(connection, Call(gid, "pay", Direction.ACTION))
    assert await records(url) == {}


async def test_nothing_is_forgotten_before_the_retention_of_the_barrier(url):
    """Otherwise an undo would take what was forgotten for what never came."""
    async with by_asyncpg(url) as connection:
        with pytest.raises(InvalidDefinition, match="retention_s is 604800"):
            await Barrier("s").purge(connection, older_than_s=3600)
        assert await Barrier("s", retention_s=3600).purge(connection, older_than_s=7200) == 0


async def test_a_saga_whose_action_may_be_forgotten_parks_instead_of_skipping_its_undo():
    """An operator looks whether the effect stands."""
    ahead_s = 0.0
    table = Memory(lambda: time.time() + ahead_s)
    barrier = Barrier("s", table)

    async def pass_barrier(context: StepContext, direction: Direction) -> None:
        connection = MemoryConnection()
        async with table.transaction(connection):
            await barrier.enter(connection, Call(context.gid, context.step, direction, term=context.term))

    async def pay(context: StepContext) -> None:
        await pass_barrier(context, Direction.ACTION)

    async def take_back(context: StepContext) -> None:
        await pass_barrier(context, Direction.COMPENSATION)

    async def ship() -> None:
        nonlocal ahead_s
        ahead_s = 8 * 86_400
        table.committed.clear()  # What a purge would do by then.
        raise Refused("it is sold out")

    saga = Saga("order", step(pay, compensate=take_back, undo_retry=Attempts(at_most=2, backoff_s=0.01)), step(ship))
    async with Coordinator(journal="memory://forgotten", sagas=[saga]) as coordinator:
        with pytest.raises(Parked, match="has forgotten it"):
            await coordinator.run(saga)
        assert [alert.kind for alert in await coordinator.sagas.engine.alerts.open_alerts()] == ["parked-saga"]


async def test_an_undo_waits_for_the_action_that_it_meets(url):
    """It is not answered before the action's transaction is at its end."""
    barrier = Barrier("s")
    async with by_asyncpg(url) as first, by_asyncpg(url) as second:
        action = first.transaction()
        await action.start()
        await barrier.enter(first, CALL)

        async def undo():
            async with second.transaction():
                return (await barrier.enter(second, UNDO)).verdict

        undoing = asyncio.create_task(undo())
        while not await first.fetchval(WAITS):
            assert not undoing.done()
        await action.commit()
        assert await undoing is Verdict.PROCEED
    assert await records(url) == {"action": "undone", "compensation": "done"}


async def ask(url, call, kind=None, connected=by_asyncpg):
    async with connected(url, autocommit=False) as connection, (kind or Asyncpg()).transaction(connection):
        return await Barrier("s", kind).ask(connection, call)


@pytest.mark.parametrize("driver", DRIVERS)
async def test_what_is_asked_about_and_is_not_there_is_kept_out(url, driver):
    """An answer of never is one for ever, and leaves nothing to undo."""
    kind, connected = DRIVERS[driver]
    assert await ask(url, CALL, kind, connected) == (Standing.NEVER, None)
    assert await ask(url, CALL, kind, connected) == (Standing.NEVER, None)
    async with by_asyncpg(url) as connection, connection.transaction():
        assert (await Barrier("s").enter(connection, CALL)).verdict is Verdict.TOO_LATE
        assert (await Barrier("s").enter(connection, UNDO)).verdict is Verdict.NOTHING_TO_UNDO


async def test_what_became_of_a_step_is_told_with_its_answer(url):
    """Done, begun outside, and undone; of an undo nothing is told."""
    barrier = Barrier("s")
    async with by_asyncpg(url) as connection:
        async with connection.transaction():
            await barrier.enter(connection, CALL)
            await barrier.keep(connection, CALL, b"answer")
        assert await ask(url, CALL) == (Standing.DONE, b"answer")
        async with connection.transaction():
            await barrier.enter(connection, UNDO)
        assert (await ask(url, CALL))[0] is Standing.NEVER
        begun = Call("other", "pay", Direction.ACTION)
        await barrier.intend(connection, begun)
        assert await ask(url, begun) == (Standing.UNKNOWN, None)
        with pytest.raises(InvalidDefinition, match="repeat it"):
            await ask(url, UNDO)
        with pytest.raises(InvalidDefinition, match="open one first"):
            await barrier.ask(connection, CALL)


async def test_an_action_that_is_under_way_is_waited_for_before_its_standing_is_told(url):
    """Otherwise never would be said of what is about to be done."""
    barrier = Barrier("s")
    async with by_asyncpg(url) as first:
        action = first.transaction()
        await action.start()
        await barrier.enter(first, CALL)
        asking = asyncio.create_task(ask(url, CALL))
        while not await first.fetchval(WAITS):
            assert not asking.done()
        await action.commit()
        assert await asking == (Standing.DONE, None)


def test_only_what_is_used_is_imported():
    """The extras are extras."""
    code = (
        "import sys, participants.barrier, participants.barrier.on_redis;"
        "sys.exit(any(name in sys.modules for name in ('sqlalchemy', 'psycopg', 'redis')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
