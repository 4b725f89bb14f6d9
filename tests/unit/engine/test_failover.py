"""What a failover lost is looked for when it can have happened, until it has been found, and not more often."""

import asyncio

import pytest

from coordinator import limits
from coordinator.alerts import AlertKind
from coordinator.engine.failover import Failover
from coordinator.engine.run import Registered
from coordinator.errors import Unavailable
from coordinator.journal.memory import MemoryAlerts, MemoryJournal, MemoryOwners, MemoryWorld
from coordinator.ports import Record, Standing
from coordinator.protocol.model import Branch, BranchName, Ending, Gid, Outcome, Recipe, Role, Vote

DB = BranchName("db")
GID = Gid("g")


class Server:
    """A database that has lost everything that was done in its first history."""

    def __init__(self):
        self.timeline, self.asked, self.away = 1, 0, False

    async def history(self):
        return {"system": "s", "timeline": self.timeline}

    async def lost(self, history, gids):
        self.asked += 1
        if self.away:
            raise Unavailable("no answer")
        return gids


async def failing_over() -> tuple[Server, Failover, MemoryJournal, MemoryWorld]:
    """A commit that was decided in the first history, and is not finished."""
    world, server = MemoryWorld(), Server()
    journal = MemoryJournal(world)
    await MemoryOwners(journal, owner_id="a", lease_s=60).register()
    await journal.decide(
        Record(
            gid=GID,
            name="test",
            recipe=Recipe.TWO_PHASE,
            standing=Standing.COMMIT,
            branches={DB: Branch(name=DB, role=Role.PREPARED)},
            votes={DB: Vote.YES},
            evidence={DB: {"xid": "7", "system": "s", "timeline": 1}},
        )
    )
    participants = {DB: Registered(participant=server, abilities=frozenset())}
    return server, Failover(participants=participants, journal=journal, alerts=MemoryAlerts(world)), journal, world


async def test_nothing_is_asked_while_the_history_is_the_same():
    """However often it is looked at."""
    server, failover, _, world = await failing_over()
    for _ in range(3):
        await failover.look_at(DB)
    assert (server.asked, world.alerts) == (0, {})


async def test_a_change_is_looked_into_until_nothing_is_unfinished_any_more():
    """What is being finished may be committed where nobody follows; then one more look is enough."""
    server, failover, journal, world = await failing_over()
    await failover.look_at(DB)
    server.timeline = 2
    await failover.look_at(DB)
    await failover.look_at(DB)
    assert server.asked == 2
    await journal.finish(GID, Outcome.COMMIT, {DB: Ending.COMMITTED})
    for _ in range(3):
        await failover.look_at(DB)
    assert server.asked == 3
    assert list(world.alerts) == [(GID, AlertKind.LOST_BY_FAILOVER)]
    assert world.rows[GID].endings == {DB: Ending.LOST}


async def test_a_server_that_does_not_answer_is_asked_again():
    """A change is not taken for verified before it was."""
    server, failover, journal, world = await failing_over()
    await journal.finish(GID, Outcome.COMMIT, {DB: Ending.COMMITTED})
    server.timeline, server.away = 2, True
    await failover.look_at(DB)
    assert world.alerts == {}
    server.away = False
    await failover.look_at(DB)
    assert list(world.alerts) == [(GID, AlertKind.LOST_BY_FAILOVER)]


@pytest.mark.parametrize("said", [KeyError("timeline"), asyncio.CancelledError("what it awaited"), None], ids=repr)
@pytest.mark.parametrize("asked", ["history", "lost"])
async def test_a_server_that_raises_anything_or_hangs_is_asked_again(monkeypatch, asked, said):
    """A look ends in any case: a sweep comes after it."""
    monkeypatch.setattr(limits, "SWEEP_CALL_S", 0.01)
    server, failover, _, world = await failing_over()

    async def odd(*_):
        if said is None:
            await asyncio.Event().wait()
        raise said

    server.timeline, answers = 2, getattr(server, asked)
    setattr(server, asked, odd)
    await failover.look_at(DB)
    assert not world.alerts
    setattr(server, asked, answers)
    await failover.look_at(DB)
    assert len(world.alerts) == 1
