"""Workers under load in processes of their own, what they answer, and whether that is so."""

import asyncio
import os
import signal
import sys
import time
from contextlib import asynccontextmanager

from examples.social_post.observer import until

WORKERS = 8


@asynccontextmanager
async def worker(database, brokers, name, workers=WORKERS, **settings):
    """The worker as a process of its own, with *settings*; killed at the end, if it is still there."""
    environment = {
        **os.environ,
        "COORDINATOR_POSTGRES_URL": database,
        "COORDINATOR_KAFKA_BOOTSTRAP": brokers,
        **{f"COORDINATOR_{key.upper()}": str(value) for key, value in settings.items()},
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.acceptance.drain_child",
        name,
        str(workers),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
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
    """Answers that do not say what is there, once all is over, and messages with copies that nothing explains."""
    rows = await stage.seen.fetch("SELECT author, count(*) AS posts FROM posts GROUP BY 1")
    posts = {row["author"]: row["posts"] for row in rows}
    allowed = {"committed": [(1, 1)], "in doubt": [(0, 0), (1, 1)]}

    def right(author, answer) -> bool:
        return (posts.get(author, 0), len(stage.seen.copies[author])) in allowed.get(answer, [(0, 0)])

    async def all_right() -> bool:
        return all(right(author, answer) for author, answer in answers.items())

    await until(all_right, 10)
    return [
        *(f"{author}: {answer}" for author, answer in answers.items() if not right(author, answer)),
        *await stage.unexplained(),
    ]
