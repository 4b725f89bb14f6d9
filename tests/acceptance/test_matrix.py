"""Every boundary of every recipe, in every cell, with every action, on the real Postgres and the real Kafka.

In this process faults are errors and delays; processes of their own are killed. A cell that never fired fails.
"""

import asyncio
import itertools

import pytest

from coordinator.faults.injectors import ArmedFaults, Fault
from coordinator.faults.points import Cell
from examples.social_post.observer import until
from tests.acceptance.children import children_of
from tests.acceptance.stage import staged

PATHS: dict[str, tuple[str, ...]] = {
    "commit-record": ("pg.begin", "kafka.produce", "pg.commit_record", "kafka.end.commit", "journal.finish"),
    "two-phase": (
        "pg.begin",
        "pg.prepare",
        "kafka.produce",
        "journal.decide",
        "kafka.end.commit",
        "pg.commit_prepared",
        "journal.finish",
    ),
    "last-resource": (
        "pg.begin",
        "pg.prepare",
        "kafka.produce",
        "journal.decide",
        "kafka.end.commit",
        "pg.commit_prepared",
        "journal.finish",
    ),
    "outbox": ("pg.begin", "pg.commit_record", "outbox.select", "outbox.publish", "outbox.delete", "journal.finish"),
}
IN_PROCESS = [
    (Cell.BEFORE, "error"),
    (Cell.BEFORE, "delay"),
    (Cell.REPLY_LOST, "error"),
    (Cell.REPLY_LOST, "delay"),
    (Cell.AFTER, "error"),
    (Cell.AFTER, "delay"),
    (Cell.LATE, "error"),
]
CELLS = [
    pytest.param(recipe, point, cell, action, id=f"{recipe}-{point}:{cell}-{action}")
    for recipe, points in PATHS.items()
    for point, (cell, action) in itertools.product(points, IN_PROCESS)
]
CRASHES = [
    (recipe, point, cell)
    for recipe, points in PATHS.items()
    for point, cell in itertools.product(points, (Cell.BEFORE, Cell.REPLY_LOST, Cell.AFTER, Cell.LATE))
    if not point.startswith("outbox.")
]

# What every process does beside its transactions: at its start, and in its loops.
LOOPS = (
    "owner.register",
    "owner.renew",
    "owner.take_over",
    "journal.adopt",
    "pg.scan_prepared",
    "kafka.find_coordinator",
    "kafka.init_producer_id",
    "outbox.claim",
    "outbox.select",
)
KILLED_AT_A_TIME = 3
CRASHES += [("commit-record", point, cell) for point in LOOPS for cell in (Cell.BEFORE, Cell.AFTER)]


@pytest.fixture(scope="module")
async def stage(postgres, kafka, posts_topic):
    """One stage for all cells: what one leaves over fails the next."""
    database = await postgres.create_database("matrix")
    async with staged(database, kafka) as built:
        yield built


@pytest.mark.parametrize(("recipe", "point", "cell", "action"), CELLS)
async def test_a_fault_in_this_process_breaks_no_promise(stage, recipe, point, cell, action):
    """The caller is told the truth, and both systems agree with each other and with it."""
    author = f"{recipe} {point}:{cell} {action}"
    fault = Fault(point=point, cell=cell, action=action, argument="60" if action == "delay" else "", times=1)
    with ArmedFaults(faults=[fault]) as armed:
        answer = await stage.post(author, policy="rollback" if recipe != "outbox" else "backup-polling", recipe=recipe)
        rows, messages = await stage.whole(author, answer)
        for _ in range(200):
            if fault.fired:
                break
            await asyncio.sleep(0.02)  # What is off the critical path has its turn a little later.
        await armed.arrive()
    assert fault.fired, "a cell that never fires proves nothing"
    assert rows == messages
    if point == "outbox.publish" and action == "error":
        stage.repeats[author] = 1  # The relay was told that it does not know whether it has delivered.
        assert await until(lambda: stage.sent(author, 2), 20) is not None, "what may not have arrived is sent again"
    assert await stage.unexplained() == {}
    assert (answer, rows) in {("committed", 1), ("aborted", 0), ("in doubt", 0), ("in doubt", 1)}


async def test_the_faults_above_left_nothing_over(stage):
    """No prepared branch, no open Kafka transaction, no unfinished decision, no waiting row."""
    assert await stage.quiet() == {}
    assert await stage.unexplained() == {}


@pytest.fixture(scope="module")
async def crashed(stage):
    """Kill a process in every cell, a few at a time; the stage's own process recovers all of them."""
    results = {}

    async def one(children, recipe, point, cell):
        author, policy = f"{recipe} {point}:{cell} crash", "backup-polling" if recipe == "outbox" else "rollback"
        linger_s = "2.5" if point in ("journal.finish", *LOOPS) else "0.5"
        _, returned = await children.run(author, recipe, policy, linger_s, COORDINATOR_FAULTS=f"{point}:{cell}=crash")
        results[recipe, point, cell] = (author, returned)

    async with children_of("tests.acceptance.post_child", KILLED_AT_A_TIME, **stage.environment) as children:
        await asyncio.gather(*(one(children, *crash) for crash in CRASHES))
    return results


@pytest.mark.parametrize(("recipe", "point", "cell"), CRASHES)
async def test_a_process_killed_anywhere_leaves_a_whole_transaction(stage, crashed, recipe, point, cell):
    """Whoever survives finishes it: both systems agree."""
    author, returned = crashed[recipe, point, cell]
    assert returned == -9, "the process was not killed: the cell never fired"
    assert await stage.whole(author) in {(0, 0), (1, 1)}
    assert await stage.unexplained() == {}


async def test_the_killed_processes_left_nothing_over(stage, crashed):
    """No prepared branch, no open Kafka transaction, no unfinished decision, no waiting row."""
    assert await stage.quiet() == {}
    assert await stage.unexplained() == {}
