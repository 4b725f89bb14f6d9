"""`coordinator sagas` and what `doctor` says of them: found, told as a story, steered, and missed."""

import asyncio

import pytest

from coordinator import Coordinator, Parked, Refused
from coordinator.errors import Compensated
from coordinator.operating import sagas
from coordinator.operating.ledger import open_ledger
from coordinator.protocol.saga import Phase
from coordinator.sagas import Attempts, Saga, await_signal, sleep, step
from tests.integration.operating.conftest import SETTINGS

ONCE = Attempts(at_most=1)


class Bank:
    """A refund that fails for as long as the bank is closed."""

    def __init__(self):
        self.closed, self.refunds = True, 0

    def saga(self):
        """It is charged, refused, and to be refunded."""

        async def charge(request: int) -> int:
            return request

        async def refund(charge: int) -> None:
            if self.closed:
                raise OSError("the bank is closed")
            self.refunds += 1

        async def ship() -> None:
            raise Refused("sold out")

        return Saga("checkout", step(charge, compensate=refund, undo_retry=ONCE), step(ship), version="1")


PATIENT = Saga("patient", await_signal("paid"), version="1")


@pytest.fixture
def bank():
    return Bank()


@pytest.fixture
async def coordinator(database, bank):
    async with Coordinator(journal=database, sagas=[bank.saga(), PATIENT], settings=SETTINGS) as opened:
        yield opened


@pytest.fixture
async def stuck(coordinator, bank):
    """A saga that is parked."""
    handle = await coordinator.start(bank.saga(), 5, key="order-1")
    with pytest.raises(Parked):
        await handle.result()
    async with asyncio.timeout(10):
        while (await coordinator.sagas.engine.log.load(handle.gid)).owner:  # noqa: ASYNC110 - it is let go last.
            await asyncio.sleep(0.02)
    return handle


async def ended(handle, phase):
    async with asyncio.timeout(20):
        while (await handle.outcome()).phase is not phase:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_a_parked_saga_is_listed_and_told_as_a_story(operator, stuck):
    (row,) = await operator.json("sagas", "list", "--state", "parked")
    assert (row["gid"], row["key"], row["state"]) == (stuck.gid, "order-1", "parked at charge: waits for an operator")
    assert stuck.gid in (await operator.run("sagas", "list")).stdout
    for arguments in (("--state", "finished"), ("--state", "stranded"), ("--name", "another")):
        assert await operator.json("sagas", "list", *arguments) == []
    told = [line[25:] for line in (await operator.run("sagas", "show", stuck.gid)).stdout.splitlines()]
    assert told[:3] == [
        f"checkout began, pinned to {stuck.saga.identity}, key 'order-1'",
        "charge was done: 5",
        "ship did not happen, and never will: sold out",
    ]
    assert told[3].startswith("charge could not be brought to an end: its compensation failed 1 times")
    assert "now: parked at charge: waits for an operator" in told
    assert "the alert parked-saga is open" in told


async def test_a_story_is_told_also_while_something_happens(database, stuck):
    """Times are read after the events, so there may be one more of them."""
    async with open_ledger(database, "journal", "sagas") as ledger:
        row = await ledger.saga(stuck.gid)
    later = row | {"times": [*row["times"], row["times"][-1]]}
    assert sagas.tell(later) == sagas.tell(row)


async def test_it_is_resumed_with_a_reason_that_is_kept(operator, stuck, bank):
    refused = await operator.run("sagas", "resume", stuck.gid, "--yes")
    assert refused.exit_code == 2
    assert "say why" in refused.output
    bank.closed = False
    done = await operator.run("sagas", "resume", stuck.gid, "--yes", "--reason", "ops-1", "--by", "ann")
    assert done.exit_code == 0, done.output
    await ended(stuck, Phase.COMPENSATED)
    assert bank.refunds == 1
    shown = await operator.json("sagas", "show", stuck.gid)
    assert shown["state"] == "compensated"
    assert [(entry["actor"], entry["action"], entry["reason"]) for entry in shown["audit"]] == [
        ("ann", "sagas resume", "ops-1"),
        ("ann", "resolve alert", "ops-1"),
    ]
    assert (await operator.run("sagas", "resume", stuck.gid, "--yes", "--reason", "again")).exit_code == 1


async def test_it_is_resumed_once_also_while_nobody_hears_it(operator, stuck, coordinator):
    """A second word would let it go on when it is parked for another reason."""
    await coordinator.sagas.engine.stop()
    said = await operator.run("sagas", "resume", stuck.gid, "--yes", "--reason", "ops-1")
    assert said.exit_code == 0, said.output
    for words in (("resume", stuck.gid), ("skip", stuck.gid, "charge")):
        again = await operator.run("sagas", *words, "--yes", "--reason", "ops-1")
        assert (again.exit_code, "is not parked: there is nothing to" in again.stderr) == (1, True)


async def test_retry_of_a_parked_one_says_that_resume_is_the_command(operator, stuck):
    refused = await operator.run("sagas", "retry", stuck.gid, "--yes", "--reason", "ops-1")
    assert (refused.exit_code, "`coordinator sagas resume` has it tried again" in refused.stderr) == (1, True)
    with pytest.raises(Refused, match=r"is parked .* resume it"):
        await stuck.retry_now("ops-1")


async def test_a_step_is_skipped_only_where_it_is_parked(operator, stuck, bank):
    wrong = await operator.run("sagas", "skip", stuck.gid, "ship", "--yes", "--reason", "ops-2")
    assert wrong.exit_code == 1
    assert "parked at 'charge', not at 'ship'" in wrong.stderr
    assert (await operator.run("sagas", "skip", stuck.gid, "charge", "--yes", "--reason", "ops-2")).exit_code == 0
    await ended(stuck, Phase.COMPENSATED)
    assert bank.refunds == 0


async def test_one_that_waits_is_called_off(operator, coordinator):
    handle = await coordinator.start(PATIENT)
    async with asyncio.timeout(10):
        while (await operator.json("sagas", "show", handle.gid))["state"] != "waits for a signal":  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    nothing = await operator.run("sagas", "resume", handle.gid, "--yes", "--reason", "why not")
    assert (nothing.exit_code, "is not parked" in nothing.stderr) == (1, True)
    assert (await operator.run("sagas", "cancel", handle.gid, "--yes", "--reason", "no longer")).exit_code == 0
    with pytest.raises(Compensated, match="no longer"):
        await handle.result()
    assert (await operator.run("sagas", "cancel", handle.gid, "--yes", "--reason", "again")).exit_code == 1


async def test_what_nobody_can_go_on_with_is_named(operator, database):
    """By `sagas list` and by `doctor`, until a process has its definition."""

    async def named():
        found = await operator.json("doctor", "--postgres", database)
        return [row["what"] for row in found if row["what"].startswith("sagas of ")]

    other = Saga("other", await_signal("go"), version="1")
    async with Coordinator(journal=database, sagas=[PATIENT], settings=SETTINGS) as first:
        handle = await first.start(PATIENT)
        async with asyncio.timeout(10):
            while await named():  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        assert await operator.json("sagas", "list", "--state", "stranded") == []
    async with Coordinator(journal=database, sagas=[other], settings=SETTINGS):
        assert await named() == [f"sagas of {PATIENT.identity}"]
        (row,) = await operator.json("sagas", "list", "--state", "stranded")
        assert (row["gid"], row["state"]) == (handle.gid, f"stranded: no live process has {PATIENT.identity}")


async def test_what_its_definition_cannot_read_is_named_by_an_alert_and_by_doctor(operator, database):
    """With what can be done about it, for as long as nobody has resolved the alert."""

    async def greet(request: int) -> None:
        return None

    async def changed(request: list[int]) -> None:
        return None

    def saga(action):
        return Saga("greeted", sleep("wait", 0.5), step(action, name="greet"), version="1")

    async with Coordinator(journal=database, sagas=[saga(greet)], settings=SETTINGS) as first:
        handle = await first.start(saga(greet), 1)
    async with Coordinator(journal=database, sagas=[saga(changed)], settings=SETTINGS):
        async with asyncio.timeout(20):
            while not (alerts := await operator.json("alerts", "list")):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    assert [(row["gid"], row["kind"]) for row in alerts] == [(handle.gid, "unreadable-saga")]

    async def found():
        findings = await operator.json("doctor", "--postgres", database)
        return [row for row in findings if row["what"] == f"saga {handle.gid}"]

    (finding,) = await found()
    assert "its 'input' was kept as another type than greeted@1 has by now" in finding["found"]
    assert "give the changed definition another version" in finding["remedy"]
    said = await operator.run("alerts", "resolve", handle.gid, "unreadable-saga", "--reason", "ops-3: 1.2.1 reads it")
    assert (said.exit_code, await found()) == (0, []), said.output
