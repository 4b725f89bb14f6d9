"""Every kind of alert is provoked on real servers, and raised exactly once, however often and by whom it is seen."""

import asyncio
import json
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from coordinator import Coordinator, CoordinatorError, Park, Parked, Refused, Rollback, limits
from coordinator.alerts import AlertKind
from coordinator.faults.injectors import ArmedFaults, Fault
from coordinator.gids import new_gid
from coordinator.journal.owners import PostgresOwners
from coordinator.journal.postgres import PostgresJournal
from coordinator.ports import Record, Standing
from coordinator.protocol.model import Branch, BranchName, Ending, Gid, Recipe, Role
from coordinator.sagas import Attempts, Saga, sleep, step
from coordinator.schema import apply
from coordinator.settings import load
from participants import Kafka, Postgres
from participants.postgres.literals import commit_prepared, prepare_transaction, prepared_id, rollback_prepared
from tests.integration.kafka.probe import Probe
from tests.integration.postgres.branches import fresh_gid, until
from tests.integration.postgres.conftest import query
from tests.integration.postgres.pair import paired

DB = BranchName("db")
ALERTS = "SELECT coalesce(array_agg(gid || ' ' || kind), '{}') FROM unanimity.alerts"
PREPARED = "SELECT coalesce(array_agg(gid), '{}') FROM pg_prepared_xacts WHERE database = current_database()"
BRANCHES = "SELECT branches::text FROM unanimity.decisions WHERE gid = $1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Two processes on one journal, a database under a role of its own, and a broker."""

    journal: str
    database: str
    role: str
    bootstrap: str
    topic: str
    a: Coordinator
    b: Coordinator

    async def by_hand(self, *statements: str) -> None:
        """What an administrator does to the database."""
        connection = await asyncpg.connect(self.database)
        for statement in statements:
            await connection.execute(statement)
        await connection.close()

    async def write(self, **options: object) -> Gid:
        """A transaction on the database and the broker; its id, whatever became of it."""
        with suppress(CoordinatorError):
            async with self.a.transaction("test", **options) as transaction:
                gid = transaction.gid
                await (await transaction.enlist("db")).execute("INSERT INTO business VALUES (1)")
                await transaction.publish("events", topic=self.topic, value="x")
        return gid

    async def write_and(self, point: str, action: Callable[[Gid], Awaitable[None]]) -> Gid:
        """As `write`; before its second phase reaches *point*, *action* happens."""

        first = asyncio.Lock()

        async def strike() -> None:
            async with first:  # The other process sweeps, and may get there before; then it waits for this as well.
                if fault.fired == 1:
                    await action(await query(self.journal, "SELECT max(gid) FROM unanimity.decisions"))

        fault = Fault(point=point, action="call", call=strike)
        with ArmedFaults(faults=[fault]):
            gid = await self.write()
        assert fault.fired
        return gid

    async def initialise_its_id(self, gid: Gid) -> None:
        """Somebody else begins to use the transactional id of *gid*."""
        branches = {branch["name"]: branch for branch in json.loads(await query(self.journal, BRANCHES, gid))}
        probe = Probe(self.bootstrap)
        await probe.initialise(branches["events"]["evidence"]["transactional_id"])
        probe.cluster.close()


@pytest.fixture
async def scene(create_database, kafka, topic):
    """Both processes look for what is left ten times a second."""
    journal, database, role = await create_database(), await create_database(), f"app_{os.urandom(4).hex()}"
    connection = await asyncpg.connect(database)
    await apply(connection)
    await connection.execute(
        f"""
        CREATE TABLE business (n int);
        CREATE ROLE {role} LOGIN;
        GRANT ALL ON business TO {role};
        GRANT USAGE ON SCHEMA unanimity TO {role};
        GRANT ALL ON ALL TABLES IN SCHEMA unanimity TO {role};
        GRANT ALL ON ALL SEQUENCES IN SCHEMA unanimity TO {role};
        """
    )
    url = database.replace("postgres@", f"{role}@")
    async with AsyncExitStack() as stack:
        a, b = [
            await stack.enter_async_context(process(journal, db=Postgres(url), events=Kafka(kafka.bootstrap)))
            for _ in range(2)
        ]
        yield Scene(
            journal=journal,
            database=database,
            role=role,
            bootstrap=kafka.bootstrap,
            topic=topic,
            a=a,
            b=b,
        )
    for prepared in await query(database, PREPARED):
        await connection.execute(f"ROLLBACK PREPARED '{prepared}'")
    await connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
    await connection.close()


@asynccontextmanager
async def process(journal, **participants):
    """One process."""
    settings = load(recovery_s=0.1, settle_within_s=1.0)
    async with Coordinator(journal=journal, participants=participants, settings=settings) as coordinator:
        yield coordinator


async def parked(scene: Scene) -> Gid:
    """The broker refuses, and the policy is to ask an operator."""
    policy = Park(within_s=1.0, alert="call the broker's people")
    with ArmedFaults(faults=[Fault(point="kafka.produce")]):
        gid = await scene.write(recipe="last-resource", policy=policy)
    assert str(await query(scene.journal, "SELECT detail FROM unanimity.alerts")).startswith(policy.alert)
    return gid


async def refused(scene: Scene) -> Gid:
    """The answer to COMMIT PREPARED is lost, and we may not read how it ended; granted again, it is found out."""

    async def forbid(gid: Gid) -> None:
        await scene.by_hand(
            commit_prepared(prepared_id(gid, DB)),
            f"REVOKE ALL ON unanimity.branches FROM {scene.role}",
        )

    gid = await scene.write_and("pg.commit_prepared", forbid)
    await until(lambda: query(scene.journal, "SELECT count(*) > 0 FROM unanimity.alerts"))
    await scene.by_hand(f"GRANT ALL ON unanimity.branches TO {scene.role}")
    await until(lambda: query(scene.journal, "SELECT endings->>'db' = 'committed' FROM unanimity.decisions"))
    return gid


async def rolled_back_by_hand(scene: Scene) -> Gid:
    """An administrator's ROLLBACK PREPARED."""

    async def roll_back(gid: Gid) -> None:
        await scene.by_hand(rollback_prepared(prepared_id(gid, DB)))

    return await scene.write_and("pg.commit_prepared", roll_back)


async def foreign_initialisation(scene: Scene) -> Gid:
    """Somebody initialises our transactional id: the broker aborts what was decided."""
    return await scene.write_and("kafka.end.commit", scene.initialise_its_id)


async def committed_by_hand(scene: Scene) -> Gid:
    """The broker refuses, so nothing is written; and before the database is rolled back, somebody commits it."""

    async def commit() -> None:
        (found,) = await query(scene.database, PREPARED)
        await scene.by_hand(f"COMMIT PREPARED '{found}'")

    strike = Fault(point="pg.rollback_prepared", action="call", times=1, call=commit)
    with ArmedFaults(faults=[Fault(point="kafka.produce"), strike]):
        gid = await scene.write(policy=Rollback(within_s=1.0))
    assert strike.fired
    return gid


async def unreadable(scene: Scene) -> Gid:
    """As a foreign initialisation; and the records that would say how it ended are gone."""

    async def delete(gid: Gid) -> None:
        await scene.initialise_its_id(gid)
        probe = Probe(scene.bootstrap)
        end = (await probe.fetched(scene.topic)).high_watermark
        probe.cluster.close()
        admin = AIOKafkaAdminClient(bootstrap_servers=scene.bootstrap)
        await admin.start()
        await admin.delete_records({TopicPartition(scene.topic, 0): RecordsToDelete(before_offset=end)})
        await admin.close()

    return await scene.write_and("kafka.end.commit", delete)


async def older_than_the_journal(scene: Scene) -> Gid:
    """A branch of ours that stands since the day before yesterday."""
    prefix = str(await query(scene.journal, "SELECT prefix FROM unanimity.prefix"))
    gid = new_gid(prefix, datetime.now(tz=UTC) - timedelta(days=2), os.urandom(16))
    prepare = prepare_transaction(prepared_id(gid, DB))
    await scene.by_hand("BEGIN", f"SET LOCAL ROLE {scene.role}", "INSERT INTO business VALUES (1)", prepare)
    return gid


async def poisonous(scene: Scene) -> Gid:
    """Every process that adopted it has died of it, says its row; now its last owner is gone."""
    gid, journal = fresh_gid(), PostgresJournal(scene.journal)
    await journal.open()
    owners = PostgresOwners(journal, owner_id="dying", lease_s=60)
    lease = await owners.register()
    branches = {DB: Branch(name=DB, role=Role.PREPARED)}
    await journal.decide(
        Record(gid=gid, name="test", recipe=Recipe.TWO_PHASE, standing=Standing.ABORT, branches=branches)
    )
    await query(scene.journal, "UPDATE unanimity.decisions SET adoptions = $1", limits.ADOPTIONS_MAX + 1)
    await owners.resign(lease)
    await journal.close()
    return gid


async def stuck_saga(scene: Scene) -> Gid:
    """Its compensation fails for as often as it may be tried."""

    async def book() -> None:
        return None

    async def unbook() -> None:
        raise OSError("the hotel does not answer")

    async def pay() -> None:
        raise Refused("no money")

    saga = Saga("trip", step(book, compensate=unbook, undo_retry=Attempts(at_most=1)), step(pay))
    with pytest.raises(Parked) as held:
        await scene.a.run(saga)
    return Gid(held.value.gid or "")


async def saga_kept_as_another_type(scene: Scene) -> Gid:
    """Two processes have its definition by name and version, and none of them can read what it was given."""

    async def book(request: int) -> None:
        return None

    async def later(request: list[int]) -> None:
        return None

    kept, changed = [
        Saga("trip", sleep("wait", 0.5), step(action, name="book"), version="1") for action in (book, later)
    ]
    async with Coordinator(journal=scene.journal, sagas=[kept]) as before:
        handle = await before.start(kept, 1)
    for each in (scene.a, scene.b):
        each.sagas.engine.register(changed)
    return Gid(handle.gid)


PROVOCATIONS: Mapping[AlertKind, list[Callable[[Scene], Awaitable[Gid]]]] = {
    AlertKind.PARKED: [parked],
    AlertKind.REFUSED: [refused],
    AlertKind.HEURISTIC: [rolled_back_by_hand, foreign_initialisation, committed_by_hand],
    AlertKind.HAZARD: [unreadable],
    AlertKind.OLDER_THAN_JOURNAL: [older_than_the_journal],
    AlertKind.POISON: [poisonous],
    AlertKind.PARKED_SAGA: [stuck_saga],
    AlertKind.UNREADABLE_SAGA: [saga_kept_as_another_type],
}


def test_every_kind_is_provoked():
    """The last one needs servers of its own: see the test below."""
    assert set(PROVOCATIONS) | {AlertKind.LOST_BY_FAILOVER} == set(AlertKind)


async def exactly_one(journal, gid, kind, processes, caplog):
    """The alert comes; and it is the only one, also when both processes look again and again."""
    await until(lambda: query(journal, "SELECT count(*) > 0 FROM unanimity.alerts"))
    for _ in range(3):
        await asyncio.gather(*(process.engine.recovery.once() for process in processes))
    assert await query(journal, ALERTS) == [f"{gid} {kind}"]
    said = [record for record in caplog.records if record.levelno == logging.ERROR and "ALERT" in record.message]
    assert len(said) == 1


@pytest.mark.parametrize(
    ("kind", "provoke"),
    [(kind, provoke) for kind, ways in PROVOCATIONS.items() for provoke in ways],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
async def test_a_provoked_alert_is_raised_exactly_once(scene, kind, provoke, caplog):
    """One row, and one line at ERROR."""
    gid = await provoke(scene)
    await exactly_one(scene.journal, gid, kind, (scene.a, scene.b), caplog)


async def test_a_branch_lost_by_failover_raises_exactly_one_alert(
    private_postgres, postgres_directory, database, caplog
):
    """It was committed, and finished; only the promoted standby never heard of it."""
    await query(database, "CREATE TABLE business (n int)")
    async with paired(await private_postgres(), postgres_directory) as pair, AsyncExitStack() as stack:
        a, b = [
            await stack.enter_async_context(process(database, db=Postgres(pair.url), other=Postgres(database)))
            for _ in range(2)
        ]
        await pair.cut_off()
        async with a.transaction("test") as transaction:
            gid = transaction.gid
            for name in ("db", "other"):
                await (await transaction.enlist(name)).execute("INSERT INTO business VALUES (1)")
        await pair.fail_over()
        await exactly_one(database, gid, AlertKind.LOST_BY_FAILOVER, (a, b), caplog)
        alerts = a.engine.recovery.sweep.alerts
        assert await alerts.resolve_alert(gid, AlertKind.LOST_BY_FAILOVER, by="ann", reason="written again")
        await a.engine.recovery.once()
        assert await alerts.open_alerts() == []
        assert await query(database, "SELECT endings->>'db' FROM unanimity.decisions") == Ending.LOST
