"""What one process, or an operator, says to a saga that another process drives: heard within a second, and audited."""

import asyncio

import pytest

from coordinator import Compensated, Coordinator, Refused, Unavailable
from coordinator.protocol.saga import Phase
from coordinator.sagas import Attempts, Saga, await_signal, step
from tests.integration.operating.conftest import SETTINGS
from tests.integration.postgres.branches import until
from tests.integration.postgres.conftest import query

LONG = Attempts(at_most=5, backoff_s=3600.0, backoff_max_s=3600.0)
PROMPTLY_S = 2.0
"""Within about a second is promised; the other one is for this machine."""
AUDIT = "SELECT coalesce(array_agg(actor || ' ' || action ORDER BY id), '{}') FROM unanimity.audit WHERE gid = $1"


class Bank:
    """Charges and refunds: each call raises what is listed for it, and is counted."""

    def __init__(self):
        self.calls, self.raises = [], {}
        self.charging, self.may_charge = asyncio.Event(), asyncio.Event()
        self.may_charge.set()

    async def answer(self, name):
        """One call of *name*."""
        self.calls.append(name)
        if failures := self.raises.get(name):
            raise failures.pop(0)

    def saga(self):
        """It is reserved, then charged, and then shipped."""

        async def reserve() -> None:
            await self.answer("reserve")

        async def release() -> None:
            await self.answer("release")

        async def charge() -> None:
            self.charging.set()
            await self.may_charge.wait()
            await self.answer("charge")

        async def refund() -> None:
            await self.answer("refund")

        return Saga(
            "order",
            step(reserve, compensate=release, retry=LONG, undo_retry=LONG),
            step(charge, compensate=refund, retry=LONG, undo_retry=LONG),
            await_signal("shipped"),
            version="1",
        )

    def fork(self):
        """Charged twice at once: here a saga has several things under way."""

        async def left() -> None:
            await self.answer("left")

        async def right() -> None:
            self.charging.set()
            await self.may_charge.wait()
            await self.answer("right")

        async def undo() -> None:
            await self.answer("undo")

        def sibling(action):
            return step(action, after=(), compensate=undo, retry=LONG, undo_retry=LONG)

        return Saga("fork", sibling(left), sibling(right), version="1")


@pytest.fixture
def bank():
    return Bank()


@pytest.fixture
async def other(database, bank):
    """A process that drives no saga."""
    idle = Saga("idle", await_signal("never"))
    async with Coordinator(journal=database, sagas=[idle], settings=SETTINGS) as opened:
        yield opened


@pytest.fixture
async def coordinator(database, bank):
    """The process that drives them."""
    async with Coordinator(journal=database, sagas=[bank.saga(), bank.fork()], settings=SETTINGS) as opened:
        yield opened


async def rests(bank, name):
    """The call of *name* has failed, and the next one comes in half an hour."""
    await until(lambda: asyncio.sleep(0, name in bank.calls and not bank.raises[name]))
    await asyncio.sleep(0.1)


async def test_retry_now_cuts_the_pause_of_an_action_and_of_a_compensation(coordinator, operator, bank):
    """By the command, from another process, and audited."""
    bank.raises = {"charge": [Unavailable("closed")], "refund": [OSError("closed")]}
    handle = await coordinator.start(bank.saga(), key="order-1")
    await rests(bank, "charge")
    assert bank.calls == ["reserve", "charge"]
    done = await operator.run("sagas", "retry", handle.gid, "--yes", "--reason", "ops-1: open again", "--by", "ann")
    assert done.exit_code == 0, done.output
    async with asyncio.timeout(PROMPTLY_S):
        await until(lambda: asyncio.sleep(0, bank.calls == ["reserve", "charge", "charge"]))
    await handle.cancel("changed my mind", by="bob")
    await rests(bank, "refund")
    assert (
        await operator.run("sagas", "retry", handle.gid, "--yes", "--reason", "ops-2", "--by", "ann")
    ).exit_code == 0
    async with asyncio.timeout(PROMPTLY_S):
        with pytest.raises(Compensated, match="bob: changed my mind"):
            await handle.result()
    assert bank.calls == ["reserve", "charge", "charge", "refund", "refund", "release"]
    shown = await operator.json("sagas", "show", handle.gid)
    assert [(row["actor"], row["action"], row["reason"]) for row in shown["audit"]] == [
        ("ann", "sagas retry", "ops-1: open again"),
        ("bob", "sagas cancel", "changed my mind"),
        ("ann", "sagas retry", "ops-2"),
    ]
    assert any("asked it to try again at once" in line["what"] for line in shown["story"])


async def test_retry_now_from_another_process_reaches_several_that_rest_at_once(coordinator, other, bank):
    """One word cuts the pauses that are made now, and no later one."""
    bank.raises = {"left": [Unavailable("closed")] * 2, "right": [Unavailable("closed")]}
    await coordinator.start(bank.fork(), key="fork-1")
    await until(lambda: asyncio.sleep(0, sorted(bank.calls) == ["left", "right"]))
    handle = await other.attach(bank.fork(), "fork-1")
    await handle.retry_now()
    async with asyncio.timeout(PROMPTLY_S):
        await until(lambda: asyncio.sleep(0, sorted(bank.calls) == ["left", "left", "right", "right"]))
    await asyncio.sleep(0.5)
    assert sorted(bank.calls) == ["left", "left", "right", "right"]
    await handle.retry_now("once more", by="ann")
    async with asyncio.timeout(PROMPTLY_S):
        assert (await handle.result()).completed


async def test_retry_is_refused_for_one_that_waits_for_a_signal(coordinator, operator, bank):
    """Nothing would come of it."""
    handle = await coordinator.start(bank.saga(), key="order-2")
    await until(lambda: query(operator.environment["COORDINATOR_JOURNAL"], "SELECT owner = '' FROM unanimity.sagas"))
    waiting = await operator.run("sagas", "retry", handle.gid, "--yes", "--reason", "why not")
    assert (waiting.exit_code, "is not being tried now (waits for a signal)" in waiting.stderr) == (1, True)


@pytest.mark.parametrize("saga", [Bank.saga, Bank.fork])
async def test_a_cancel_from_another_process_ends_a_long_pause(coordinator, other, bank, saga):
    """It is not tried again: what did nothing is not undone, and what was done is."""
    name, undone = ("charge", "release") if saga is Bank.saga else ("left", "undo")
    bank.raises = {name: [Unavailable("closed")]}
    await coordinator.start(saga(bank), key="order-3")
    await rests(bank, name)
    handle = await other.attach(saga(bank), "order-3")
    await handle.cancel("called off")
    async with asyncio.timeout(PROMPTLY_S):
        with pytest.raises(Compensated, match="called off"):
            await handle.result()
    assert bank.calls.count(name) == 1
    assert [call for call in bank.calls if call in ("refund", "release", "undo")] == [undone]


@pytest.mark.parametrize("saga", [Bank.saga, Bank.fork])
async def test_a_cancel_from_another_process_during_a_step_lets_it_settle_first(coordinator, other, bank, saga):
    """The call under way ends as it does, and is undone then; the step behind it never begins."""
    bank.may_charge.clear()
    await coordinator.start(saga(bank), key="order-4")
    await bank.charging.wait()
    handle = await other.attach(saga(bank), "order-4")
    await handle.cancel("called off")
    run = coordinator.sagas.engine.running[handle.gid]
    async with asyncio.timeout(PROMPTLY_S):
        await until(lambda: asyncio.sleep(0, run.told or run.state.phase is Phase.BACKWARD))
    undoings = {"refund", "release", "undo"}
    assert not undoings & set(bank.calls)
    bank.may_charge.set()
    async with asyncio.timeout(PROMPTLY_S):
        with pytest.raises(Compensated, match="called off"):
            await handle.result()
    assert bank.calls == (
        ["reserve", "charge", "refund", "release"] if saga is Bank.saga else ["left", "right", "undo", "undo"]
    )


async def test_a_deadline_ends_a_long_pause_too(database, bank):
    """Without a word from anybody."""
    bank.raises = {"charge": [Unavailable("closed")]}

    async def charge() -> None:
        await bank.answer("charge")

    saga = Saga("due", step(charge, retry=LONG), deadline_s=0.5)
    async with Coordinator(journal=database, sagas=[saga], settings=SETTINGS) as coordinator:
        async with asyncio.timeout(PROMPTLY_S):
            with pytest.raises(Compensated, match="deadline has passed"):
                await coordinator.run(saga)
    assert bank.calls == ["charge"]


async def test_a_signal_from_another_process_reaches_one_that_is_busy(database, other):
    """It waits for the signal while its sibling is under way: nothing but the word wakes it."""
    may, did = asyncio.Event(), []

    async def pack() -> None:
        await may.wait()

    async def receipt(paid: int) -> None:
        did.append(paid)
        may.set()

    saga = Saga(
        "busy", step(pack, after=()), await_signal("paid", of=int, after=()), step(receipt, after="paid"), version="1"
    )
    async with Coordinator(journal=database, sagas=[saga], settings=SETTINGS) as coordinator:
        await coordinator.start(saga, key="order-5")
        handle = await other.attach(saga, "order-5")
        await handle.signal("paid", 7)
        async with asyncio.timeout(PROMPTLY_S):
            assert (await handle.result()).completed
    assert did == [7]


async def test_what_code_says_is_audited_too(coordinator, other, operator, bank):
    """With a name, or as the service's own word."""
    await coordinator.start(bank.saga(), key="order-6")
    handle = await other.attach(bank.saga(), "order-6")
    await handle.cancel("", by="ann")
    with pytest.raises(Compensated):
        await handle.result()
    journal = operator.environment["COORDINATOR_JOURNAL"]
    assert await query(journal, AUDIT, handle.gid) == ["ann sagas cancel"]
    with pytest.raises(Refused, match="has ended"):
        await handle.retry_now()
