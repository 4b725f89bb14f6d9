"""The boundaries that no healthy transaction passes: each is reached by something going wrong, and goes wrong itself.

As in the matrix of the path, every cell and action must fire, and whatever happens, both systems agree in the end.
"""

import asyncio
import itertools

import asyncpg
import pytest

from coordinator import BackupPolling, CoordinatorError
from coordinator.faults.injectors import ArmedFaults, Fault
from coordinator.faults.points import POINTS, Cell
from examples.social_post.promises import SETTINGS
from examples.social_post.service import coordinator_of, create_post
from participants.barrier import Barrier, Call, Direction, Verdict
from participants.inbox import Inbox
from tests.acceptance.children import children_of
from tests.acceptance.stage import staged
from tests.acceptance.test_matrix import IN_PROCESS, LOOPS, PATHS

POLICY = BackupPolling(push_within_s=0.3, poll_every_s=0.1)


@pytest.fixture(scope="module")
async def stage(postgres, kafka, posts_topic):
    """One stage for all cells: what one leaves over fails the last test."""
    async with staged(await postgres.create_database("beside"), kafka) as built:
        yield built


async def look_after_others(stage, author) -> str:
    """A round of the loops, which are never in a transaction's way."""
    for work in (stage.coordinator.engine.ownership.renew, stage.coordinator.engine.recovery.once):
        try:
            await work()
        except (CoordinatorError, OSError, TimeoutError):
            continue  # The loop's next round comes at its time.
    return await stage.post(author, recipe="two-phase")


async def start_anew(stage, author) -> str:
    """A process that starts: an owner, ids, shards. It starts, or says why not and leaves nothing."""
    try:
        async with coordinator_of(stage.database, stage.brokers, SETTINGS) as another:
            for relay in another.engine.finisher.relays.relays.values():
                relay.shards.terms.clear()
                async with relay.backlog.connection() as connection:
                    await connection.execute("UPDATE unanimity.outbox_shards SET lease_until = '-infinity'")
                    await relay.shards.look_after(connection)
            await create_post(another, author=author, body="hello")
    except (CoordinatorError, OSError, TimeoutError):
        return "in doubt"
    return "committed"


async def roll_back(stage, author, *, recipe="commit-record") -> str:
    """The block raises after its message has travelled."""
    with pytest.raises(ZeroDivisionError):
        async with stage.coordinator.transaction("create-post", recipe=recipe) as transaction:
            connection = await transaction.enlist("db")
            await connection.execute("INSERT INTO posts (author, body) VALUES ($1, '')", author)
            await transaction.publish("events", topic="posts", key=author, value="x")
            session = transaction._work.run.sessions["events"]
            await session._transaction.acknowledged()
            _ = 1 / 0
    return "aborted"


async def refuse_after_prepare(stage, author) -> str:
    """The database is prepared, and the broker has no such topic."""
    try:
        async with stage.coordinator.transaction("create-post", recipe="two-phase") as transaction:
            connection = await transaction.enlist("db")
            await connection.execute("INSERT INTO posts (author, body) VALUES ($1, '')", author)
            await transaction.publish("events", topic="no-topic-here", key=author, value="x")
    except CoordinatorError:
        return "aborted"
    return "committed"


async def two_phase(stage, author) -> str:
    return await stage.post(author, recipe="two-phase")


async def last_resource(stage, author) -> str:
    return await stage.post(author, recipe="last-resource")


async def deliver_later(stage, author) -> str:
    """The broker does not take the message in time, and the database commits."""
    transaction = await create_post(stage.coordinator, author=author, body="x", policy=POLICY, recipe="two-phase")
    assert transaction.outcome is not None
    assert transaction.outcome.deferred
    return "committed"


async def fenced(stage, author) -> str:
    """The id is initialised by somebody else just before the transaction is ended."""
    kafka = stage.coordinator.engine.participants["events"].participant

    async def fence():
        (live,) = kafka._live.values()
        await kafka.settle_id(live.pooled.transactional_id)

    fault = Fault(point="kafka.end.commit", action="call", call=fence, times=1)
    stage.armed.faults.append(fault)
    return await stage.post(author, policy="backup-polling", recipe="commit-record")


async def describe(stage, author) -> str:
    """An operator's question about an id; asked again when it had no answer."""
    kafka = stage.coordinator.engine.participants["events"].participant
    pooled = await kafka.ordinary.take()
    kafka.ordinary.put_back_unused(pooled)
    for _ in range(2):
        try:
            assert (await kafka.describe(pooled.transactional_id)).producer.producer_id >= 0
        except (CoordinatorError, OSError, TimeoutError):
            continue
    return await stage.post(author)


async def consume(stage, author) -> str:
    """A consumer that records a message beside its effect, and begins again where it got no answer."""
    connection = await asyncpg.connect(stage.database)
    inbox = Inbox("matrix")
    await inbox.create(connection)
    await connection.execute("CREATE TABLE IF NOT EXISTS effects (id text)")
    for _ in range(3):
        try:
            async with connection.transaction():
                if await inbox.first_time(connection, author):
                    await connection.execute("INSERT INTO effects VALUES ($1)", author)
        except (OSError, TimeoutError):
            await stage.armed.arrive()
    assert await connection.fetchval("SELECT count(*) FROM effects WHERE id = $1", author) == 1
    await connection.close()
    return await stage.post(author)


async def be_a_step(stage, author) -> str:
    """A step with an effect outside of the database, delivered again until it is settled."""
    connection = await asyncpg.connect(stage.database)
    barrier, call = Barrier("matrix"), Call(author, "step", Direction.ACTION)
    await barrier.create(connection)
    await connection.execute("CREATE TABLE IF NOT EXISTS effects (id text)")
    for _ in range(3):
        try:
            await barrier.intend(connection, call)
            async with connection.transaction():
                if await barrier.settle(connection, call) is Verdict.PROCEED:
                    await connection.execute("INSERT INTO effects VALUES ($1)", author)
        except (OSError, TimeoutError):
            await stage.armed.arrive()
    assert await connection.fetchval("SELECT count(*) FROM effects WHERE id = $1", author) == 1
    await connection.close()
    return await stage.post(author)


LOST_PREPARE = ("pg.prepare", Cell.REPLY_LOST, 1)
LOST_COMMIT = ("pg.commit_prepared", Cell.REPLY_LOST, 1)
NO_COMMIT = ("pg.commit_prepared", Cell.BEFORE, 1)
NO_BROKER = ("kafka.produce", Cell.BEFORE, None)

# How each point is reached: what is done, and what goes wrong before.
SCENARIOS = {
    "owner.renew": (look_after_others, None),
    "owner.take_over": (look_after_others, None),
    "journal.adopt": (look_after_others, None),
    "pg.scan_prepared": (look_after_others, None),
    "owner.register": (start_anew, None),
    "kafka.find_coordinator": (start_anew, None),
    "kafka.init_producer_id": (start_anew, None),
    "outbox.claim": (start_anew, None),
    "kafka.end.abort": (roll_back, None),
    "pg.rollback_prepared": (refuse_after_prepare, None),
    "pg.terminate_backend": (two_phase, LOST_PREPARE),
    "pg.outcome": (two_phase, LOST_COMMIT),
    "journal.conclude": (last_resource, NO_COMMIT),
    "outbox.release": (deliver_later, NO_BROKER),
    "kafka.read_back": (fenced, None),
    "kafka.describe": (describe, None),
    "inbox.insert": (consume, None),
    "barrier.enter": (be_a_step, None),
    "barrier.settle": (be_a_step, None),
}
# A connection keeps its order: nothing overtakes the ROLLBACK.
WITHIN = ("inbox.insert", "barrier.enter", "barrier.settle")
CELLS = [
    pytest.param(point, cell, action, id=f"{point}:{cell}-{action}")
    for point, (cell, action) in itertools.product(SCENARIOS, IN_PROCESS)
    if not (point in WITHIN and cell is Cell.LATE)
]

KILLED = [
    (point, cell)
    for point in SCENARIOS
    if point not in LOOPS
    for cell in (Cell.BEFORE, Cell.REPLY_LOST, Cell.AFTER, Cell.LATE)
    if not (point in WITHIN and cell is Cell.LATE)
]


def coordinator_for(database, brokers):
    """A process of the service, as the stage's own is one."""
    return coordinator_of(database, brokers, SETTINGS)


def test_every_point_is_in_one_of_the_two_matrices():
    """A boundary that nobody strikes at is not proved. (Those of sagas and TCC have their own.)"""
    struck = set(SCENARIOS) | {point for points in PATHS.values() for point in points}
    assert struck == {point for point in POINTS if not point.startswith(("saga.", "tcc."))}


@pytest.mark.parametrize(("point", "cell", "action"), CELLS)
async def test_a_fault_beside_the_path_breaks_no_promise(stage, point, cell, action):
    """Whatever goes wrong on top of what went wrong: both systems agree, and the caller was told the truth."""
    scenario, before = SCENARIOS[point]
    author = f"beside {point}:{cell} {action}"
    fault = Fault(point=point, cell=cell, action=action, argument="40" if action == "delay" else "", times=1)
    faults = [fault]
    if before is not None:
        name, where, times = before
        faults.append(Fault(point=name, cell=where, times=times))
    with ArmedFaults(faults=faults) as armed:
        stage.armed = armed
        answer = await scenario(stage, author)
        for _ in range(150):
            if fault.fired:
                break
            await asyncio.sleep(0.02)
        await armed.arrive()
    assert fault.fired, "a cell that never fires proves nothing"
    rows, messages = await stage.whole(author, answer)
    assert rows == messages
    assert rows in {"committed": (1,), "aborted": (0,)}.get(answer, (0, 1))
    assert await stage.unexplained() == {}


@pytest.fixture(scope="module")
async def killed(stage):
    """A process killed in every cell of the points that no loop and no healthy transaction passes."""
    results = {}

    async def one(children, point, cell) -> None:
        _, results[point, cell] = await children.run(point, cell, f"beside {point}:{cell} crash")

    async with children_of("tests.acceptance.crash_child", 3, **stage.environment) as children:
        await asyncio.gather(*(one(children, point, cell) for point, cell in KILLED))
    return results


@pytest.mark.parametrize(("point", "cell"), KILLED)
async def test_a_process_killed_beside_the_path_leaves_a_whole_transaction(stage, killed, point, cell):
    """Whoever survives finishes it: both systems agree."""
    assert killed[point, cell] == -9, "the process was not killed: the cell never fired"
    assert await stage.whole(f"beside {point}:{cell} crash") in {(0, 0), (1, 1)}
    assert await stage.unexplained() == {}


async def test_nothing_is_left_over(stage):
    """No prepared branch, no open Kafka transaction, no unfinished decision, no waiting row."""
    assert await stage.quiet() == {}
    assert await stage.unexplained() == {}
