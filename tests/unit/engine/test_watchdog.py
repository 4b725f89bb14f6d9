"""A process that stood still issues no effect before it has renewed its lease, whoever of it wakes up first."""

import asyncio
import time
import uuid

import pytest

from coordinator import Coordinator, Settings
from coordinator.engine.watchdog import Watchdog
from coordinator.faults.points import install
from participants import MemoryBroker, MemoryDatabase
from tests.properties.world import VirtualClock

LEASE_S = 1.5
STALL_S = 0.8  # More than a third of the lease, less than what it is believed for.
PATH = ["kafka.produce", "pg.prepare", "journal.decide", "pg.commit_prepared", "kafka.end.commit"]
EFFECTS = {"journal.decide", "journal.conclude", "pg.commit_prepared", "kafka.end.commit", "journal.adopt"}


class Recorder:
    """Every effect in its order; one of them blocks the event loop, for as long as *seconds*, when it is done."""

    def __init__(self, blocks=None, seconds=STALL_S):
        self.order, self.blocks, self.seconds = [], blocks, seconds
        self.renewed = asyncio.Event()

    async def run(self, point, effect, labels):
        self.order.append(point)
        result = await effect()
        if point == self.blocks:
            self.blocks = None
            time.sleep(self.seconds)  # noqa: ASYNC251 - this is the blocking call that business code makes.
            self.order.append("woke up")
        return result

    async def renewing(self, renew, lease):
        """In place of the owners' renewal. Its answer takes a moment, as a database's does."""
        self.order.append("asked to renew")
        renewed = await renew(lease)
        await asyncio.sleep(0.05)
        self.order.append("renewed")
        if "woke up" in self.order:
            self.renewed.set()
        return renewed


@pytest.fixture
async def coordinator():
    """A short lease; two-phase, so that the decision and both second phases are effects of their own."""
    participants = {"db": MemoryDatabase(), "events": MemoryBroker(prepares=True)}
    settings = Settings(lease_s=LEASE_S, recovery_s=0.05)
    async with Coordinator(
        journal=f"memory://{uuid.uuid4()}", participants=participants, settings=settings
    ) as coordinator:
        yield coordinator
    install(None)


async def transact(coordinator) -> None:
    async with coordinator.transaction("t", recipe="two-phase") as transaction:
        (await transaction.enlist("db")).insert("t", "row")
        await transaction.publish("events", topic="t", value="x")


@pytest.mark.parametrize("point", PATH)
async def test_no_effect_is_issued_between_a_standstill_and_the_renewal(coordinator, point, monkeypatch):
    """The loop is blocked at each step of a transaction; what comes next waits until the lease is renewed."""
    recorder, owners = Recorder(blocks=point), coordinator.engine.ownership.owners
    renew = owners.renew
    monkeypatch.setattr(owners, "renew", lambda lease: recorder.renewing(renew, lease))
    install(recorder)
    await transact(coordinator)
    await asyncio.wait_for(recorder.renewed.wait(), LEASE_S)  # The last second phase has nothing after it that waits.
    after = recorder.order[recorder.order.index("woke up") + 1 :]
    asked = after.index("asked to renew")
    between = after[: after.index("renewed", asked)]
    assert not EFFECTS & set(between), recorder.order
    assert coordinator.engine.ownership.watchdog.stalls
    assert set(PATH) <= set(recorder.order), "and then it goes on to its end"
    assert coordinator.engine.ownership.holds


async def test_a_short_block_is_no_standstill(coordinator):
    """Below a third of the lease nothing has to be asked."""
    install(Recorder(blocks="pg.prepare", seconds=LEASE_S / 10))
    await transact(coordinator)
    assert coordinator.engine.ownership.watchdog.stalls == 0


async def test_a_renewal_that_was_asked_for_before_a_standstill_does_not_end_it():
    """Its answer says how things were."""
    clock = VirtualClock()
    watchdog = Watchdog(clock=clock, lag_max_s=3.0)
    assert not watchdog.stalled, "before it has begun there is nothing to compare with"
    watchdog.beat(0.25)
    asked_s = clock.now_s
    clock.now_s += 3.5
    assert watchdog.stalled
    watchdog.renewed(asked_s)
    assert watchdog.stalled
    watchdog.beat(0.25)
    assert watchdog.stalled, "nor does the next beat"
    watchdog.renewed(clock.now_s)
    assert not watchdog.stalled
    assert watchdog.stalls == 1


async def test_a_process_that_stood_still_admits_nothing(coordinator):
    """It holds its lease again as soon as the watchdog has renewed it; the lease's own loop stands still here."""
    ownership = coordinator.engine.ownership
    for loop in coordinator.engine._loops:
        if loop.name == "lease":
            await loop.stop()
    time.sleep(STALL_S)  # noqa: ASYNC251 - blocking on purpose.
    assert not ownership.holds
    await asyncio.wait_for(ownership.watchdog.steady(), 10 * LEASE_S)
    assert ownership.holds
