"""Every boundary of sagas on a real log, and the process killed there: whoever survives ends the saga as it must."""

import asyncio
import signal
from dataclasses import dataclass

import asyncpg
import pytest

from coordinator import Coordinator
from coordinator.faults.points import POINTS, Cell
from tests.acceptance.children import children_of
from tests.acceptance.saga_crash_child import KINDS, finished
from tests.acceptance.test_saga_matrix import DONE, SETTINGS, TABLE, UNDONE, Effects

AT_A_TIME, WITHIN_S = 4, 60.0

ON_THE_WAY = {
    "saga.start": "straight",
    "saga.append": "straight",
    "saga.run": "straight",
    "saga.undo": "undone",
    "saga.ask": "asked",
    "saga.suspend": "waiting",
    "saga.awake": "waiting",
    "saga.signal": "waiting",
    "saga.adopt": "straight",
}
"""The kind of saga that reaches the point."""
BESIDE_CALLS = {"saga.start", "saga.suspend", "saga.awake"}
"""Nothing is called, or about to be, where these are."""


def test_a_process_is_killed_at_every_point_of_sagas():
    assert set(ON_THE_WAY) == {point for point in POINTS if point.startswith("saga.")}


async def killed(children, url, kind, fault):
    """A process with a saga of this kind, and the signal that it died of."""
    async with asyncio.timeout(WITHIN_S):
        _, returned = await children.run(kind, COORDINATOR_POSTGRES_URL=url, COORDINATOR_FAULTS=fault)
    return -returned


@dataclass(frozen=True)
class Ended:
    """What a killed process died of, and what stands of its saga in the end."""

    died_of: list[int]
    effects: list[tuple[str, str]]
    sagas: int
    repeated: int


async def ended(children, url, point, cell):
    """A process is killed in this cell, and a survivor sees to its saga."""
    kind, died_of = ON_THE_WAY[point], []
    async with asyncpg.create_pool(url, min_size=1, max_size=4) as pool:
        await pool.execute(TABLE)
        if point == "saga.adopt":  # Of what a first one has left, by a second one.
            died_of.append(await killed(children, url, kind, "saga.append:after=crash"))
        died_of.append(await killed(children, url, kind, f"{point}:{cell}=crash"))
        effects = Effects(pool)
        known = [effects.saga(each, **options) for each, options in KINDS.items()]
        async with Coordinator(journal=url, sagas=known, settings=SETTINGS) as survivor, asyncio.timeout(WITHIN_S):
            gid = await finished(survivor, effects, kind)
        sagas = await pool.fetchval("SELECT count(DISTINCT gid) FROM effects")
        return Ended(died_of, await effects.of(gid), sagas, await effects.repeated())


@pytest.fixture(scope="module")
async def all_ended(postgres):
    """Every cell, a few at a time, each in a database of its own: most of the time goes by until leases expire."""
    results, queue = {}, [(point, cell) for point in ON_THE_WAY for cell in Cell]

    async def work(children):
        while queue:
            point, cell = queue.pop()
            name = f"killed_{len(queue)}"
            url = await postgres.create_database(name)
            try:
                results[point, cell] = await ended(children, url, point, cell)
            except (TimeoutError, OSError) as failure:
                results[point, cell] = failure
            await postgres.drop_database(name)

    async with children_of("tests.acceptance.saga_crash_child", AT_A_TIME) as children:
        await asyncio.gather(*(work(children) for _ in range(AT_A_TIME)))
    return results


@pytest.mark.parametrize("cell", list(Cell))
@pytest.mark.parametrize("point", ON_THE_WAY)
async def test_a_process_killed_anywhere_leaves_a_saga_that_ends_as_it_must(all_ended, point, cell):
    result = all_ended[point, cell]
    assert isinstance(result, Ended), f"it has not ended: {result!r}"
    assert set(result.died_of) == {signal.SIGKILL}, "the process was not killed: the cell never fired"
    assert result.effects == (UNDONE if ON_THE_WAY[point] == "undone" else DONE)
    assert result.sagas == 1
    # Of a late call the caller has heard nothing, and may have called again before the late one killed the process.
    again = len(result.died_of) + (cell is Cell.LATE)
    assert result.repeated <= (0 if point in BESIDE_CALLS else again), "more was called again than was lost"
