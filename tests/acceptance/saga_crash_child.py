"""One saga in a process of its own, which is killed where COORDINATOR_FAULTS says.

python -m tests.acceptance.saga_crash_child KIND
"""

import asyncio
import contextlib
import os
import sys

import asyncpg

from coordinator import Compensated, Coordinator, InDoubt, Refused, Replaced, Unavailable
from coordinator.faults.injectors import arm_from_environment
from tests.acceptance.test_saga_matrix import SETTINGS, Effects

KEY = "1"
KINDS = {"straight": {}, "undone": {"fails": True}, "asked": {"asks": True}, "waiting": {"waits": True}}


async def finished(coordinator: Coordinator, effects: Effects, kind: str) -> str:
    """Begin the saga of this kind, or find it, and see it to its end, however often it takes to ask; its id."""
    while True:
        try:
            handle = await coordinator.start(effects.saga(kind, **KINDS[kind]), key=KEY)
            if kind == "waiting":
                with contextlib.suppress(Refused):  # It has had its signal.
                    await handle.signal("go", 1)
            with contextlib.suppress(Compensated):
                await handle.result()
        except (Unavailable, InDoubt, Replaced, OSError):  # On a busy machine its lease of a second runs out.
            await asyncio.sleep(0.05)
        else:
            return handle.gid


async def main(kind: str) -> None:
    """Until it is killed: by a fault on the way of its saga, or on the way of what another one has left."""
    url = os.environ["COORDINATOR_POSTGRES_URL"]
    async with asyncpg.create_pool(url, min_size=1, max_size=4) as pool:
        effects = Effects(pool)
        arm_from_environment()
        known = [effects.saga(each, **options) for each, options in KINDS.items()]
        async with Coordinator(journal=url, sagas=known, settings=SETTINGS) as coordinator:
            await finished(coordinator, effects, kind)
            await asyncio.sleep(5)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
