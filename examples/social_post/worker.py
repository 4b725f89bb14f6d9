"""A process that writes one post and is killed on the way, by the fault that its environment arms.

COORDINATOR_FAULTS='kafka.end.commit:after=crash' python -m examples.social_post.worker AUTHOR RECIPE POLICY
"""

import asyncio
import os
import sys

from examples.social_post.promises import POLICIES, SETTINGS
from examples.social_post.service import coordinator_of, create_post


async def main(author: str, recipe: str, policy: str) -> None:
    """Write the post; with a fault armed this does not return."""
    database, brokers = os.environ["COORDINATOR_POSTGRES_URL"], os.environ["COORDINATOR_KAFKA_BOOTSTRAP"]
    async with coordinator_of(database, brokers, SETTINGS) as coordinator:
        await create_post(coordinator, author=author, body="hello", policy=POLICIES[policy], recipe=recipe)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
