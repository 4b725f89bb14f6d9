"""A worker under load that ends at SIGTERM: it writes posts until it is told to stop, and a line of answer for each.

python -m tests.acceptance.drain_child NAME WORKERS
"""

import asyncio
import itertools
import os
import sys

from coordinator import CoordinatorError, InDoubt
from examples.social_post.promises import POLICIES, RECIPES
from examples.social_post.service import coordinator_of, create_post


async def write_for_ever(coordinator, name: str) -> None:
    """Post after post, over the recipes, and one more when it is told to end; each is answered on stdout."""
    try:
        for number, recipe in zip(itertools.count(), itertools.cycle(RECIPES), strict=False):
            await write(coordinator, f"{name}-{number}", recipe)
            await asyncio.sleep(0.02)
    finally:
        await write(coordinator, f"{name}-last", RECIPES[0])


async def write(coordinator, author: str, recipe: str) -> None:
    """One post."""
    try:
        await create_post(coordinator, author=author, body="hello", policy=POLICIES["rollback"], recipe=recipe)
    except InDoubt:
        answer = "in doubt"
    except CoordinatorError as failure:
        answer = "refused" if "is stopping" in str(failure) else f"aborted: {failure!r}"
    else:
        answer = "committed"
    print(author, answer, flush=True)


async def main(name: str, workers: int) -> None:
    """Write until SIGTERM. Nothing of ours handles it: the coordinator's block ends."""
    database, brokers = os.environ["COORDINATOR_POSTGRES_URL"], os.environ["COORDINATOR_KAFKA_BOOTSTRAP"]
    coordinator = coordinator_of(database, brokers, drain_on_sigterm=True)
    async with coordinator, asyncio.TaskGroup() as group:
        for worker in range(workers):
            group.create_task(write_for_ever(coordinator, f"{name}-{worker}"))
    print("ended", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
