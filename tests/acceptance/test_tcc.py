"""A service that reserves beside a database: both or neither, whatever goes wrong at the boundary between them."""

import asyncio
import contextlib

import asyncpg
import pytest

from coordinator import Coordinator, CoordinatorError, Refused, Settings
from coordinator.faults.injectors import ArmedFaults, Fault
from coordinator.faults.points import POINTS, Cell
from participants import Postgres
from participants.tcc import Tcc
from tests.conformance.participants import BarredReservations, fresh_gid

SETTINGS = Settings(
    prefix="unan", lease_s=2.0, recovery_s=0.2, presume_abort_after_s=0.5, presume_abort_looks_apart_s=0.1
)
TCC_POINTS = ("tcc.try", "tcc.confirm", "tcc.cancel")


@pytest.fixture
async def service(database):
    """Reservations behind the barrier, and a table of orders."""
    made = BarredReservations(database)
    await made.create()
    async with made.transaction() as connection:
        await connection.execute("CREATE TABLE orders (gid text)")
    return made


@pytest.fixture
async def coordinator(database, service):
    """A coordinator with the database and the service."""
    stock = Tcc(
        service.attempt, confirm=service.confirm, cancel=service.cancel, pending=service.pending, call_within_s=1.0
    )
    async with Coordinator(
        journal=database, participants={"db": Postgres(database), "stock": stock}, settings=SETTINGS
    ) as opened:
        yield opened


async def order(coordinator, fails=False):
    """An order and its reservation, in one transaction."""
    async with coordinator.transaction("order", deadline_s=3.0) as transaction:
        connection = await transaction.enlist("db")
        await connection.execute("INSERT INTO orders VALUES ($1)", transaction.gid)
        (await transaction.enlist("stock")).reserve({"item": "apple"})
        if fails:
            raise RuntimeError("no")


async def counted(service):
    """Orders; final reservations; and those that are not final, once there are none or time is up."""
    async with asyncio.timeout(20):
        while await service.pending():  # noqa: ASYNC110 - another process ends it.
            await asyncio.sleep(0.05)
    async with service.transaction() as connection:
        orders = await connection.fetchval("SELECT count(*) FROM orders")
        prepared = await connection.fetchval(
            "SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()"
        )
    return orders + prepared, await service.final()


async def test_both_happen(coordinator, service):
    await order(coordinator)
    assert await counted(service) == (1, 1)


async def test_a_block_that_fails_reserves_nothing(coordinator, service):
    with pytest.raises(RuntimeError):
        await order(coordinator, fails=True)
    assert await counted(service) == (0, 0)


async def test_a_service_that_refuses_undoes_both(coordinator, service):
    async def refuse(gid, what):
        raise Refused("sold out")

    coordinator.engine.participants["stock"].participant.attempt = refuse
    with pytest.raises(Refused, match="sold out"):
        await order(coordinator)
    assert await counted(service) == (0, 0)


async def test_a_share_is_asked_for_one_thing(coordinator):
    async with coordinator.transaction("twice") as transaction:
        stock = await transaction.enlist("stock")
        stock.reserve("a")
        with pytest.raises(Refused, match="one thing"):
            stock.reserve("b")


async def test_what_a_process_left_that_never_decided_is_cancelled(coordinator, service):
    """It had tried, and died: nobody knows of it but the service."""
    await service.attempt(fresh_gid(), "one")
    assert await counted(service) == (0, 0)


async def test_what_is_pending_under_another_prefix_is_left_to_whoever_has_it(coordinator, service):
    """Its journal is another one, so that this one has no record of it means nothing."""
    ours, theirs = fresh_gid(), "orders:" + fresh_gid().partition(":")[2]
    await service.attempt(theirs, "one")
    await service.attempt(ours, "one")
    async with asyncio.timeout(20):
        while ours in (pending := {gid for gid, _ in await service.pending()}):  # noqa: ASYNC110 - the sweep ends it.
            await asyncio.sleep(0.05)
    assert pending == {theirs}


@pytest.mark.parametrize("cell", list(Cell))
@pytest.mark.parametrize("point", TCC_POINTS)
async def test_a_fault_at_the_boundary_tears_nothing(coordinator, service, point, cell):
    """A try without an answer is cancelled; a confirmation and a cancellation are repeated until they answer."""
    faults = [Fault(point=point, cell=cell, times=1)]
    if point == "tcc.cancel":  # What makes it cancel: a try that nobody knows of.
        faults.append(Fault(point="tcc.try", cell=Cell.REPLY_LOST, times=1))
    with ArmedFaults(faults=faults) as armed:
        with contextlib.suppress(CoordinatorError):
            await order(coordinator)
        await armed.arrive()
        orders, final = await counted(service)
        assert not armed.unfired()
    assert orders == final == (1 if point == "tcc.confirm" else 0)


async def test_a_process_that_was_replaced_leaves_the_end_to_whoever_replaced_it(database, service):
    """The service turns its term away, and it asks no more; who takes over then is let in by a higher one."""
    terms = []
    other = await asyncpg.connect(database)

    async def confirm(gid, term):
        terms.append(term)
        if len(terms) == 1:  # As `adopt` has it, by a process that lives.
            await other.execute("INSERT INTO unanimity.owners VALUES ('other', 1, now() + interval '1 hour')")
            await other.execute("UPDATE unanimity.decisions SET owner = 'other', term = 1, reigns = reigns + 1")
        if term < 3:
            raise Refused("a higher term was here before")
        return await service.confirm(gid)

    stock = Tcc(service.attempt, confirm=confirm, cancel=service.cancel, pending=service.pending)
    participants = {"db": Postgres(database), "stock": stock}
    settings = SETTINGS.model_copy(update={"presume_abort_after_s": 60.0})
    try:
        async with Coordinator(journal=database, participants=participants, settings=settings) as coordinator:
            for loop in coordinator.engine._loops:
                if loop.name == "look at stock":  # It would do as is decided, whoever drives it.
                    await loop.stop()
            await order(coordinator)
            assert (terms, coordinator.engine.driver.driving) == ([1], {})
            await other.execute(
                "UPDATE unanimity.owners SET lease_until = now() - interval '1 s' WHERE owner = 'other'"
            )
            assert await counted(service) == (1, 1)
        assert terms == [1, 3]
    finally:
        await other.close()


def test_every_point_is_struck():
    assert set(TCC_POINTS) == {point for point in POINTS if point.startswith("tcc.")}
