"""Applications with journals of their own, on servers that both use: neither takes the other's for its own."""

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg

from coordinator import Coordinator, Settings, TransactionOutcome
from coordinator.faults.injectors import ArmedFaults, Fault
from coordinator.gids import new_gid
from participants import Kafka, Postgres
from tests.acceptance.reading import count_sent
from tests.integration.postgres.branches import until

SETTINGS = Settings(recovery_s=0.05, presume_abort_after_s=0.5, presume_abort_looks_apart_s=0.05)
PREPARED = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"


async def made(journal: str, shared: str) -> str:
    """Make the tables of a journal and its participant; what its ids begin with."""
    async with Coordinator(journal=journal, participants={"db": Postgres(shared)}, settings=SETTINGS):
        pass
    connection = await asyncpg.connect(journal)
    prefix = str(await connection.fetchval("SELECT prefix FROM unanimity.prefix"))
    await connection.close()
    return prefix


async def test_what_another_journal_may_know_of_is_left_alone(create_database):
    """A branch of each is prepared in the database that both use; each sweeps its own, and needs no setting for it."""
    journals, shared = [await create_database(), await create_database()], await create_database()
    prefixes = [await made(journal, shared) for journal in journals]
    connection = await asyncpg.connect(shared)
    left = []
    for prefix in prefixes:
        gid = new_gid(prefix, datetime.now(tz=UTC) - timedelta(minutes=5), bytes(16))
        await connection.execute("BEGIN")
        await connection.execute("INSERT INTO unanimity.branches (gid, branch) VALUES ($1, 'db')", gid)
        await connection.execute(f"PREPARE TRANSACTION '{gid}:db'")
        left.append(f"{gid}:db")

    async def stands() -> list[str]:
        return [row["gid"] for row in await connection.fetch(PREPARED)]

    for journal, mine, others in zip(journals, left, (left[1:], []), strict=True):
        async with Coordinator(journal=journal, participants={"db": Postgres(shared)}, settings=SETTINGS):

            async def swept(mine: str = mine) -> bool:
                return mine not in await stands()

            await until(swept)
            assert await stands() == others
    await connection.close()


async def test_one_does_not_fence_the_other_s_producers(create_database, kafka, topic):
    """A second application starts, and sends, when the first has decided and not told its broker yet."""
    first, second = await create_database(), await create_database()

    def application(journal: str) -> Coordinator:
        participants = {"db": Postgres(journal), "events": Kafka(kafka.bootstrap)}
        return Coordinator(journal=journal, participants=participants, settings=SETTINGS)

    async def send(sender: Coordinator, key: str) -> TransactionOutcome | None:
        async with sender.transaction("t") as transaction:
            await transaction.enlist("db")
            await transaction.publish("events", topic=topic, key=key, value=b"{}")
        return transaction.outcome

    decided = asyncio.Event()

    async def send_beside() -> None:
        await decided.wait()
        async with application(second) as other:
            await asyncio.gather(*(send(other, "other") for _ in range(20)))

    beside = asyncio.create_task(send_beside())

    async def meanwhile() -> None:
        decided.set()
        await asyncio.wait_for(asyncio.shield(beside), 20)

    pause = Fault(point="kafka.end.commit", action="call", call=meanwhile, times=1)
    with ArmedFaults(faults=[pause]):
        async with application(first) as one:
            outcome = await send(one, "one")
    assert pause.fired == 1
    assert outcome is not None
    assert not outcome.deferred  # Fenced, it would have been left to the relay.
    assert await count_sent(kafka.bootstrap, topic) == 21
