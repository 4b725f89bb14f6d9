"""SIGTERM on real servers: a worker under load ends in time with exit code 0, and its answers are right."""

import asyncio
import os
import time

import asyncpg
import pytest

from examples.social_post.observer import until
from tests.acceptance.stage import staged
from tests.acceptance.workers import WORKERS, answered, stopped, worker, wrong

ENDS_WITHIN_S = 25.0


async def test_a_worker_under_load_drains_at_sigterm(database, kafka, posts_topic):
    """What it answered is so, nothing is left over, nobody had to wait for a lease, and the exit code is 0."""
    name = f"drain-{os.getpid()}"
    async with staged(database, kafka) as stage, worker(database, kafka.bootstrap, name) as process:
        answers = await answered(process, 10 * WORKERS)
        took_s, last = await stopped(process)
        assert process.returncode == 0
        assert took_s < 5.0, "nothing hung, so nothing had to be waited for"
        answers |= last
        assert set(answers.values()) == {"committed", "refused"}
        assert {last[f"{name}-{each}-last"] for each in range(WORKERS)} == {"refused"}, "nothing begins any more"
        assert await wrong(stage, answers) == []
        assert await until(lambda: stage.seen.settled(process.pid), 10) is not None
        assert await stage.quiet() == {}


@pytest.mark.timeout(150)
async def test_a_database_or_a_broker_that_hangs_does_not_hold_up_the_stop(
    private_postgres, kafka, posts_topic, create_database, private_kafka
):
    """Two workers stop at the same time, one for each: both wait for most of what they are given."""
    async with asyncio.TaskGroup() as group:
        group.create_task(stops_while_a_database_hangs(private_postgres, kafka))
        group.create_task(stops_while_a_broker_hangs(create_database, private_kafka))


async def stops_while_a_database_hangs(private_postgres, kafka):
    """Not even the lease can be given up then: it ends in time, and is taken over when the lease has expired."""
    server, name = await private_postgres(max_prepared_transactions="50"), f"cold-{os.getpid()}"
    settings = {"lease_s": 3.0, "recovery_s": 0.3}
    async with staged(server.url, kafka) as stage, worker(server.url, kafka.bootstrap, name, **settings) as process:
        answers = await answered(process, 5 * WORKERS)
        server.freeze()
        try:
            await asyncio.sleep(0.3)
            took_s, last = await stopped(process)
        finally:
            server.thaw()
        assert process.returncode == 0
        assert took_s < ENDS_WITHIN_S
        answers |= last
        assert await stage.quiet() == {}
        assert await until(lambda: stage.seen.settled(process.pid), 10) is not None
        assert await wrong(stage, answers) == []


async def stops_while_a_broker_hangs(create_database, private_kafka):
    """It ends in time and hands over what is decided; another process finishes it as soon as the broker answers.

    The only broker of its cluster hangs for less than its session: one that was given up meanwhile finds no leader for
    its own partitions when it thaws, and may forget a marker (`docs/decisions/0003-the-kafka-codec.md`).
    """
    patient = {"broker.session.timeout.ms": "60000"}
    kafka, database = await private_kafka(two_phase=True, settings=patient), await create_database()
    await kafka.create_topic("posts")
    async with staged(database, kafka) as stage, worker(database, kafka.bootstrap, "frozen") as process:
        answers = await answered(process, 5 * WORKERS)
        kafka.freeze()
        try:
            await asyncio.sleep(0.3)
            took_s, last = await stopped(process)
        finally:
            kafka.thaw()
        assert process.returncode == 0
        assert took_s < ENDS_WITHIN_S
        thawed_s = time.monotonic()
        answers |= last
        assert await stage.quiet() == {}
        assert await until(lambda: stage.seen.settled(process.pid), 10) is not None
        assert time.monotonic() - thawed_s < 10.0, "at once: no lease had to expire, no broker had to time out"
        assert await wrong(stage, answers) == []
        connection = await asyncpg.connect(database)
        assert await connection.fetchval("SELECT count(*) FROM unanimity.owners") == 1
        await connection.close()
