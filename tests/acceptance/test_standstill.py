"""A process that is paused (a real SIGSTOP) for longer than its lease, while another one takes over, tears nothing."""

import asyncio
import os
import signal

import pytest

from examples.social_post.observer import until
from tests.acceptance.stage import staged
from tests.acceptance.workers import WORKERS, answered, stopped, worker, wrong

LEASE_S = 2.5
KNOWN = "SELECT count(*) FROM unanimity.owners WHERE owner LIKE '%-' || $1 || '-%' AND taken_by IS NULL"
AGAIN = "SELECT count(*) FROM unanimity.owners WHERE owner LIKE '%-' || $1 || '-%' AND owner NOT LIKE '%-1'"
POINTS = [
    "kafka.produce:after",
    "pg.prepare:after",
    "journal.decide:before",
    "journal.decide:after",
    "pg.commit_record:before",
    "pg.commit_record:after",
    "kafka.end.commit:before",
    "pg.commit_prepared:before",
]


async def replaced(stage, pid) -> bool:
    """Whether another process has taken over every owner that the process *pid* was."""
    return await stage.seen._pool.fetchval(KNOWN, str(pid)) == 0


async def born_again(stage, pid) -> bool:
    """Whether the process *pid* has found out that it was replaced, and is an owner under another name."""
    return await stage.seen._pool.fetchval(AGAIN, str(pid)) > 0


@pytest.mark.timeout(120)
async def test_a_process_that_is_paused_at_any_moment_tears_nothing(database, kafka, posts_topic):
    """Again and again under load; each time it comes back as another owner and goes on."""
    name = f"paused-{os.getpid()}"
    async with (
        staged(database, kafka) as stage,
        worker(database, kafka.bootstrap, name, lease_s=LEASE_S, recovery_s=0.3) as process,
    ):
        answers = {}
        for _ in range(4):
            answers |= await answered(process, 3 * WORKERS)
            process.send_signal(signal.SIGSTOP)
            assert await until(lambda: replaced(stage, process.pid), 15) is not None
            process.send_signal(signal.SIGCONT)
        answers |= await answered(process, 3 * WORKERS)
        _, last = await stopped(process)
        answers |= last
        assert process.returncode == 0
        assert list(answers.values()).count("committed") >= 6 * WORKERS
        assert await wrong(stage, answers) == []
        assert await stage.quiet() == {}


@pytest.mark.timeout(150)
async def test_a_process_that_is_paused_at_a_boundary_tears_nothing(database, kafka, posts_topic):
    """At each step of the recipes: it wakes up in the middle of the effect, long after it was replaced."""

    async def pause_at(stage, point) -> list[str]:
        name = f"at-{point}-{os.getpid()}"
        faults = f"{point}=1*stop({int(2500 * LEASE_S)})"
        settings = {"lease_s": LEASE_S, "recovery_s": 0.3, "faults": faults}
        async with worker(database, kafka.bootstrap, name, workers=1, **settings) as process:
            answers = await answered(process, 6)
            assert await until(lambda: born_again(stage, process.pid), 30) is not None, f"{point} was never reached"
            _, last = await stopped(process)
            assert process.returncode == 0, point
            return await wrong(stage, answers | last)

    async with staged(database, kafka) as stage:
        assert await asyncio.gather(*(pause_at(stage, point) for point in POINTS)) == [[] for _ in POINTS]
        assert await stage.quiet() == {}
