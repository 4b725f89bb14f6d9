"""Admission: a bound refuses before any work is done, with its name and the remedy; below it everybody is let in."""

import asyncio
import uuid

import pytest

from coordinator import BackupPolling, Coordinator, KeyReused, Overloaded, Recipe, Rollback, limits
from coordinator.journal.group_commit import GroupCommit
from participants import Kafka, MemoryBroker, MemoryDatabase
from participants.kafka.codec import Producer


@pytest.fixture
async def coordinator():
    participants = {"db": MemoryDatabase(), "events": MemoryBroker()}
    async with Coordinator(journal=f"memory://{uuid.uuid4()}", participants=participants) as coordinator:
        yield coordinator


async def insert(coordinator, go_on=None, **options) -> None:
    async with coordinator.transaction("t", **options) as transaction:
        (await transaction.enlist("db")).insert("t", "row")
        if go_on is not None:
            await go_on.wait()


async def test_blocks_that_are_open_count_and_are_let_go(coordinator):
    """However each of them ends: committed, empty, raised in, or refused for its key."""
    admission, go_on = coordinator.engine.admission, asyncio.Event()
    admission.transactions_max = 2
    blocks = [asyncio.create_task(insert(coordinator, go_on)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match=r"open transactions: 2 .* run more processes"):
        await insert(coordinator)
    assert admission.refused == {"open transactions": 1}
    go_on.set()
    await asyncio.gather(*blocks)
    await insert(coordinator, key="once")
    with pytest.raises(KeyReused):
        await insert(coordinator, key="once")
    with pytest.raises(ZeroDivisionError):
        async with coordinator.transaction("t"):
            _ = 1 / 0
    while coordinator.engine.driver.driving:
        await asyncio.wait(coordinator.engine.driver.driving.values())
    assert not admission.open


class Full:
    """A participant that is full, whatever is asked for."""

    def __init__(self, reason):
        self.reason = reason

    def crowded(self, recipe):
        return self.reason


async def test_a_bound_that_is_reached_refuses_before_any_work(coordinator):
    """Its words reach the caller; a broker's bound is no reason where the policy can do without the broker."""
    engine = coordinator.engine
    engine.admission.brokers = [Full("events: all ids are in use; slow down")]
    with pytest.raises(Overloaded, match="events: all ids are in use; slow down"):
        await insert(coordinator, policy=Rollback())
    await insert(coordinator, policy=BackupPolling())
    engine.admission.bounds = [lambda: "journal: it is behind"]
    with pytest.raises(Overloaded, match="journal"):
        await insert(coordinator, policy=BackupPolling())
    assert engine.admission.refused == {"events": 1, "journal": 1}


async def test_a_journal_that_is_behind_says_so(monkeypatch):
    """By the number of records that wait, and by how long the write under way has taken."""
    monkeypatch.setattr(limits, "JOURNAL_BATCH_MAX", 5)
    monkeypatch.setattr(limits, "JOURNAL_WAITING_MAX", 20)
    monkeypatch.setattr(limits, "JOURNAL_BEHIND_MAX_S", 0.1)
    answers = asyncio.Semaphore(0)

    async def flush(batch):
        await answers.acquire()
        return [None] * len(batch)

    queue = GroupCommit("journal: decisions", flush)
    futures = [queue.put(number) for number in range(24)]
    await asyncio.sleep(0)
    assert queue.crowded() is None, "19 of 24 wait, and 5 are being written"
    futures += [queue.put(24)]
    assert "journal: decisions: 20 records wait" in (queue.crowded() or "")
    answers.release()
    await futures[0]
    await asyncio.sleep(0)
    assert queue.crowded() is None
    await asyncio.sleep(0.11)
    assert "0.1 s so far" in (queue.crowded() or "")
    for _ in range(5):
        answers.release()
    await asyncio.gather(*futures)
    assert queue.crowded() is None


async def test_a_kafka_pool_refuses_before_it_is_used_up(monkeypatch):
    """At four fifths of the ids that a process may have."""
    monkeypatch.setattr(limits, "KAFKA_POOL_MAX", 10)
    monkeypatch.setattr(limits, "KAFKA_POOL_MIN", 10)
    kafka = Kafka("localhost:1")

    async def claim(count):
        return [f"id-{number}" for number in range(count)]

    async def initialise(name):
        return Producer(1, 0)

    kafka.ordinary.claim, kafka.ordinary.initialise = claim, initialise
    taken = [await kafka.ordinary.take() for _ in range(7)]
    assert kafka.crowded(Recipe.COMMIT_RECORD) is None
    taken.append(await kafka.ordinary.take())
    assert "kafka: 8 of 10 transactional ids are in use" in (kafka.crowded(Recipe.COMMIT_RECORD) or "")
    kafka.ordinary.give_back(taken.pop(), Producer(1, 1))
    assert kafka.crowded(Recipe.COMMIT_RECORD) is None
