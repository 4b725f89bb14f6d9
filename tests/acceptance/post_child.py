"""One post of the social-post service, in a process that a fault kills: COORDINATOR_FAULTS says where.

python -m tests.acceptance.post_child AUTHOR RECIPE POLICY LINGER_S
"""

import asyncio
import contextlib
import os
import sys

from coordinator import CoordinatorError
from examples.social_post.promises import POLICIES, SETTINGS
from examples.social_post.service import coordinator_of, create_post


async def main(author: str, recipe: str, policy: str, linger_s: str) -> None:
    """Write it; with a fault armed to crash, this does not return."""
    database, brokers = os.environ["COORDINATOR_POSTGRES_URL"], os.environ["COORDINATOR_KAFKA_BOOTSTRAP"]
    async with coordinator_of(database, brokers, SETTINGS) as coordinator:
        with contextlib.suppress(CoordinatorError):
            await create_post(coordinator, author=author, body="hello", policy=POLICIES[policy], recipe=recipe)
        await asyncio.sleep(float(linger_s))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:5]))
