"""What sagas do to each other, and the countermeasures: every example with its anomaly, and without it."""

import asyncio
from contextlib import AsyncExitStack

import asyncpg
import pytest

from coordinator import Coordinator
from coordinator.errors import Compensated, Conflict, InvalidDefinition, Refused
from coordinator.faults.injectors import ArmedFaults, parse
from coordinator.sagas import Saga, step
from examples.isolation import commutative, rereading, semantic_lock
from examples.isolation.stage import coordinated, opened
from participants.barrier import Barrier, Call, Direction, SqlAlchemy, Verdict
from participants.isolation import Changed, SemanticLocks, reread
from participants.isolation.semantic_lock import gives_way
from tests.integration.test_barrier import DRIVERS


@pytest.mark.parametrize(
    ("example", "without", "guarded"),
    [
        pytest.param(semantic_lock, -100, 0, id="a dirty read"),
        pytest.param(rereading, 110, 165, id="a lost update after a wait"),
        pytest.param(commutative, 110, 120, id="a lost update at the same moment"),
    ],
)
async def test_an_anomaly_and_its_countermeasure(database, example, without, guarded):
    assert await example.shown(database, guarded=False) == without
    assert await example.shown(database, guarded=True) == guarded


@pytest.mark.parametrize("example", ["rereading", "semantic lock"])
async def test_a_step_whose_answer_was_lost_does_not_take_its_own_change_for_another_s(database, example):
    """It was done, once: who is told that it was undone begins it again, and it is done twice."""
    fault = parse("saga.run:reply_lost=1*error")
    async with opened(database, balance=100) as bank:
        if example == "rereading":
            looked, may = asyncio.Event(), asyncio.Event()
            may.set()
            saga, given, balance = rereading._interest(bank, looked, may, guarded=True), None, 110
            fault.labels = {"step": "book"}
        else:
            async with bank.pool.acquire() as connection:
                await SemanticLocks().create(connection)
            saga = semantic_lock._payment(bank, SemanticLocks(), asyncio.Event(), guarded=True)
            given, balance = 100, 0
        async with coordinated(f"own-{example}", saga) as coordinator:
            with ArmedFaults(faults=[fault]):
                assert (await coordinator.run(saga, given)).completed
        assert fault.fired == 1
        assert await bank.balance() == balance


@pytest.mark.parametrize("cell", ["before", "reply_lost"])
async def test_what_commutes_is_taken_back_only_where_it_was_done(database, cell):
    fault = parse(f"saga.run:{cell}{{step=book}}=1*error")
    async with opened(database, balance=100) as bank:
        saga = commutative._booking(bank, asyncio.Barrier(1), guarded=True)
        async with coordinated(f"commutes-{cell}", saga) as coordinator:
            with ArmedFaults(faults=[fault]), pytest.raises(Compensated):
                await coordinator.run(saga, 10)
        assert fault.fired == 1
        assert await bank.balance() == 100


async def test_that_something_has_changed_says_nothing_of_an_attempt_before():
    """That one may have changed it: so its compensation runs."""
    failures, undone = [TimeoutError(), Changed("it was changed since it was read")], []

    async def book() -> None:
        raise failures.pop(0)

    async def take_back() -> None:
        undone.append("book")

    saga = Saga("booking", step(book, compensate=take_back, on_unknown="retry"))
    async with Coordinator(journal="memory://changed", sagas=[saga]) as coordinator:
        with pytest.raises(Compensated, match="it was changed"):
            await coordinator.run(saga)
    assert undone == ["book"]


class Bench:
    """The locks in one database, by one driver, and connections of that."""

    def __init__(self, url, driver, stack):
        self.driver, self._connected = DRIVERS[driver]
        self.locks, self._url, self._stack = SemanticLocks(self.driver), url, stack

    async def connect(self, **options):
        """A connection of its own."""
        return await self._stack.enter_async_context(self._connected(self._url, **{"autocommit": False, **options}))


@pytest.fixture(params=DRIVERS)
async def bench(request, database):
    """On each driver."""
    connection = await asyncpg.connect(database)
    await SemanticLocks().create(connection)
    await Barrier("s").create(connection)
    await connection.execute("CREATE TABLE flights (number text, seats int); INSERT INTO flights VALUES ('LH 1', 7)")
    await connection.close()
    async with AsyncExitStack() as stack:
        yield Bench(database, request.param, stack)


async def test_a_lock_is_kept_over_transactions_and_let_go_in_one(bench):
    locks, one, two = bench.locks, await bench.connect(), await bench.connect()
    async with locks.taken(one, "a", "b", gid="1"):
        pass
    async with locks.taken(one, "b", gid="1"):  # Again: it is a retry of the same saga.
        pass
    with pytest.raises(Conflict, match="'b' is held by saga 1"):
        async with locks.taken(two, "b", "c", gid="2"):
            raise AssertionError("nobody gets here")
    async with locks.taken(one, "c", gid="3"):  # What was refused took nothing.
        pass
    with pytest.raises(InvalidDefinition, match="inside the transaction"):
        await locks.release(await bench.connect(autocommit=True), gid="1")
    async with bench.driver.transaction(one):
        await locks.release(one, "b", gid="1")
        await locks.release(one, "b", gid="4")  # A compensation without its step.
    async with locks.taken(two, "b", gid="2"):
        pass
    with pytest.raises(Conflict):
        async with locks.taken(two, "a", gid="2"):
            pass


async def test_a_step_that_fails_takes_no_lock(bench):
    locks, one = bench.locks, await bench.connect()
    with pytest.raises(ZeroDivisionError):
        async with locks.taken(one, "a", gid="1"):
            raise ZeroDivisionError
    async with locks.taken(one, "a", gid="2"):
        pass
    async with bench.driver.transaction(one):
        await bench.driver.rows(one, "SELECT 1")
        with pytest.raises(InvalidDefinition, match="outside of one"):
            async with locks.taken(one, "a", gid="2"):
                pass


async def test_behind_a_barrier_only_what_may_proceed_takes_a_lock(bench):
    """A late duplicate would have it for good; and a delivery that has to wait for a lock has not come yet."""
    locks, barrier, connection = bench.locks, Barrier("s", bench.driver), await bench.connect()

    async def credit(gid):
        async with locks.taken(connection, gid=gid) as take:
            passage = await barrier.enter(connection, Call(gid, "credit", Direction.ACTION))
            if passage.verdict is Verdict.PROCEED:
                await take("account")
        return passage.verdict

    async def end(gid, direction):
        async with bench.driver.transaction(connection):
            await barrier.enter(connection, Call(gid, "credit", direction))
            await locks.release(connection, gid=gid)

    assert await credit("1") is Verdict.PROCEED
    assert await credit("1") is Verdict.DUPLICATE
    with pytest.raises(Conflict, match="'account' is held by saga 1"):
        await credit("2")
    await end("1", Direction.COMPENSATION)
    assert await credit("1") is Verdict.TOO_LATE
    assert await credit("2") is Verdict.PROCEED
    async with bench.driver.transaction(connection):
        await locks.release(connection, gid="2")
    assert await credit("2") is Verdict.DUPLICATE
    async with locks.taken(connection, "account", gid="3"):
        pass


async def test_an_operator_sees_who_has_what_and_frees_it(bench):
    """What a saga has left behind whose compensation was skipped."""
    locks, one, two = bench.locks, await bench.connect(), await bench.connect()
    for resources, gid in ((("a", "b", "c"), "1"), (("d",), "2")):
        async with locks.taken(one, *resources, gid=gid):
            pass
    assert [(lock.resource, lock.gid) for lock in await locks.held(two)] == [
        ("a", "1"), ("b", "1"), ("c", "1"), ("d", "2"),
    ]  # fmt: skip
    assert [lock.resource for lock in await locks.held(two, "2")] == ["d"]
    assert (await locks.held(two, "2"))[0].taken_at.tzinfo is not None
    assert await locks.free(two, "1", "a", "d") == ["a"]
    assert await locks.free(two, "1") == ["b", "c"]
    assert await locks.free(two, "1") == []
    assert [lock.resource for lock in await locks.held(one)] == ["d"]


async def waits(bench):
    connection = await bench.connect()
    async with bench.driver.transaction(connection):
        rows = await bench.driver.rows(connection, "SELECT gid FROM unanimity.semantic_waits ORDER BY 1")
    return [row[0] for row in rows]


async def test_who_has_given_up_waits_no_more(bench):
    """Nobody says so: whoever waits next takes it away. Who gives way in a circle does so at once."""
    locks, connection = bench.locks, await bench.connect()

    async def take(resource, gid):
        async with locks.taken(connection, resource, gid=gid):
            pass

    await take("a", "1")
    for gid in ("2", "3"):
        with pytest.raises(Conflict):
            await take("a", gid)
    assert await waits(bench) == ["2", "3"]
    async with bench.driver.transaction(connection):
        aged = "UPDATE unanimity.semantic_waits SET asked_at = now() - interval '61 s' RETURNING gid"
        await bench.driver.rows(connection, aged)
    with pytest.raises(Conflict):
        await take("a", "3")
    assert await waits(bench) == ["3"]
    await take("b", "4")
    with pytest.raises(Conflict):
        await take("b", "1")
    with pytest.raises(Refused, match="gives way"):
        await take("a", "4")
    assert await waits(bench) == ["1", "3"]


async def test_a_connection_that_commits_by_itself_takes_nothing(bench):
    """What it had taken before it met another's could not be given back. asyncpg's and psycopg's blocks are real."""
    locks, one, two = bench.locks, await bench.connect(), await bench.connect(autocommit=True)
    async with locks.taken(one, "a", gid="1"):
        pass
    with pytest.raises((Refused, Conflict)) as raised:
        async with locks.taken(two, "b", "a", gid="2"):
            raise AssertionError("nobody gets here")
    if isinstance(bench.driver, SqlAlchemy):
        assert "commits by itself" in str(raised.value)
    async with locks.taken(one, "b", gid="1"):
        pass


async def test_what_was_changed_since_it_was_read_is_found_out(bench):
    one, two = await bench.connect(), await bench.connect()
    seats = "SELECT seats FROM flights WHERE number = $1"
    async with bench.driver.transaction(one):
        await reread(one, seats, "LH 1", expected=7, driver=bench.driver)
        await bench.driver.rows(one, "UPDATE flights SET seats = 6 RETURNING seats")
    async with bench.driver.transaction(two):
        with pytest.raises(Changed, match="7 then, 6 now"):
            await reread(two, seats, "LH 1", expected=7, driver=bench.driver)


async def test_a_row_that_is_gone_is_no_row_of_nothing_and_several_are_not_one(bench):
    one = await bench.connect()
    async with bench.driver.transaction(one):
        await bench.driver.rows(one, "INSERT INTO flights VALUES ('LH 2', NULL), ('LH 3', 7) RETURNING number")
    async with bench.driver.transaction(one):
        seats = "SELECT seats FROM flights WHERE number = $1"
        await reread(one, seats, "LH 2", expected=None, driver=bench.driver)
        with pytest.raises(Refused, match="it is gone"):
            await reread(one, seats, "LH 9", expected=None, driver=bench.driver)
        with pytest.raises(InvalidDefinition, match="these are 2"):
            await reread(one, "SELECT seats FROM flights WHERE seats = $1", 7, expected=7, driver=bench.driver)


async def test_what_is_read_again_stays_so_until_the_transaction_ends(bench):
    one, two = await bench.connect(), await bench.connect()
    async with bench.driver.transaction(one):
        await reread(one, "SELECT seats FROM flights WHERE number = $1", "LH 1", expected=7, driver=bench.driver)
        changing = asyncio.create_task(take_a_seat(bench.driver, two))
        await waiting_for_a_lock(bench)
        assert not changing.done()
    assert await changing == 6


async def take_a_seat(driver, connection):
    async with driver.transaction(connection):
        return (await driver.rows(connection, "UPDATE flights SET seats = seats - 1 RETURNING seats"))[0][0]


async def waiting_for_a_lock(bench):
    """Until somebody in this database waits for a lock."""
    connection = await bench.connect()
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with asyncio.timeout(20):
        while True:
            async with bench.driver.transaction(connection):
                if (await bench.driver.rows(connection, query))[0][0]:
                    return
            await asyncio.sleep(0.01)


async def test_of_a_circle_the_youngest_gives_way_and_the_others_go_on(bench):
    locks, connections = bench.locks, {gid: await bench.connect() for gid in ("1", "2", "3")}

    async def take(resource, gid):
        async with locks.taken(connections[gid], resource, gid=gid):
            pass

    for gid in connections:
        await take(f"of {gid}", gid)
    asked = [("of 2", "1"), ("of 3", "2"), ("of 1", "3")]
    answers = await asyncio.gather(*(take(*each) for each in asked), return_exceptions=True)
    assert [type(answer) for answer in answers[:2]] == [Conflict, Conflict]
    if isinstance(answers[2], Conflict):  # It looked before the others had said that they wait: the next look tells.
        with pytest.raises(Refused, match="the youngest gives way"):
            await take("of 1", "3")
    async with bench.driver.transaction(connections["3"]):  # Its compensations.
        await locks.release(connections["3"], gid="3")
    await take("of 3", "2")
    async with bench.driver.transaction(connections["2"]):
        await locks.release(connections["2"], gid="2")
    await take("of 2", "1")


@pytest.mark.parametrize(
    ("edges", "victims"),
    [
        ([], set()),
        ([("1", "2"), ("2", "3")], set()),
        ([("1", "2"), ("2", "1")], {"2"}),
        ([("3", "1"), ("1", "2"), ("2", "3")], {"3"}),
        ([("1", "2"), ("2", "1"), ("3", "1")], {"2"}),
        ([("1", "2"), ("2", "1"), ("2", "3"), ("3", "2")], {"2", "3"}),
        ([("1", "3"), ("3", "1"), ("2", "3"), ("3", "2")], {"3"}),
    ],
)
def test_who_gives_way(edges, victims):
    """One of each circle, and nobody who is in none."""
    assert {gid for gid in "123" if gives_way(gid, edges)} == victims
