"""A row, a message and a reservation of a service in one transaction: all three or none, whatever goes wrong."""

import contextlib

import pytest

from coordinator import Coordinator, CoordinatorError, Refused, Settings
from coordinator.faults.injectors import ArmedFaults, Fault
from coordinator.faults.points import Cell
from examples.social_post.observer import until
from participants import Kafka, Postgres
from participants.tcc import Tcc
from tests.conformance.participants import BarredReservations, count_committed

SETTINGS = Settings(lease_s=2.0, recovery_s=0.2, presume_abort_after_s=1.0, presume_abort_looks_apart_s=0.1)
POINTS = (
    "pg.prepare",
    "kafka.produce",
    "tcc.try",
    "journal.decide",
    "kafka.end.commit",
    "tcc.confirm",
    "pg.commit_prepared",
)


class Stage:
    """Three systems, and a coordinator of them."""

    def __init__(self, coordinator, service, bootstrap, topic):
        self.coordinator, self.service, self.bootstrap, self.topic = coordinator, service, bootstrap, topic

    async def order(self, recipe):
        async with self.coordinator.transaction("order", recipe=recipe, deadline_s=5.0) as transaction:
            connection = await transaction.enlist("db")
            await connection.execute("INSERT INTO orders VALUES ($1)", transaction.gid)
            await transaction.publish("events", topic=self.topic, value="ordered")
            (await transaction.enlist("stock")).reserve({"item": "apple"})

    async def counted(self):
        """Rows, messages and final reservations, once nothing is prepared, owed or pending."""

        async def quiet():
            async with self.service.transaction() as connection:
                owed = await connection.fetchval(
                    "SELECT (SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database())"
                    " + (SELECT count(*) FROM unanimity.decisions WHERE done_at IS NULL)"
                )
            return not owed and not await self.service.pending()

        assert await until(quiet, 40.0) is not None
        async with self.service.transaction() as connection:
            rows = await connection.fetchval("SELECT count(*) FROM orders")
        messages = await count_committed(self.bootstrap, self.topic, settled=True)
        return rows, messages, await self.service.final()


@pytest.fixture
async def stage(database, kafka, create_topic):
    service = BarredReservations(database)
    await service.create()
    async with service.transaction() as connection:
        await connection.execute("CREATE TABLE orders (gid text)")
    stock = Tcc(service.attempt, confirm=service.confirm, cancel=service.cancel, pending=service.pending)
    participants = {"db": Postgres(database), "events": Kafka(kafka.bootstrap), "stock": stock}
    async with Coordinator(journal=database, participants=participants, settings=SETTINGS) as coordinator:
        yield Stage(coordinator, service, kafka.bootstrap, await create_topic())


@pytest.mark.parametrize("recipe", ["two-phase", "last-resource"])
async def test_all_three_happen_or_none(stage, recipe):
    await stage.order(recipe)
    assert await stage.counted() == (1, 1, 1)

    async def refuse(gid, what):
        raise Refused("sold out")

    stage.coordinator.engine.participants["stock"].participant.attempt = refuse
    with pytest.raises(Refused, match="sold out"):
        await stage.order(recipe)
    assert await stage.counted() == (1, 1, 1)


@pytest.mark.parametrize("cell", [Cell.BEFORE, Cell.REPLY_LOST])
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("recipe", ["two-phase", "last-resource"])
async def test_a_fault_at_any_boundary_tears_nothing(stage, recipe, point, cell):
    with ArmedFaults(faults=[Fault(point=point, cell=cell, times=1)]) as armed:
        with contextlib.suppress(CoordinatorError):
            await stage.order(recipe)
        counted = await stage.counted()
        assert not armed.unfired(), "a cell that never fires proves nothing"
    assert counted in ((0, 0, 0), (1, 1, 1))
    if point in ("tcc.confirm", "pg.commit_prepared"):
        assert counted == (1, 1, 1)


async def test_it_can_be_no_commit_record(stage):
    """There is no second phase in that recipe: the service would never hear of the decision."""
    with pytest.raises(CoordinatorError, match="stock"):
        await stage.order("commit-record")
    assert await stage.counted() == (0, 0, 0)
