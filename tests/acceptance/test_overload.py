"""Overload and brown-outs on real servers: who is too many is refused at once, the others are served, and it passes."""

import asyncio
import time
from collections import Counter

import asyncpg
import pytest

from coordinator import Coordinator, CoordinatorError, Overloaded, Retry, Rollback
from coordinator.limits import RETRY_COSTS_ATTEMPTS, RETRY_RESERVE
from participants import Kafka, Postgres
from tests.acceptance.reading import count


class Storm:
    """Workers that transact again and again; what became of it, by the second."""

    def __init__(self, transact):
        self.transact, self.committed, self.failures = transact, 0, Counter()
        self.stopping = False

    async def worker(self):
        while not self.stopping:
            try:
                await self.transact()
            except CoordinatorError as failure:
                self.failures[f"{type(failure).__name__}: {failure}"] += 1
                await asyncio.sleep(0.05)
            else:
                self.committed += 1

    async def rate(self, seconds) -> float:
        """Commits per second, from now on."""
        before, began_s = self.committed, time.monotonic()
        await asyncio.sleep(seconds)
        return (self.committed - before) / (time.monotonic() - began_s)


async def test_ten_times_too_many_are_served_as_fast_as_just_enough(private_postgres):
    """Eight slots for 300 workers: most are refused before any work, and the slots never run out."""
    server = await private_postgres(max_prepared_transactions="10")
    connection = await asyncpg.connect(server.url)
    await connection.execute("CREATE TABLE business (n int)")

    async def transact():
        async with coordinator.transaction("t", recipe="two-phase") as transaction:
            await (await transaction.enlist("db")).execute("INSERT INTO business VALUES (1)")

    async with Coordinator(journal=server.url, participants={"db": Postgres(server.url)}) as coordinator:
        storm = Storm(transact)
        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(storm.worker())
            await storm.rate(0.5)
            enough = await storm.rate(2.0)
            assert not storm.failures
            for _ in range(292):
                group.create_task(storm.worker())
            await storm.rate(0.5)
            overload = await storm.rate(2.0)
            storm.stopping = True
    assert storm.failures, "it was too much"
    assert all(text.startswith(f"{Overloaded.__name__}: db: 200 wait already; all 8 slots") for text in storm.failures)
    print(f"enough: {enough:.0f}/s, overload: {overload:.0f}/s, {storm.failures}")
    assert overload > 0.5 * enough
    assert await connection.fetchval("SELECT count(*) FROM business") == storm.committed
    assert await connection.fetchval("SELECT count(*) FROM pg_prepared_xacts") == 0
    assert "maximum number of prepared transactions" not in server.log.read_text()
    await connection.close()


@pytest.mark.timeout(150)
async def test_a_brown_out_of_the_broker_is_not_made_worse_and_passes(private_kafka, database):
    """Frozen for some seconds under load: retries stay within their budget, and afterwards it is as it was."""
    kafka = await private_kafka(two_phase=True)
    await kafka.create_topic("news")
    connection = await asyncpg.connect(database)
    await connection.execute("CREATE TABLE business (n int)")

    async def transact():
        policy = Retry(attempts=5, then=Rollback(within_s=2.0))
        async with coordinator.transaction("t", recipe="two-phase", policy=policy, deadline_s=8.0) as transaction:
            await (await transaction.enlist("db")).execute("INSERT INTO business VALUES (1)")
            await transaction.publish("events", topic="news", value="x")

    participants = {"db": Postgres(database), "events": Kafka(kafka.bootstrap)}
    async with Coordinator(journal=database, participants=participants) as coordinator:
        storm, budgets = Storm(transact), coordinator.engine.driver.performer.budgets
        async with asyncio.TaskGroup() as group:
            for _ in range(16):
                group.create_task(storm.worker())
            await storm.rate(1.0)
            before = await storm.rate(3.0)
            kafka.freeze()
            assert await storm.rate(8.0) < before / 2
            kafka.thaw()
            thawed_s, after = time.monotonic(), 0.0
            while after < 0.8 * before:
                assert time.monotonic() - thawed_s < 30.0, (before, after)
                after = await storm.rate(1.0)
            storm.stopping = True
        first, again = budgets.first_attempts, budgets.retries
        for name in ("db", "events"):
            assert RETRY_COSTS_ATTEMPTS * again[name] <= first[name] + RETRY_COSTS_ATTEMPTS * RETRY_RESERVE
        assert again["events"] > 0
    rows = await connection.fetchval("SELECT count(*) FROM business")
    assert await connection.fetchval("SELECT count(*) FROM pg_prepared_xacts") == 0
    assert rows == await count(kafka.bootstrap, "news")
    print(f"before {before:.0f}/s, after {after:.0f}/s, {dict(first)} and again {dict(again)}, {storm.failures}")
    await connection.close()
