"""SIGTERM on real servers: a worker under load ends in time with exit code 0, and its answers are right."""

import asyncio
import os
import signal
import sys
import time
from contextlib import asynccontextmanager

import asyncpg
import pytest

from examples.social_post.observer import until
from tests.acceptance.stage import staged

ENDS_WITHIN_S = 25.0
WORKERS = 8


@asynccontextmanager
async def worker(database, brokers, name, program="tests.acceptance.drain_child"):
    """The worker as a process of its own; killed at the end, if it is still there."""
    environment = {**os.environ, "COORDINATOR_POSTGRES_URL": database, "COORDINATOR_KAFKA_BOOTSTRAP": brokers}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", program, name, str(WORKERS), env=environment, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def answered(process, count) -> dict[str, str]:
    """The next *count* answers."""
    answers = {}
    for _ in range(count):
        author, answer = (await process.stdout.readline()).decode().strip().split(" ", 1)
        answers[author] = answer
    return answers


async def stopped(process) -> tuple[float, dict[str, str]]:
    """Send SIGTERM and wait for the end: how long it took, and what was answered on the way."""
    began_s = time.monotonic()
    process.send_signal(signal.SIGTERM)
    out, _ = await process.communicate()
    lines = out.decode().splitlines()
    return time.monotonic() - began_s, dict(line.split(" ", 1) for line in lines if " " in line)


async def wrong(stage, answers) -> list[str]:
    """Answers that do not say what is there, once all is over."""
    rows = await stage.seen._pool.fetch("SELECT author, count(*) AS posts FROM posts GROUP BY 1")
    posts = {row["author"]: row["posts"] for row in rows}
    allowed = {"committed": [(1, 1)], "in doubt": [(0, 0), (1, 1)]}

    def right(author, answer) -> bool:
        return (posts.get(author, 0), stage.seen.messages[author]) in allowed.get(answer, [(0, 0)])

    async def all_right() -> bool:
        return all(right(author, answer) for author, answer in answers.items())

    await until(all_right, 10)
    return [f"{author}: {answer}" for author, answer in answers.items() if not right(author, answer)]


async def test_a_worker_under_load_drains_at_sigterm(database, kafka, posts_topic):
    """What it answered is so, nothing is left over, nobody had to wait for a lease, and the exit code is 0."""
    async with staged(database, kafka) as stage, worker(database, kafka.bootstrap, f"drain-{os.getpid()}") as process:
        answers = await answered(process, 10 * WORKERS)
        took_s, last = await stopped(process)
        assert process.returncode == 0
        assert took_s < 5.0, "nothing hung, so nothing had to be waited for"
        answers |= last
        assert set(answers.values()) == {"committed", "refused"}
        assert await wrong(stage, answers) == []
        assert await until(lambda: stage.seen.settled(process.pid), 10) is not None
        assert await stage.quiet() == {}


@pytest.mark.timeout(150)
async def test_a_broker_that_hangs_does_not_hold_up_the_stop(create_database, private_kafka):
    """It ends in time and hands over what is decided; another process finishes it as soon as the broker answers."""
    kafka, database = await private_kafka(two_phase=True), await create_database()
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
