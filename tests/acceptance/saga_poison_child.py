"""A process that goes on with whatever sagas it finds, and that one of them may kill.

python -m tests.acceptance.saga_poison_child begin | serve | cured

Who is to *begin* begins a saga that kills its process, and others beside it; where it is *cured* it kills nobody.
"""

import asyncio
import logging
import os
import sys

from coordinator import Coordinator, Settings, Unavailable
from coordinator.sagas.definition import Saga
from coordinator.sagas.steps import step

SETTINGS = Settings(lease_s=1.0, recovery_s=0.1)
OTHERS = 5


def sagas_of(*, cured: bool) -> dict[str, Saga]:
    """The one that kills, those that are short, and one whose step takes longer than it takes to be killed."""

    async def prepare() -> int:
        return 1

    async def unprepare() -> None:
        pass

    async def kill(prepare: int) -> int:
        if not cured:
            os._exit(9)
        return prepare + 1

    async def slow() -> int:
        await asyncio.sleep(2)
        return 1

    return {
        "poison": Saga(
            "poison", step(prepare, compensate=unprepare, on_unknown="retry"), step(kill, on_unknown="retry")
        ),
        "short": Saga("short", step(prepare, name="one", on_unknown="retry"), step(prepare, name="prepare")),
        "slow": Saga("slow", step(slow, on_unknown="retry")),
    }


async def start(coordinator: Coordinator, saga: Saga, key: str) -> None:
    """Begin it, also where the machine is so slow that the lease is not believed for a moment."""
    while True:
        try:
            await coordinator.start(saga, key=key)
        except Unavailable:
            await asyncio.sleep(0.05)
        else:
            return


async def main(what: str) -> None:
    """Until it dies."""
    logging.disable(logging.CRITICAL)
    sagas = sagas_of(cured=what == "cured")
    async with Coordinator(
        journal=os.environ["COORDINATOR_POSTGRES_URL"], sagas=sagas.values(), settings=SETTINGS
    ) as coordinator:
        if what == "begin":
            for number in range(OTHERS):
                await start(coordinator, sagas["slow"], str(number))
                await start(coordinator, sagas["short"], str(number))
            await start(coordinator, sagas["poison"], "it")
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
