"""What is owed after the decision is asked for until it is done; and somebody is told where that is refused."""

import asyncio
import uuid
from dataclasses import replace

import pytest

from coordinator import Coordinator, InDoubt, Refused, Unavailable
from coordinator.alerts import AlertKind
from participants import MemoryDatabase
from participants.tcc import Tcc


class Reservations:
    """A service that reserves; *failures* are raised by its next cancellations and confirmations."""

    def __init__(self, *failures, answers=True):
        self.failures, self.answers, self.held, self.ended = list(failures), answers, set(), []

    async def reserve(self, gid, what):
        self.held.add(gid)
        if not self.answers:
            raise TimeoutError("the answer was lost")

    async def end(self, gid):
        self.ended.append(gid)
        if self.failures:
            raise self.failures.pop(0)
        self.held.discard(gid)

    @property
    def participant(self):
        return Tcc(self.reserve, confirm=self.end, cancel=self.end)


async def transact(coordinator):
    async with coordinator.transaction("order") as transaction:
        (await transaction.enlist("stock")).reserve("apple")


def coordinating(service):
    return Coordinator(journal=f"memory://{uuid.uuid4()}", participants={"stock": service.participant})


@pytest.mark.parametrize("failure", [Unavailable("try again"), ConnectionResetError("lost"), Refused("may not")])
async def test_what_may_have_been_tried_is_cancelled_until_that_is_answered(failure):
    """The caller is told that it was rolled back, and nothing is held for ever."""
    service = Reservations(failure, failure, answers=False)
    async with coordinating(service) as coordinator:
        with pytest.raises(Unavailable, match="rolled back"):
            await transact(coordinator)
        async with asyncio.timeout(5):
            while service.held or coordinator.engine.driver.performer.leftovers.left:  # noqa: ASYNC110 - it has no event.
                await asyncio.sleep(0.01)
        assert len(service.ended) == 3
        assert not coordinator.engine.journal.world.rows, "what is rolled back is not recorded"


async def test_a_rollback_that_nobody_doubts_is_asked_for_no_more():
    """Refused and unavailable mean that nothing was tried."""
    service = Reservations()

    async def refuse(gid, what):
        raise Refused("sold out")

    service.reserve = refuse
    async with coordinating(service) as coordinator:
        with pytest.raises(Refused, match="sold out"):
            await transact(coordinator)
        assert service.ended == []


class Refusing(MemoryDatabase):
    """A database that may not commit what it has prepared, as where a privilege was taken away."""

    def __init__(self, times):
        super().__init__()
        self.times = times

    async def commit(self, prepared):
        self.times -= 1
        if self.times >= 0:
            raise Refused("permission denied")
        return await super().commit(prepared)


@pytest.mark.parametrize("alerts_work", [True, False])
async def test_a_decided_branch_that_is_refused_raises_an_alert_and_is_asked_again(alerts_work, monkeypatch):
    """One alert, also where it cannot be raised at first; the other branch goes on, and in the end both are done."""
    refusing, other = Refusing(3), MemoryDatabase()
    participants = {"db": refusing, "other": other}
    async with Coordinator(journal=f"memory://{uuid.uuid4()}", participants=participants) as coordinator:
        alerts = coordinator.engine.driver.performer.alerts
        raised, raise_alert = [], alerts.raise_alert

        async def raising(gid, kind, detail):
            raised.append(kind)
            if not alerts_work and len(raised) == 1:
                raise Unavailable("the journal is away")
            await raise_alert(gid, kind, detail)

        monkeypatch.setattr(alerts, "raise_alert", raising)
        async with coordinator.transaction("order", recipe="two-phase") as transaction:
            for name in participants:
                (await transaction.enlist(name)).insert("t", "x")
        assert refusing.store.tables["t"] == other.store.tables["t"] == ["x"]
        assert raised == [AlertKind.REFUSED] * 3
        (alert,) = await alerts.open_alerts()
        assert (alert.kind, alert.detail) == (AlertKind.REFUSED, "permission denied")


async def test_who_was_replaced_in_the_meantime_alerts_nobody():
    """A service turns it away that has seen a higher term; what it owed is another process' to do, or to tell of."""
    service, world = Reservations(), None

    async def confirm(prepared):
        service.ended.append(prepared.gid)
        if len(service.ended) < 3:
            raise InDoubt("no answer")
        row = world.rows[prepared.gid]
        row.record = replace(row.record, reigns=2)
        raise Refused("a higher term was here before")

    async with coordinating(service) as coordinator:
        engine, world = coordinator.engine, coordinator.engine.journal.world
        engine.participants["stock"].participant.commit = confirm
        await transact(coordinator)
        assert len(service.ended) == 3
        assert not engine.driver.driving
        assert not world.alerts


async def test_a_pause_that_is_no_number_of_seconds_ends_no_transaction_midway():
    """A header as it came, say."""
    service = Reservations(Unavailable("later", retry_after_s="30"))
    async with coordinating(service) as coordinator:
        await transact(coordinator)
        assert not service.held
        assert len(service.ended) == 2
