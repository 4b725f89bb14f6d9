"""Every boundary of sagas, struck in every cell on a real log: each saga ends as it must, and every call is counted.

Effects are rows, one for each call; a participant's barrier would make them one for each step. Only a call whose answer
was lost is made again: nothing that befalls the log or a sleep makes anybody call twice.
"""

import asyncio

import asyncpg
import pytest

from coordinator import Compensated, Coordinator, Refused, Settings
from coordinator.faults.injectors import ArmedFaults, Fault
from coordinator.faults.points import POINTS, Cell
from coordinator.sagas import Attempts, Saga, Status, StepContext, await_signal, sleep, step

SETTINGS = Settings(lease_s=1.0, recovery_s=0.1)
OFTEN = Attempts(at_most=10, backoff_s=0.005, backoff_max_s=0.05)
TABLE = "CREATE TABLE effects (gid text, step text, direction text)"
REPEATED = (
    "SELECT coalesce(sum(n - 1), 0) FROM (SELECT count(*) AS n FROM effects GROUP BY gid, step, direction) AS made"
)


class Effects:
    """The table of what steps did, and sagas whose steps write into it."""

    def __init__(self, pool):
        self.pool = pool
        self.hanging = set()
        """Sagas of which a step is under way, and will not end here."""

    async def write(self, context: StepContext) -> None:
        await self.pool.execute("INSERT INTO effects VALUES ($1, $2, $3)", context.gid, context.step, context.direction)

    async def of(self, gid):
        """What happened at all of a saga."""
        rows = await self.pool.fetch("SELECT DISTINCT step, direction FROM effects WHERE gid = $1 ORDER BY 1, 2", gid)
        return [(row["step"], row["direction"]) for row in rows]

    async def repeated(self):
        """How many calls were made beyond the first one of each step, of all sagas."""
        return int(await self.pool.fetchval(REPEATED))

    def saga(self, name, *, fails=False, asks=False, waits=False, hangs=""):
        """book -> (a nap and a signal) -> pay -> ship, which is refused where it *fails*.

        With a policy, *hangs*, pay does not return at first.
        """

        async def book(context: StepContext) -> int:
            await self.write(context)
            return 1

        async def unbook(context: StepContext) -> None:
            await self.write(context)

        async def pay(context: StepContext) -> int:
            await self.write(context)
            if asks:
                raise ConnectionResetError
            if hangs and context.gid not in self.hanging:
                self.hanging.add(context.gid)
                await asyncio.Event().wait()
            return 2

        async def refund(context: StepContext) -> None:
            await self.write(context)

        async def paid(context: StepContext) -> object:
            done = await self.pool.fetchval("SELECT count(*) FROM effects WHERE gid = $1 AND step = 'pay'", context.gid)
            return (Status.DONE, 2) if done else Status.NEVER

        async def ship(context: StepContext) -> None:
            if fails:
                raise Refused("no address")
            await self.write(context)

        policy = hangs or ("ask" if asks else "retry")
        waiting = (sleep("nap", 0.05), await_signal("go", within=60)) if waits else ()
        return Saga(
            name,
            step(book, compensate=unbook, on_unknown="retry", retry=OFTEN, undo_retry=OFTEN),
            *waiting,
            step(pay, compensate=refund, status=paid if policy == "ask" else None, on_unknown=policy,
                 retry=OFTEN, undo_retry=OFTEN),
            step(ship, retry=OFTEN),
        )  # fmt: skip


DONE = [("book", "action"), ("pay", "action"), ("ship", "action")]
UNDONE = [("book", "action"), ("book", "compensation"), ("pay", "action"), ("pay", "compensation")]


async def straight(coordinator, effects):
    """To its end, and to its undoing."""
    outcome = await coordinator.run(effects.saga("straight"), key="1")
    assert await effects.of(outcome.gid) == DONE
    with pytest.raises(Compensated) as undone:
        await coordinator.run(effects.saga("undone", fails=True))
    assert await effects.of(undone.value.gid) == UNDONE


async def asked(coordinator, effects):
    """A step of which nobody knows is asked about."""
    outcome = await coordinator.run(effects.saga("asked", asks=True))
    assert await effects.of(outcome.gid) == DONE


async def waiting(coordinator, effects):
    """It sleeps, is woken, sleeps again, and is sent a signal (as often as it takes to be told that it was)."""
    saga = effects.saga("waiting", waits=True)
    handle = await coordinator.start(saga)
    async with asyncio.timeout(20):
        while True:
            try:
                await handle.signal("go", 1)
                break
            except (OSError, TimeoutError):
                await asyncio.sleep(0.01)
        assert (await handle.result()).completed
    assert await effects.of(handle.gid) == DONE


async def left(coordinator, effects):
    """Its process is lost on the way; another one goes on, with a step that was under way as its policy says."""
    saga = effects.saga("left", waits=True)
    handle = await coordinator.start(saga)
    ends = {"retry": DONE, "ask": DONE, "compensate": UNDONE}
    hanging = {policy: effects.saga(f"left-{policy}", hangs=policy) for policy in ends}
    handles = {policy: await coordinator.start(each) for policy, each in hanging.items()}
    async with asyncio.timeout(20):
        while len(effects.hanging) < len(hanging):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    for loop in coordinator.engine._loops:
        await loop.stop()
    for task in coordinator.sagas.engine.tasks.values():
        task.cancel()
    async with Coordinator(
        journal=coordinator._journal_url, sagas=[saga, *hanging.values()], settings=SETTINGS
    ) as other:
        await other.sagas.send(handle.gid, "go", 1)
        async with asyncio.timeout(20):
            assert (await other.sagas.ended(handle.gid, saga)).completed
            for policy, lost in handles.items():
                await other.sagas.ended(lost.gid, hanging[policy])
                assert await effects.of(lost.gid) == ends[policy], policy
    assert await effects.of(handle.gid) == DONE


SCENARIOS = {
    "saga.start": straight,
    "saga.append": straight,
    "saga.run": straight,
    "saga.undo": straight,
    "saga.ask": asked,
    "saga.suspend": waiting,
    "saga.awake": waiting,
    "saga.signal": waiting,
    "saga.adopt": left,
}
CELLS = [
    (point, cell, action)
    for point in SCENARIOS
    for cell in Cell
    for action in ("error", "delay")
    if (cell, action) != (Cell.LATE, "delay")
]


def test_every_point_of_sagas_is_struck():
    """A boundary that nobody strikes at is not proved."""
    assert set(SCENARIOS) == {point for point in POINTS if point.startswith("saga.")}


@pytest.fixture
async def effects(database):
    """The table of effects, in the database of the log."""
    async with asyncpg.create_pool(database, min_size=1, max_size=4) as pool:
        await pool.execute(TABLE)
        yield Effects(pool)


@pytest.mark.parametrize(("point", "cell", "action"), CELLS)
async def test_a_fault_breaks_no_saga(database, effects, point, cell, action):
    """It ends as it must, and no call is made twice whose answer had come."""
    fault = Fault(point=point, cell=cell, action=action, argument="40" if action == "delay" else "", times=1)
    async with Coordinator(
        journal=database, sagas=[effects.saga("left", waits=True)], settings=SETTINGS
    ) as coordinator:
        with ArmedFaults(faults=[fault]) as armed:
            await SCENARIOS[point](coordinator, effects)
            await armed.arrive()
        assert fault.fired, "a cell that never fires proves nothing"
    lost = point in ("saga.run", "saga.undo") and action == "error" and cell is not Cell.BEFORE
    hung = SCENARIOS[point] is left  # One that is idempotent hung in the process that was lost.
    assert await effects.repeated() == lost + hung
