"""An order in a database and its payment at a service over HTTP, on real servers: both or neither, and once.

Processes are killed: the coordinator's at every boundary of the payment, and the service's own.
"""

import asyncio
import itertools
from contextlib import asynccontextmanager

import asyncpg
import pytest

from coordinator import CoordinatorError, InDoubt, limits
from coordinator.faults.injectors import ArmedFaults, Fault
from coordinator.faults.points import POINTS, Cell
from examples.social_post.observer import until
from tests.acceptance.children import children_of
from tests.acceptance.tcc_child import AMOUNT, SCENARIOS, TABLES, coordinating, order
from tests.acceptance.test_matrix import IN_PROCESS
from tests.integration.http.test_sagas import Payments, losing_the_first_answer

BALANCE = 100
WITHIN_S = 40.0
PAID, UNPAID = (1, 1, 0, BALANCE - AMOUNT), (0, 0, 0, BALANCE)
ENDS = {"tried": UNPAID, "confirmed": PAID, "cancelled in doubt": UNPAID, "cancelled after its vote": UNPAID}
KILLED = list(itertools.product(SCENARIOS, Cell))
AT_ONCE = 3


class Stage:
    """The service in a process of its own, its books, the orders, and a coordinator that survives."""

    def __init__(self, database, payments, orders, books):
        self.database, self.payments = database, payments
        self.orders, self.books, self.coordinator = orders, books, None

    async def open_account(self, account, *, permitted=True):
        """Some money in it; and a permission to order, without which the database says no."""
        await self.books.execute("INSERT INTO accounts VALUES ($1, $2)", account, BALANCE)
        if permitted:
            await self.orders.execute("INSERT INTO allowed VALUES ($1)", account)

    async def standing(self, account):
        """Orders, charges, holds, and what is left."""
        return (
            await self.orders.fetchval("SELECT count(*) FROM orders WHERE account = $1", account),
            await self.books.fetchval("SELECT count(*) FROM charges WHERE account = $1", account),
            await self.books.fetchval("SELECT count(*) FROM holds WHERE account = $1", account),
            await self.books.fetchval("SELECT balance FROM accounts WHERE name = $1", account),
        )

    async def ends(self, account, *allowed):
        """Wait until *account* stands as it may in the end, and nothing is prepared any more; how it stands."""

        async def ended():
            return await self.standing(account) in allowed and not await self.prepared()

        await until(ended, WITHIN_S)
        found = await self.standing(account)
        assert (found in allowed, await self.prepared()) == (True, 0), f"{account}: {found} is none of {allowed}"
        return found

    async def waiting_for_a_lock(self, at_least):
        """Until so many transactions of the service wait for a lock."""
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

        async def waiting():
            return await self.books.fetchval(query) >= at_least

        assert await until(waiting, WITHIN_S) is not None

    async def nothing_owed(self):
        """Whether every decision is carried out, and nothing is prepared."""
        query = "SELECT count(*) FROM unanimity.decisions WHERE done_at IS NULL"
        return not await self.orders.fetchval(query) and not await self.prepared()

    async def prepared(self):
        """Branches in the orders' database whose end is still owed."""
        return await self.orders.fetchval("SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()")


@asynccontextmanager
async def staged(postgres, name):
    """The two databases, and the service; without a coordinator yet."""
    database, ledger = await postgres.create_database(name), await postgres.create_database(f"{name}_ledger")
    payments = Payments(ledger)
    await payments.start()
    orders, books = await asyncpg.connect(database), await asyncpg.connect(ledger)
    try:
        await orders.execute(TABLES)
        yield Stage(database, payments, orders, books)
    finally:
        await orders.close()
        await books.close()
        await payments.kill()


@pytest.fixture(scope="module")
async def stage(postgres):
    """One stage for all cells: what one leaves over fails the last test."""
    async with (
        staged(postgres, "tcc_http") as built,
        coordinating(built.database, built.payments.port) as built.coordinator,
    ):
        yield built


async def told(coordinator, account, **options):
    """Order; what the caller was told."""
    try:
        await order(coordinator, account, **options)
    except InDoubt:
        return "in doubt"
    except CoordinatorError:
        return "aborted"
    return "committed"


def test_every_point_is_struck_in_this_process_and_by_a_kill():
    """A boundary that nobody strikes at is not proved."""
    points = {point for point in POINTS if point.startswith("tcc.")}
    assert {point for point, _ in SCENARIOS.values()} == points
    assert {(SCENARIOS[scenario][0], cell) for scenario, cell in KILLED} == set(itertools.product(points, Cell))
    assert ENDS.keys() == SCENARIOS.keys()


@pytest.mark.parametrize(("cell", "action"), IN_PROCESS)
@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_a_fault_in_this_process_breaks_no_promise(stage, scenario, cell, action):
    """The caller is told the truth, and the orders and the service's books agree with it."""
    account = f"{scenario} {cell} {action}"
    await stage.open_account(account, permitted=scenario != "cancelled after its vote")
    point, before = SCENARIOS[scenario]
    fault = Fault(point=point, cell=cell, action=action, argument="60" if action == "delay" else "", times=1)
    faults = [fault, *([Fault(point=before.point, cell=before.cell, times=1)] if before else [])]
    with ArmedFaults(faults=faults) as armed:
        answer = await told(stage.coordinator, account)
        possible = {"committed": [PAID], "aborted": [UNPAID], "in doubt": [PAID, UNPAID]}[answer]
        found = await stage.ends(account, *possible)
        await armed.arrive()
        assert not armed.unfired(), "a cell that never fires proves nothing"
    assert await stage.standing(account) == found, "what comes late changes nothing"
    if scenario != "tried":
        assert found == ENDS[scenario]


@pytest.fixture(scope="module")
async def children():
    """Processes that are killed, a few at a time."""
    async with children_of("tests.acceptance.tcc_child", AT_ONCE) as begun:
        yield begun


async def child(children, stage, scenario, cell, account=""):
    """A process that is killed; what ended it."""
    arguments = (scenario, cell, account, str(stage.payments.port))
    _, returned = await children.run(*arguments, COORDINATOR_POSTGRES_URL=stage.database)
    return returned


@pytest.fixture(scope="module")
async def killed(children, stage):
    """A process killed in every cell of every scenario; the stage's own recovers all of them."""
    results = {}

    async def one(scenario, cell):
        results[scenario, cell] = await child(children, stage, scenario, cell, f"{scenario} {cell} kill")

    for scenario, cell in KILLED:
        await stage.open_account(f"{scenario} {cell} kill", permitted=scenario != "cancelled after its vote")
    await asyncio.gather(*(one(scenario, cell) for scenario, cell in KILLED))
    return results


@pytest.mark.parametrize(("scenario", "cell"), KILLED)
async def test_a_coordinator_that_is_killed_leaves_both_or_neither(stage, killed, scenario, cell):
    """Another process finds its end, in its journal or at the service, and brings it about once."""
    assert killed[scenario, cell] == -9, "the process was not killed: the cell never fired"
    await stage.ends(f"{scenario} {cell} kill", ENDS[scenario])


@pytest.mark.parametrize(
    ("left", "cell", "recovers"), [("confirmed", Cell.BEFORE, "confirmed"), ("tried", Cell.AFTER, "cancelled in doubt")]
)
async def test_whoever_recovers_may_be_killed_at_it_too(postgres, children, left, cell, recovers):
    """One process after the other dies on what the first has left; the last one brings it to the same end, once."""
    async with staged(postgres, f"tcc_{left}") as stage:
        # Each that is killed may have finished as many as are swept together, and something is left for the next.
        accounts = [f"left {number}" for number in range(len(Cell) * limits.SWEEP_TOGETHER_MAX)]
        for account in accounts:
            await stage.open_account(account)
        died_of = await asyncio.gather(*(child(children, stage, left, cell, account) for account in accounts))
        assert died_of == [-9] * len(accounts)
        for where in Cell:
            assert await child(children, stage, recovers, where) == -9, f"it was not killed: {where} never fired"
        async with coordinating(stage.database, stage.payments.port):
            for account in accounts:
                await stage.ends(account, ENDS[left])
            assert await until(stage.nothing_owed, WITHIN_S) is not None


TAKEN_OVER = {
    "confirmed": (Cell.BEFORE, "confirm"),
    "cancelled after its vote": (Cell.BEFORE, "cancel"),
    "tried": (Cell.AFTER, "cancel"),
}


async def test_whoever_takes_over_signs_a_higher_term(postgres, children):
    """The first one died with term 1; a request of it that comes late is turned away by what the service knows then."""
    async with staged(postgres, "tcc_terms") as stage:
        for left, (cell, _) in TAKEN_OVER.items():
            await stage.open_account(left, permitted=left != "cancelled after its vote")
            assert await child(children, stage, left, cell, left) == -9
        alive = "SELECT count(*) FROM unanimity.owners WHERE lease_until > now()"

        async def nobody_lives():
            return not await stage.orders.fetchval(alive)

        assert await until(nobody_lives, WITHIN_S) is not None  # Until then a sweep may do what its owner owes.
        async with coordinating(stage.database, stage.payments.port):
            for left in TAKEN_OVER:
                await stage.ends(left, ENDS[left])
        rows = await stage.books.fetch("SELECT direction, term FROM unanimity.barrier")
    ends = [end for _, end in TAKEN_OVER.values()]
    assert sorted((row["direction"], row["term"]) for row in rows) == sorted(
        [("try", 1)] * len(ends) + [(end, 2) for end in ends]
    )


CALLS = {"try": UNPAID, "confirm": PAID, "cancel": UNPAID}


@asynccontextmanager
async def holding_up(stage, account, call):
    """The service's transaction of *call* waits for a lock, until the function that this yields is called."""
    holder = await asyncpg.connect(stage.payments.database)
    transaction = holder.transaction()

    async def lock():
        await transaction.start()
        await holder.execute("SELECT FROM accounts WHERE name = $1 FOR UPDATE", account)
        await holder.execute("SELECT FROM holds WHERE account = $1 FOR UPDATE", account)

    try:
        with ArmedFaults(faults=[Fault(point=f"tcc.{call}", action="call", call=lock, times=1)]) as armed:
            yield transaction.rollback
            assert not armed.unfired()
    finally:
        await holder.close()


@pytest.mark.parametrize("call", ["confirm", "cancel"])
async def test_a_service_that_is_killed_after_its_try_is_told_the_end_when_it_is_back(stage, call):
    """It had reserved, and answered; while it is away the order is decided, and what it holds stays held."""
    account = f"away before {call}"
    await stage.open_account(account, permitted=call != "cancel")
    with ArmedFaults(faults=[Fault(point=f"tcc.{call}", action="call", call=stage.payments.kill, times=1)]) as armed:
        telling = asyncio.create_task(told(stage.coordinator, account))
        await stage.ends(account, (CALLS[call][0], 0, 1, BALANCE - AMOUNT))
        assert not armed.unfired()
        await stage.payments.start()
        await stage.ends(account, CALLS[call])
    assert await telling == ("committed" if call == "confirm" else "aborted")


@pytest.mark.parametrize("call", CALLS)
async def test_a_service_that_is_killed_inside_its_transaction_leaves_nothing_half(stage, call):
    """Nobody knows what became of a call to it; it is asked again when it is back."""
    account = f"killed inside {call}"
    await stage.open_account(account, permitted=call != "cancel")
    async with holding_up(stage, account, call) as let_go:
        telling = asyncio.create_task(told(stage.coordinator, account))
        await stage.waiting_for_a_lock(1)
        await stage.payments.kill()
        await let_go()
        await stage.payments.start()
        await stage.ends(account, CALLS[call])
    assert await telling == ("committed" if call == "confirm" else "aborted")


@pytest.mark.parametrize("call", CALLS)
async def test_an_answer_that_comes_too_late_is_asked_for_again(stage, call):
    """The first call is given up, and goes on at the service while the second one comes."""
    account = f"late {call}"
    await stage.open_account(account, permitted=call != "cancel")
    async with (
        coordinating(stage.database, stage.payments.port, call_within_s=0.5) as impatient,
        holding_up(stage, account, call) as let_go,
    ):
        telling = asyncio.create_task(told(impatient, account, deadline_s=2.0))
        await stage.waiting_for_a_lock(2)
        await let_go()
        await stage.ends(account, CALLS[call])
        # Where the cancellation of a try is late as well, its caller has been sent away before the end.
        assert await telling in (("committed",) if call == "confirm" else ("aborted", "in doubt"))
    assert await stage.standing(account) == CALLS[call]


@pytest.mark.parametrize("call", CALLS)
async def test_an_answer_that_is_lost_is_asked_for_again(stage, call):
    """The service has done it, and the connection breaks on the way back."""
    account = f"lost {call}"
    await stage.open_account(account, permitted=call != "cancel")
    async with (
        losing_the_first_answer(stage.payments.port, f"/reservation/{call}".encode()) as (port, lost),
        coordinating(stage.database, port) as coordinator,
    ):
        assert await told(coordinator, account) == ("committed" if call == "confirm" else "aborted")
        await stage.ends(account, CALLS[call])
    assert b"200 OK" in lost[0]


async def test_nothing_is_left_over(stage, killed):
    """No hold, no prepared branch, no record that is owed something, and no money from nowhere."""
    assert await until(stage.nothing_owed, WITHIN_S) is not None
    assert await stage.books.fetchval("SELECT count(*) FROM holds") == 0
    charges = await stage.books.fetchval("SELECT count(*) FROM charges")
    assert charges == await stage.orders.fetchval("SELECT count(*) FROM orders")
    total = await stage.books.fetchval("SELECT sum(balance)::bigint FROM accounts") + charges * AMOUNT
    assert total == BALANCE * await stage.books.fetchval("SELECT count(*) FROM accounts")
