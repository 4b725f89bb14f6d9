"""What a block means: raising, cancelling, asking twice, nesting, forgetting, publishing only, writing only, keys."""

import asyncio

import asyncpg
import pytest
from pydantic import BaseModel

from coordinator import (
    BackupPolling,
    Coordinator,
    DeadlineExceeded,
    InvalidDefinition,
    KeyReused,
    NothingEnlisted,
    Outcome,
    Park,
    Recipe,
    Refused,
    VotedNo,
)
from coordinator.faults.history import read
from coordinator.protocol.model import BranchName
from participants import Kafka, MemoryBroker, MemoryDatabase, Postgres
from tests.acceptance.reading import count


@pytest.fixture
async def stage(database, kafka, create_topic):
    """A coordinator, an independent connection, and a topic."""
    participants = {"db": Postgres(database), "events": Kafka(kafka.bootstrap)}
    async with Coordinator(journal=database, participants=participants) as coordinator:
        connection = await asyncpg.connect(database)
        await connection.execute("CREATE TABLE t (n int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED)")
        yield coordinator, connection, await create_topic(), kafka.bootstrap
        await connection.close()


async def rows(connection) -> int:
    return await connection.fetchval("SELECT count(*) FROM t")


async def test_a_block_that_raises_leaves_nothing(stage):
    """The exception goes on, and neither system has seen anything."""
    coordinator, connection, topic, bootstrap = stage
    with pytest.raises(ZeroDivisionError):
        async with coordinator.transaction("t") as transaction:
            await (await transaction.enlist("db")).execute("INSERT INTO t VALUES (1)")
            await transaction.publish("events", topic=topic, value="x")
            _ = 1 / 0
    assert await rows(connection) == 0
    assert await count(bootstrap, topic) == 0
    assert transaction.outcome is None


async def test_its_id_is_known_behind_the_block_however_it_ended():
    """People log it there; nothing can be added there."""
    async with Coordinator(journal="memory://gid", participants={"db": MemoryDatabase()}) as coordinator:
        ended = coordinator.transaction("t")
        with pytest.raises(InvalidDefinition, match="outside of its block"):
            _ = ended.gid
        async with ended:
            await ended.enlist("db")
            inside = ended.gid
        assert ended.gid == inside == ended.outcome.gid
        with pytest.raises(InvalidDefinition, match="has ended"):
            await ended.enlist("db")
        failed = coordinator.transaction("t")
        with pytest.raises(ZeroDivisionError):
            async with failed:
                _ = 1 / 0
        assert failed.gid.partition(":")[0] == inside.partition(":")[0] != ""


async def test_a_cancelled_task_leaves_nothing(stage):
    """Cancelling inside of the block rolls back, and the cancellation goes on."""
    coordinator, connection, topic, bootstrap = stage
    inside = asyncio.Event()

    async def work():
        async with coordinator.transaction("t") as transaction:
            await (await transaction.enlist("db")).execute("INSERT INTO t VALUES (1)")
            await transaction.publish("events", topic=topic, value="x")
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await rows(connection) == 0
    assert await count(bootstrap, topic) == 0


async def test_a_task_cancelled_at_the_end_of_its_block_leaves_a_whole_transaction(stage):
    """The engine finishes in a task of its own what was under way: both, or neither."""
    coordinator, connection, topic, bootstrap = stage

    async def work(number):
        async with coordinator.transaction("t") as transaction:
            await (await transaction.enlist("db")).execute("INSERT INTO t VALUES ($1)", number)
            await transaction.publish("events", topic=topic, value="x")

    for number in range(20):
        task = asyncio.create_task(work(number))
        await asyncio.sleep(number * 0.0007)
        task.cancel()
        await asyncio.wait({task})
    while coordinator.engine.driver.driving:
        await asyncio.wait(list(coordinator.engine.driver.driving.values()))
    assert await rows(connection) == await count(bootstrap, topic)


async def test_enlisting_again_gives_the_same_connection_also_at_once(stage):
    """One branch per participant."""
    coordinator, connection, _, _ = stage
    async with coordinator.transaction("t") as transaction:
        first, second = await asyncio.gather(transaction.enlist("db"), transaction.enlist("db"))
        assert first is second
        assert await transaction.enlist("db") is first
        async with first.transaction():
            await first.execute("INSERT INTO t VALUES (1)")
    assert await rows(connection) == 1


async def test_transactions_do_not_nest_and_are_not_used_twice_or_outside(stage):
    """Each misuse is a named error that says what to do."""
    coordinator, _, _, _ = stage
    block = coordinator.transaction("outer")
    with pytest.raises(InvalidDefinition, match="outside of its block"):
        await block.enlist("db")
    async with block as outer:
        await (await outer.enlist("db")).fetchval("SELECT 1")
        with pytest.raises(InvalidDefinition, match="do not nest"):
            async with coordinator.transaction("inner"):
                pass
    with pytest.raises(InvalidDefinition, match="has ended"):
        await block.enlist("db")
    with pytest.raises(InvalidDefinition, match="entered before"):
        async with block:
            pass
    with pytest.raises(InvalidDefinition, match="registered: db, events"):
        async with coordinator.transaction("t") as transaction:
            await transaction.enlist("nobody")


async def test_forgetting_to_enlist_is_an_error(stage):
    """What was written elsewhere was not part of this transaction, and somebody should know."""
    coordinator, _, _, _ = stage
    with pytest.raises(NothingEnlisted):
        async with coordinator.transaction("t"):
            pass


async def test_publishing_only_and_writing_only(stage):
    """One participant is a transaction, too."""
    coordinator, connection, topic, bootstrap = stage
    async with coordinator.transaction("publish") as transaction:
        await transaction.publish("events", topic=topic, key="k", value=None, headers={"h": b"\x00"})
    assert transaction.outcome.committed
    async with coordinator.transaction("write") as transaction:
        await (await transaction.enlist("db")).execute("INSERT INTO t VALUES (1)")
    assert transaction.outcome.committed
    assert await coordinator.outcome_of(transaction.outcome.gid) is Outcome.COMMIT
    assert (await rows(connection), await count(bootstrap, topic)) == (1, 1)


async def test_publishing_only_under_backup_polling_has_an_outbox_to_fall_back_on(stage):
    """The database that holds the journal is enlisted for it."""
    coordinator, _, topic, _ = stage
    async with coordinator.transaction("t", policy=BackupPolling()) as transaction:
        await transaction.publish("events", topic=topic, value="x")
    assert set(transaction.outcome.endings) == {"db", "events"}


async def test_a_key_commits_once(stage):
    """Another attempt is refused with the first one's id; an attempt that rolled back frees the key."""
    coordinator, connection, _, _ = stage
    with pytest.raises(ZeroDivisionError):
        async with coordinator.transaction("t", key="k") as transaction:
            await transaction.enlist("db")
            _ = 1 / 0
    async with coordinator.transaction("t", key="k") as transaction:
        await (await transaction.enlist("db")).execute("INSERT INTO t VALUES (1)")
    with pytest.raises(KeyReused) as reused:
        async with coordinator.transaction("t", key="k"):
            pass
    assert reused.value.gid == transaction.outcome.gid
    assert await rows(connection) == 1


async def test_a_deadline_rolls_back(stage):
    """Nothing that took longer than it may is decided."""
    coordinator, connection, _, _ = stage
    with pytest.raises(DeadlineExceeded):
        async with coordinator.transaction("t", deadline_s=0.05) as transaction:
            await (await transaction.enlist("db")).execute("INSERT INTO t VALUES (1)")
            await asyncio.sleep(0.1)
    assert await rows(connection) == 0


@pytest.mark.parametrize("recipe", ["commit-record", "two-phase", "last-resource"])
async def test_a_constraint_that_fails_at_commit_rolls_back_the_messages(stage, recipe):
    """The database's NO is everybody's, under every recipe."""
    coordinator, connection, topic, bootstrap = stage
    with pytest.raises(VotedNo, match="db"):
        async with coordinator.transaction("t", recipe=recipe) as transaction:
            await (await transaction.enlist("db")).execute("INSERT INTO t VALUES (1), (1)")
            await transaction.publish("events", topic=topic, value="x")
    assert (await rows(connection), await count(bootstrap, topic)) == (0, 0)


async def test_what_a_broker_can_never_take_is_refused(stage):
    """A bad message is not an outage."""
    coordinator, connection, topic, _ = stage

    class Event(BaseModel):
        n: int

    with pytest.raises(Refused, match="no topic"):
        async with coordinator.transaction("t") as transaction:
            await (await transaction.enlist("db")).execute("INSERT INTO t VALUES (1)")
            await transaction.publish("events", topic="no-such-topic", value=Event(n=1))
    for bad in (
        {"topic": "not a topic"},
        {"topic": topic, "partition": -1},
        {"topic": topic, "value": b"x" * 2_000_000},
    ):
        with pytest.raises(Refused):
            async with coordinator.transaction("t") as transaction:
                await transaction.publish("events", **{"value": "x", **bad})
    assert await rows(connection) == 0


async def test_impossible_choices_are_refused_before_any_work(stage):
    """Each says what would make it possible."""
    coordinator, _, _, _ = stage
    with pytest.raises(InvalidDefinition, match="cannot park"):
        async with coordinator.transaction("t", recipe="commit-record", policy=Park()):
            pass
    with pytest.raises(InvalidDefinition, match="is no recipe"):
        coordinator.transaction("t", recipe="three-phase")
    twice = MemoryDatabase()
    with pytest.raises(InvalidDefinition, match=r"registered twice among \['here', 'there'\]"):
        Coordinator(journal="memory://impossible", participants={"here": twice, "there": twice})
    memory = Coordinator(
        journal="memory://impossible",
        participants={"db": MemoryDatabase(holds_journal=False), "events": MemoryBroker(prepares=False)},
    )
    async with memory as other:
        with pytest.raises(InvalidDefinition, match="KIP-939"):
            async with other.transaction("t", recipe="two-phase"):
                pass
        with pytest.raises(InvalidDefinition, match="needs the journal in the same database"):
            async with other.transaction("t", recipe="commit-record"):
                pass


async def test_the_first_steps_need_no_server(tmp_path):
    """Journal, database and broker in memory, with the same code; and what happened is written for a checker."""
    database, broker, path = MemoryDatabase(), MemoryBroker(), tmp_path / "history.jsonl"
    participants = {"db": database, "events": broker}
    async with Coordinator(journal="memory://steps", participants=participants, history=path) as coordinator:
        async with coordinator.transaction("t") as transaction:
            (await transaction.enlist("db")).insert("t", 1)
            await transaction.publish("events", topic="t", value="x")
        assert transaction.outcome.recipe is Recipe.COMMIT_RECORD
        broker.down = True
        async with coordinator.transaction("t", policy=BackupPolling(push_within_s=0.1)) as transaction:
            (await transaction.enlist("db")).insert("t", 2)
            await transaction.publish("events", topic="t", value="y")
        assert transaction.outcome.deferred == {BranchName("events")}
        broker.down = False
        for _ in range(200):
            if len(broker.topics.messages) == 2:
                break
            await asyncio.sleep(0.01)
    assert [line["phase"] for line in read(path)] == ["invoke", "ok", "invoke", "ok"]
    assert database.store.tables["t"] == [1, 2]
    assert [message.value for message in broker.topics.messages] == [b"x", b"y"]
