"""Processes to be killed, started quickly: everything is imported once, and each line on stdin forks a child.

A line is JSON: the faults that the child arms, and its transaction. The child's pid and the signal that ended it are
written to stdout. Forking is safe here because this process never runs an event loop or a thread.
"""

import asyncio
import contextlib
import json
import os
import sys

from coordinator import CoordinatorError
from examples.social_post.promises import POLICIES, SETTINGS
from examples.social_post.service import coordinator_of, create_post


async def child(order: dict[str, str]) -> None:
    """Write one post; with a fault armed to crash, this does not return."""
    database, brokers = os.environ["COORDINATOR_POSTGRES_URL"], os.environ["COORDINATOR_KAFKA_BOOTSTRAP"]
    async with coordinator_of(database, brokers, SETTINGS) as coordinator:
        with contextlib.suppress(CoordinatorError):
            await create_post(
                coordinator,
                author=order["author"],
                body="hello",
                policy=POLICIES[order["policy"]],
                recipe=order["recipe"],
            )
        await asyncio.sleep(float(order.get("linger_s", "0")))


def main() -> None:
    """Fork a child per line, until stdin ends."""
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os.environ["COORDINATOR_FAULTS"] = order["faults"]
            asyncio.run(child(order))
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        print(json.dumps({"pid": pid, "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0}), flush=True)


if __name__ == "__main__":
    main()
