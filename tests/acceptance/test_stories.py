"""Stories that a left-out rule would turn into a torn transaction, forced on the real servers.

Two processes, A and B, on one journal. A is held at a boundary, as a paused process is; B takes over or sweeps; then A
goes on. With the rule in place the end is whole. Each story is told once more with its rule left out: then it tears.
"""

import asyncio
from dataclasses import replace

import asyncpg
import pytest

from coordinator import Coordinator, CoordinatorError, Settings
from coordinator.engine.performer import Performer
from coordinator.engine.sweep import PresumeAbort, Sweep
from coordinator.faults.injectors import ArmedFaults, Fault
from coordinator.faults.points import Cell
from coordinator.journal.postgres import SQL, PostgresJournal
from coordinator.ports import Standing
from coordinator.protocol import two_phase
from coordinator.protocol.model import Ending
from participants import Kafka, Postgres
from participants.kafka import outcome
from tests.acceptance.reading import count_sent

SETTINGS = Settings(
    lease_s=120, recovery_s=3600, presume_abort_after_s=0.01, presume_abort_looks_apart_s=0.0, settle_within_s=3
)


class Stage:
    """A and B, and what is really there. B's loops stand still: it does what the story says."""

    def __init__(self, a, b, connection, topic, bootstrap):
        self.a, self.b, self.connection, self.topic, self.bootstrap = a, b, connection, topic, bootstrap

    async def take_over(self):
        """A's lease has run out while it is held; B finishes what it finds."""
        owner = self.a.engine.ownership.lease.owner
        await self.connection.execute("UPDATE unanimity.owners SET lease_until = '-infinity' WHERE owner = $1", owner)
        sweep = self.b.engine.recovery.sweep
        hasty, sweep.rule = sweep.rule, PresumeAbort()  # Only its records and its ids: its branches are too young.
        await self.recover()
        sweep.rule = hasty

    async def recover(self):
        """Two looks of B, to their end."""
        for _ in range(2):
            await self.b.engine.recovery.once()
            await driven(self.b)

    async def sweep(self):
        """B looks for prepared branches, twice, and finishes what it presumes; A keeps its lease."""
        await asyncio.sleep(0.05)
        for _ in range(2):
            for name in self.b.engine.participants:
                await self.b.engine.recovery.sweep.look_at(name)
            await driven(self.b)

    async def tell(self, recipe, point, cell, meanwhile) -> str:
        """A's transaction, held at *point* while *meanwhile* happens; what its caller is told."""
        fault = Fault(point=point, cell=cell, action="call", call=meanwhile, times=1)
        with ArmedFaults(faults=[fault]):
            try:
                async with self.a.transaction("story", recipe=recipe) as transaction:
                    await (await transaction.enlist("db")).execute("INSERT INTO t VALUES (1)")
                    await transaction.publish("events", topic=self.topic, value="x")
                answer = "committed"
            except CoordinatorError as failure:
                answer = type(failure).__name__
        assert fault.fired == 1
        return answer

    async def end(self) -> tuple[int, int]:
        """Rows and messages when everybody has done what is owed."""
        await driven(self.a)
        await self.recover()
        for _ in range(60):
            if not await self.connection.fetchval("SELECT count(*) FROM unanimity.outbox WHERE NOT waiting"):
                break
            await asyncio.sleep(0.05)
        rows = await self.connection.fetchval("SELECT count(*) FROM t")
        return rows, await count_sent(self.bootstrap, self.topic)


async def driven(process) -> None:
    """Wait for everything that *process* drives, as long as that can end."""
    tasks = list(process.engine.driver.driving.values())
    if tasks:
        await asyncio.wait(tasks, timeout=4)


@pytest.fixture
async def stage(database, kafka, create_topic):
    """Two processes on one database and one broker."""

    def process():
        participants = {"db": Postgres(database), "events": Kafka(kafka.bootstrap)}
        return Coordinator(journal=database, participants=participants, settings=SETTINGS)

    async with process() as a, process() as b:
        connection = await asyncpg.connect(database)
        await connection.execute("CREATE TABLE t (n int)")
        yield Stage(a, b, connection, await create_topic(), kafka.bootstrap)
        await connection.close()


async def owner_replaced_before_its_decision(stage):
    """Paused between the votes and the decision; taken over, its Kafka transaction aborted; goes on."""
    return await stage.tell("two-phase", "journal.decide", Cell.BEFORE, stage.take_over)


async def sweep_before_the_decision(stage):
    """Paused for longer than anybody may take to decide, with its lease alive; its branch is swept; goes on."""
    return await stage.tell("two-phase", "journal.decide", Cell.BEFORE, stage.sweep)


async def taken_over_after_the_last_resource_committed(stage):
    """Kafka has committed, and the answer is not seen yet; another process takes over, and sweeps."""

    async def take_over_and_sweep():
        await stage.take_over()
        await stage.sweep()

    return await stage.tell("last-resource", "kafka.end.commit", Cell.AFTER, take_over_and_sweep)


async def stale_commit_record(stage):
    """Paused before its one commit; taken over, its Kafka transaction aborted; the commit lands."""
    return await stage.tell("commit-record", "pg.commit_record", Cell.BEFORE, stage.take_over)


async def fenced_after_it_committed(stage):
    """Kafka has committed; before the answer is seen the id is initialised by somebody else, and the answer lost."""

    async def fence_and_lose():
        kafka = stage.a.engine.participants["events"].participant
        (live,) = kafka._live.values()
        await stage.b.engine.participants["events"].participant.settle_id(live.pooled.transactional_id)
        raise ConnectionResetError("the reply was lost")

    return await stage.tell("commit-record", "kafka.end.commit", Cell.AFTER, fence_and_lose)


def without_the_owners_lock(patch):
    """The decision checks its term before it is held up, and not when it is written."""
    decide = SQL["decide"].replace("OR (owner, term) IN (SELECT owner, term FROM held)", "OR true")
    assert decide != SQL["decide"]
    patch.setitem(SQL, "decide", decide)


def without_writing_the_abort_first(patch):
    """The sweep rolls back what no record speaks of, and leaves no record itself."""

    async def hasty(self, participant, doubtful):
        if await self.journal.look_up(doubtful.prepared.gid) is None:
            await participant.abort(doubtful.prepared)

    patch.setattr(Sweep, "_look_at", hasty)


def without_the_intent(patch):
    """The last resource is asked before its intent is durable."""

    async def intend(self, run):
        return two_phase.Intended()

    patch.setattr(Performer, "_intend", intend)


def without_waiting_rows(patch):
    """The deciding commit carries no messages."""
    within = PostgresJournal.decide_within

    async def bare(self, connection, record, messages, *, ready):
        await within(self, connection, record, [], ready=ready)

    patch.setattr(PostgresJournal, "decide_within", bare)


def without_reading_back(patch):
    """A fenced transaction is taken for one that was aborted."""

    async def assume(cluster, branch, *, within_s):
        return Ending.ABORTED

    patch.setattr(outcome, "read_back", assume)


STORIES = {
    "an owner that was replaced decides nothing": (owner_replaced_before_its_decision, (0, 0), without_the_owners_lock),
    "an abort is written before it is acted on": (sweep_before_the_decision, (0, 0), without_writing_the_abort_first),
    "the intent is written before the last resource is asked": (
        taken_over_after_the_last_resource_committed,
        (1, 1),
        without_the_intent,
    ),
    "outbox rows ride in the deciding commit": (stale_commit_record, (1, 1), without_waiting_rows),
    "a fenced outcome is read back": (fenced_after_it_committed, (1, 1), without_reading_back),
}


@pytest.mark.parametrize("rule", STORIES)
async def test_with_the_rule_the_story_ends_whole(stage, rule):
    """Rows and messages agree, and the caller was told the truth."""
    story, expected, _ = STORIES[rule]
    answer = await story(stage)
    assert await stage.end() == expected
    assert (answer == "committed") == (expected == (1, 1))


@pytest.mark.parametrize("rule", STORIES)
async def test_without_the_rule_the_story_tears(stage, rule, monkeypatch):
    """Which is why the rule is there, and how we know that the story was really told."""
    story, expected, leave_out = STORIES[rule]
    leave_out(monkeypatch)
    await story(stage)
    assert await stage.end() != expected


async def test_the_first_insert_wins_over_a_commit_in_flight(stage):
    """While the one commit is under way, somebody presumes its abort: that waits for the flight, and adopts it."""
    told = []

    async def presume():
        (run,) = stage.a.engine.driver.runs.values()
        record = replace(run.record(Standing.ABORT, reason="presumed"), lease=None)
        told.append(asyncio.create_task(stage.b.engine.journal.decide(record)))
        await asyncio.sleep(0.2)
        assert not told[0].done()

    assert await stage.tell("commit-record", "pg.commit_record", Cell.BEFORE, presume) == "committed"
    assert await told[0] is Standing.COMMIT
    assert await stage.end() == (1, 1)
