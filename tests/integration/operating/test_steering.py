"""What one process, or an operator, says to a saga that another process drives: heard within a second, and audited."""

import asyncio

import pytest

from coordinator import Compensated, Coordinator, Parked, Refused, Unavailable, cli_sagas, limits
from coordinator.errors import Replaced
from coordinator.journal.sagas import PostgresSagas
from coordinator.protocol.saga import Phase
from coordinator.sagas import Attempts, Saga, Status, await_signal, step
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
        # One that runs alone is told, and its saga hears it afterwards; siblings are waited for with open ears.
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


@pytest.mark.parametrize("alone", [True, False])
async def test_a_cancel_is_heard_before_the_end_of_the_last_step(coordinator, bank, alone):
    """What was said while it ran counts, though it has ended when it is looked at: it happened, and is undone."""
    bank.may_charge.clear()

    async def charge() -> None:
        await bank.answer("charge")
        bank.charging.set()
        await bank.may_charge.wait()

    async def refund() -> None:
        await bank.answer("refund")

    async def sibling() -> None:
        await bank.may_charge.wait()

    last = step(charge, after=(), compensate=refund)
    saga = Saga("last", last) if alone else Saga("last-two", last, step(sibling, after=()))
    handle = await coordinator.start(saga)
    await bank.charging.wait()
    await handle.cancel("called off")
    bank.may_charge.set()
    async with asyncio.timeout(PROMPTLY_S):
        with pytest.raises(Compensated, match="called off"):
            await handle.result()
    assert bank.calls == ["charge", "refund"]


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


# ── parked ones ──

OPEN = "SELECT count(*) FROM unanimity.alerts WHERE gid = $1 AND resolved_at IS NULL"
LAST = "SELECT detail FROM unanimity.alerts WHERE gid = $1 AND resolved_at IS NULL"
CLOSED = "SELECT resolved_by || ': ' || resolution FROM unanimity.alerts WHERE gid = $1 AND resolved_at IS NOT NULL"
HAPPENED = "SELECT count(*) = 1 FROM unanimity.saga_events WHERE event->>'t' = $1"
ONCE = Attempts(at_most=1)


def parking(bank, *, pivot=False):
    """Something is reserved, charged (and asked about, or it is the pivot), and shipped."""

    async def reserve() -> None:
        await bank.answer("reserve")

    async def release() -> None:
        await bank.answer("release")

    async def charge() -> None:
        await bank.answer("charge")

    async def charged() -> Status:
        await bank.answer("charged")
        return Status.NEVER

    async def ship() -> None:
        await bank.answer("ship")

    asked = {"status": charged, "undo_retry": ONCE}
    return Saga(
        "parking pivot" if pivot else "parking",
        step(reserve, compensate=release, undo_retry=ONCE),
        step(charge, pivot=pivot, **({} if pivot else asked)),
        step(ship, retry=ONCE),
        version="1",
    )


@pytest.fixture
async def two(database, bank):
    """Two processes, which both have the sagas that park; whichever looks first goes on with one."""
    sagas = [parking(bank), parking(bank, pivot=True)]
    async with (
        Coordinator(journal=database, sagas=sagas, settings=SETTINGS) as first,
        Coordinator(journal=database, sagas=sagas, settings=SETTINGS) as second,
    ):
        yield first, second


async def parked(database, coordinator, saga):
    """One that waits for an operator."""
    handle = await coordinator.start(saga, key="parked-1")
    with pytest.raises(Parked):
        await handle.result()
    await parks(database, handle)
    return handle


async def parks(database, handle):
    """It waits, and nobody holds it."""
    await until(lambda: query(database, "SELECT owner = '' AND wake_at IS NULL FROM unanimity.sagas"))
    assert (await handle.outcome()).phase is Phase.PARKED
    assert await query(database, OPEN, handle.gid) == 1


async def ends(handle, phase):
    """It ends so; until a process has heard the word to it, it is parked still."""
    await until(lambda: is_in(handle, phase))


async def is_in(handle, phase):
    return (await handle.outcome()).phase is phase


async def test_an_alert_is_open_for_as_long_as_a_saga_is_parked_and_again_when_it_parks_again(
    two, database, operator, bank
):
    """Never two at once; and who let it go on, and why, is with the alert and in the audit."""
    bank.raises = {"ship": [Refused("no address"), Refused("no such street"), Refused("no such town")]}
    handle = await parked(database, two[0], parking(bank, pivot=True))
    by_hand = await operator.run("alerts", "resolve", handle.gid, "parked-saga", "--reason", "seen")
    assert (by_hand.exit_code, "is still parked at 'ship': resume" in by_hand.stderr) == (1, True)
    said = await operator.run("sagas", "resume", handle.gid, "--yes", "--reason", "ops-1", "--by", "ann")
    assert said.exit_code == 0, said.output
    await until(lambda: query(database, "SELECT detail LIKE '%no such street' FROM unanimity.alerts"))
    await parks(database, handle)
    await (await two[1].attach(parking(bank, pivot=True), "parked-1")).resume()
    await until(lambda: query(database, "SELECT detail LIKE '%no such town' FROM unanimity.alerts"))
    await parks(database, handle)
    assert await query(database, LAST, handle.gid) == "parking pivot: ship: no such town"
    skipped = await operator.run("sagas", "skip", handle.gid, "ship", "--yes", "--reason", "ops-2", "--by", "bob")
    assert skipped.exit_code == 0, skipped.output
    await ends(handle, Phase.COMPLETED)
    assert await query(database, CLOSED, handle.gid) == "bob: ops-2"
    assert await query(database, AUDIT, handle.gid) == [
        "ann sagas resume", "ann resolve alert", "the service sagas resume", "the service resolve alert",
        "bob sagas skip", "bob resolve alert",
    ]  # fmt: skip


async def test_a_parked_saga_that_is_called_off_is_undone(two, database, operator, bank):
    """It was parked because nobody could say whether it was charged: that is found out, and the rest is undone."""
    bank.raises = {"charge": [OSError("reset")], "charged": [OSError("down")]}
    handle = await parked(database, two[0], parking(bank))
    said = await operator.run("sagas", "cancel", handle.gid, "--yes", "--reason", "ops-3", "--by", "ann")
    assert said.exit_code == 0, said.output
    async with asyncio.timeout(PROMPTLY_S):
        await ends(handle, Phase.COMPENSATED)
    assert (await handle.outcome()).reason == "ann: ops-3"
    assert bank.calls == ["reserve", "charge", "charged", "charged", "release"]
    assert await query(database, CLOSED, handle.gid) == "ann: ops-3"


async def test_one_that_is_called_off_and_cannot_be_undone_parks_again_and_then_cancel_names_the_remedy(
    two, database, operator, bank
):
    bank.raises = {"charge": [OSError("reset")], "charged": [OSError("down")], "release": [OSError("down")]}
    handle = await parked(database, two[0], parking(bank))
    await handle.cancel("no longer wanted", by="ann")
    await until(lambda: query(database, "SELECT detail LIKE '%compensation failed%' FROM unanimity.alerts"))
    await parks(database, handle)
    with pytest.raises(Refused, match=r"being undone already, and it is parked at reserve: resume it, or skip reserve"):
        await handle.cancel("once more")
    said = await operator.run("sagas", "cancel", handle.gid, "--yes", "--reason", "once more")
    assert (said.exit_code, "Resume it, or skip reserve" in said.stderr) == (1, True)
    await handle.resume("the bank is back")
    await ends(handle, Phase.COMPENSATED)
    assert await query(database, CLOSED, handle.gid) == "the service: the bank is back"


async def test_behind_the_pivot_a_parked_saga_cannot_be_called_off_and_the_remedy_is_named(
    two, database, operator, bank
):
    bank.raises = {"ship": [Refused("no address")]}
    handle = await parked(database, two[0], parking(bank, pivot=True))
    with pytest.raises(Refused, match="its pivot is done, and it is parked at ship: resume it, or skip ship"):
        await handle.cancel("no longer wanted")
    said = await operator.run("sagas", "cancel", handle.gid, "--yes", "--reason", "no longer")
    assert (said.exit_code, "Resume it, or skip ship" in said.stderr) == (1, True)
    assert await query(database, OPEN, handle.gid) == 1
    assert await query(database, AUDIT, handle.gid) == []


async def test_that_a_step_of_which_nobody_knows_stands_behind_the_pivot_is_told_by_who_has_its_definition(
    two, database, operator, bank, monkeypatch
):
    """Where its pivot is; and where an earlier version has not told that, nothing comes of the word."""
    bank.raises = {"ship": [OSError("reset")]}
    handle = await parked(database, two[0], parking(bank, pivot=True))
    told = await operator.run("sagas", "cancel", handle.gid, "--yes", "--reason", "no longer")
    assert (told.exit_code, "forward. Resume it, or skip ship (where it is parked)" in told.stderr) == (1, True)
    assert await query(database, AUDIT, handle.gid) == []
    await query(database, "UPDATE unanimity.saga_definitions SET pivot = NULL")
    monkeypatch.setattr(cli_sagas, "_MOVES_WITHIN_S", PROMPTLY_S)  # By then it would have moved.
    said = await operator.run("sagas", "cancel", handle.gid, "--yes", "--reason", "no longer")
    assert (said.exit_code, "nothing has come of it: its pivot is done" in said.stderr) == (1, True)
    await parks(database, handle)


@pytest.fixture
def soon_missed(monkeypatch):
    """What a process holds and does not drive is taken up after a second."""
    monkeypatch.setattr(limits, "OWN_RECORD_IDLE_S", 1.0)


@pytest.mark.parametrize("word", ["resumed", "skipped"])
async def test_an_alert_is_closed_with_the_word_that_lets_a_saga_go_on_or_ends_it(
    soon_missed, two, database, bank, monkeypatch, word
):
    """Whoever wrote that dies right after it; and what has ended nobody takes up any more."""
    bank.raises = {"ship": [Refused("no address")]}
    handle, append = await parked(database, two[0], parking(bank, pivot=True)), PostgresSagas.append

    async def dies(self, *arguments, **keywords):
        await append(self, *arguments, **keywords)
        raise Replaced("injected: the process died here")

    with monkeypatch.context() as patch:
        patch.setattr(PostgresSagas, "append", dies)
        await (handle.resume("ops-4", by="ann") if word == "resumed" else handle.skip("ship", "ops-4", by="ann"))
        await until(lambda: query(database, HAPPENED, word))
        assert await query(database, OPEN, handle.gid) == 0
    await ends(handle, Phase.COMPLETED)
    assert await query(database, CLOSED, handle.gid) == "ann: ops-4"
