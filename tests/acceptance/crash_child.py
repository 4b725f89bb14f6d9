"""One scenario beside the path in a process of its own, which is killed at a point that only something wrong reaches.

python -m tests.acceptance.crash_child POINT CELL AUTHOR
"""

import asyncio
import os
import sys

from coordinator.faults.injectors import ArmedFaults, Fault
from coordinator.faults.points import Cell
from tests.acceptance.stage import Stage
from tests.acceptance.test_matrix_beside_the_path import SCENARIOS, coordinator_for


async def main(point: str, cell: str, author: str) -> None:
    """Run the scenario of *point*; it does not return."""
    scenario, before = SCENARIOS[point]
    faults = [Fault(point=point, cell=Cell(cell), action="crash")]
    if before is not None:
        name, where, times = before
        faults.append(Fault(point=name, cell=where, times=times))
    database, brokers = os.environ["COORDINATOR_POSTGRES_URL"], os.environ["COORDINATOR_KAFKA_BOOTSTRAP"]
    async with coordinator_for(database, brokers) as coordinator:
        stage = Stage(database, brokers, coordinator, seen=None)
        with ArmedFaults(faults=faults) as armed:
            stage.armed = armed
            await scenario(stage, author)
            await asyncio.sleep(2)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
