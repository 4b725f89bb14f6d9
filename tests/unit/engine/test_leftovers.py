"""What may be held of a rolled-back transaction is dropped in the end, and nobody waits for it until then."""

import asyncio
import random
import uuid
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from coordinator import Coordinator, InDoubt, Unavailable, limits
from coordinator.bootstrap import SystemClock
from coordinator.engine.leftovers import Leftovers
from coordinator.engine.run import Run
from coordinator.errors import Outdated, TurnedAway
from coordinator.journal.memory import MemoryAlerts, MemoryJournal, MemoryWorld
from coordinator.ports import AlertKind, Standing
from coordinator.protocol.model import Recipe, Transaction
from participants import MemoryDatabase
from participants.tcc import Tcc


async def transact(coordinator):
    async with coordinator.transaction("order") as transaction:
        (await transaction.enlist("stock")).reserve("apple")


async def lost(gid, what):
    raise TimeoutError("the answer was lost")


async def test_nobody_waits_for_what_cannot_be_cancelled():
    """Neither the caller, nor other transactions, nor a process that stops."""
    asked, database, loop = [], MemoryDatabase(), asyncio.get_running_loop()

    async def cancel(gid):
        asked.append(gid)
        raise ConnectionResetError("lost")

    journal, began_s = f"memory://{uuid.uuid4()}", loop.time()
    participants = {"stock": Tcc(lost, confirm=cancel, cancel=cancel), "db": database}
    async with Coordinator(journal=journal, participants=participants) as coordinator:
        coordinator.engine.admission.transactions_max = 3
        for _ in range(3):
            with pytest.raises(Unavailable, match="rolled back"):
                await transact(coordinator)
        async with coordinator.transaction("other") as transaction:
            (await transaction.enlist("db")).insert("t", "x")
        assert database.store.tables["t"] == ["x"]
        async with asyncio.timeout(5):
            while len(asked) < 4 * 3:  # noqa: ASYNC110 - it has no event.
                await asyncio.sleep(0.01)
    assert loop.time() - began_s < limits.SETTLE_WITHIN_S
    made = len(asked)
    await asyncio.sleep(0.2)
    assert len(asked) == made, "a process that has stopped asks no more"


class Share:
    """Of a participant that answers each one's second question, or none."""

    def __init__(self, asked, number=0, *, hangs=False):
        self.asked, self.number, self.hangs = asked, number, hangs

    async def discard(self):
        self.asked.append(self.number)
        if self.hangs:
            await asyncio.Event().wait()
        if self.asked.count(self.number) < 2:
            raise InDoubt


def run(gid):
    return Run(transaction=Transaction(gid=gid, name="t", recipe=Recipe.TWO_PHASE, branches={}))


@asynccontextmanager
async def keeping():
    journal = MemoryJournal(MemoryWorld())
    alerts = MemoryAlerts(journal.world)
    leftovers = Leftovers(journal=journal, alerts=alerts, clock=SystemClock(), chance=random.Random(1))
    yield leftovers
    if asking := leftovers.stop():
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)


async def test_one_participant_that_hangs_keeps_no_other_from_being_asked():
    """A few shares at a time are, and each has its turn."""
    asked, unanswered, count = [], [], 3 * limits.SWEEP_TOGETHER_MAX
    async with keeping() as leftovers:
        for number in range(count):
            leftovers.owe(run("g"), "hangs", Share(unanswered, number, hangs=True), TimeoutError())
            leftovers.owe(run("g"), "db", Share(asked, number), TimeoutError())
        async with asyncio.timeout(10):
            while "db" in leftovers.left:  # noqa: ASYNC110 - it has no event.
                await asyncio.sleep(0.01)
        assert asked == [*range(count)] * 2
        assert unanswered == [*range(limits.SWEEP_TOGETHER_MAX)]


async def test_a_share_that_is_not_answered_in_time_is_asked_again(monkeypatch):
    """Its participant may have no bound of its own."""
    monkeypatch.setattr(limits, "SWEEP_CALL_S", 0.01)
    asked = []
    async with keeping() as leftovers:
        leftovers.owe(run("g"), "hangs", Share(asked, hangs=True), TimeoutError())
        async with asyncio.timeout(5):
            while len(asked) < 3:  # noqa: ASYNC110 - it has no event.
                await asyncio.sleep(0.01)


async def test_of_too_many_shares_one_is_forgotten(monkeypatch, caplog):
    """It is the one that was tried longest ago; and it is said which."""
    monkeypatch.setattr(limits, "SHARES_LEFT_MAX", 3)
    asked = []
    async with keeping() as leftovers:
        for number in range(4):
            leftovers.owe(run(f"g{number}"), "db", Share(asked, number), TimeoutError())
        async with asyncio.timeout(5):
            while leftovers.left:  # noqa: ASYNC110 - it has no event.
                await asyncio.sleep(0.01)
    assert asked == [1, 2, 3] * 2
    assert "g0 is left to the sweep" in caplog.text


async def test_nothing_is_asked_where_the_process_stops_before():
    """Nor after it."""
    asked = []
    async with keeping() as leftovers:
        leftovers.owe(run("g"), "db", Share(asked), TimeoutError())
    leftovers.owe(run("g"), "other", Share(asked), TimeoutError())
    await asyncio.sleep(0.2)
    assert not asked


async def test_a_cancellation_that_is_refused_is_told_once_and_asked_for_again(monkeypatch):
    """A route that is gone, a key that was rotated: whoever waits for the reservation waits for a person."""
    asked, told = [], []

    async def cancel(gid):
        asked.append(gid)
        raise TurnedAway("stock answered 404: no such route")

    participants = {"stock": Tcc(lost, confirm=cancel, cancel=cancel)}
    async with Coordinator(journal=f"memory://{uuid.uuid4()}", participants=participants) as coordinator:
        alerts = coordinator.engine.driver.performer.alerts
        raise_alert = alerts.raise_alert

        async def raising(*alert):
            told.append(alert)
            if len(told) == 1:
                raise Unavailable("no connection")
            await raise_alert(*alert)

        monkeypatch.setattr(alerts, "raise_alert", raising)
        with pytest.raises(Unavailable, match="rolled back"):
            await transact(coordinator)
        async with asyncio.timeout(5):
            while len(asked) < 4:  # noqa: ASYNC110 - it has no event.
                await asyncio.sleep(0.01)
        (alert,) = await alerts.open_alerts()
    assert (alert.gid, alert.kind) == (asked[0], AlertKind.REFUSED)
    assert "no such route" in alert.detail


async def test_what_another_process_has_presumed_to_be_aborted_is_left_to_it():
    """It cancels with a higher term, and this process is refused for that alone: nobody has to be told."""
    asked = []

    class Outdone:
        async def discard(self):
            asked.append(1)
            raise Outdated("somebody was there with a higher term")

    async with keeping() as leftovers:
        record = run("g").record(Standing.ABORT)
        await leftovers.journal.decide(replace(record, reigns=2))
        leftovers.owe(run("g"), "db", Outdone(), TimeoutError())
        async with asyncio.timeout(5):
            while leftovers.left:  # noqa: ASYNC110 - it has no event.
                await asyncio.sleep(0.01)
        assert not await leftovers.alerts.open_alerts()
    assert len(asked) == 1
