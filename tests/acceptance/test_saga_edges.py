"""Sagas at their edges: callers that go away, definitions that were changed or built twice, drivers that fail."""

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated

import pytest
from pydantic import BaseModel, Field

from coordinator import Coordinator, InvalidDefinition, KeyReused, Overloaded, Refused, Replaced, Unavailable, limits
from coordinator.bootstrap import SystemClock
from coordinator.errors import Compensated, Disconnected, Misconfigured, Outdated, Parked, TurnedAway, VotedNo
from coordinator.protocol.saga import Phase
from coordinator.sagas import Attempts, Saga, Status, StepContext, await_signal, sleep, step
from tests.acceptance.test_sagas import QUICK, SETTINGS, coordinator, journal, phase, until, world

__all__ = ["coordinator", "journal", "world"]


async def test_a_saga_whose_caller_is_cancelled_goes_on(coordinator, world):
    """Whether it was cancelled before or after it began: it is driven here, and not found again after a while."""
    saga, cancelled = world.saga(), 0
    for turns in range(5):
        world.did.clear()
        caller = asyncio.create_task(coordinator.run(saga, turns, key=f"order-{turns}"))
        for _ in range(turns):
            await asyncio.sleep(0)
        caller.cancel()
        await asyncio.wait({caller})
        cancelled += caller.cancelled()
        async with asyncio.timeout(limits.OWN_RECORD_IDLE_S / 2):
            assert (await coordinator.run(saga, turns, key=f"order-{turns}")).completed
        assert world.did == ["reserve", "charge", "ship"]
    assert cancelled > 1


async def test_a_shape_that_was_changed_under_its_version_is_another_definition(journal, world):
    """Whoever goes on with it in the new shape would leave a compensation out."""

    async def begin() -> None:
        await world.act("begin")

    async def undo() -> None:
        await world.act("undo")

    async def refuse() -> None:
        raise Refused("no")

    old = Saga("v", step(begin, compensate=undo), await_signal("go"), step(refuse), version="1")
    new = Saga("v", step(begin), await_signal("go"), step(refuse), version="1")
    async with Coordinator(journal=journal, sagas=[old], settings=SETTINGS) as first:
        handle = await first.start(old, key="k")
        await until(lambda: not first.sagas.engine.running)
    async with Coordinator(journal=journal, sagas=[new], settings=SETTINGS) as second:
        await second.signal(new, "k", "go")
        await asyncio.sleep(4 * limits.SAGA_LOOK_S)
        assert second.sagas.recovery.recovered == 0
    async with Coordinator(journal=journal, sagas=[old], settings=SETTINGS) as third:
        with pytest.raises(Compensated):
            await (await third.attach(old, gid=handle.gid)).result()
    assert world.did == ["begin", "undo"]


async def test_a_signal_to_an_earlier_version_is_judged_by_who_has_it(journal, world):
    async def use(go: int) -> int:
        return go + 1

    async def say(go: str) -> str:
        return go

    old = Saga("visit", await_signal("go", of=int), step(use), version="1")
    new = Saga("visit", await_signal("go", of=str), step(say), version="2")
    both = Coordinator(journal=journal, sagas=[old], settings=SETTINGS)
    async with both as first, Coordinator(journal=journal, sagas=[new], settings=SETTINGS) as second:
        handle = await first.start(old, key="k")
        await second.signal(new, "k", "go", 7)
        assert (await handle.result()).outputs["use"] == 8


async def test_a_definition_that_is_built_again_is_one_and_with_other_functions_it_is_refused(coordinator):
    def built(answer):
        async def give() -> int:
            return answer

        return Saga("built", step(give))

    assert (await coordinator.run(built(1))).outputs["give"] == 1
    assert (await coordinator.run(built(1))).outputs["give"] == 1
    with pytest.raises(InvalidDefinition, match="is registered here with other functions"):
        await coordinator.run(built(2))


@dataclass
class Order:
    item: str
    amount: int = field(compare=False)


async def test_what_only_python_takes_for_equal_is_another_input(coordinator):
    async def count(request: dict[str, float]) -> int:
        return len(request)

    async def pay(request: Order) -> int:
        return request.amount

    async def any_of(request: object) -> int:
        return 1

    for saga, one, other in (
        (Saga("any", step(any_of)), {"n": 1}, {"n": True}),
        (Saga("any", step(any_of)), {"n": 1}, {"n": 1.0}),
        (Saga("pay", step(pay)), Order("a", 10), Order("a", 99_999)),
    ):
        await coordinator.run(saga, one, key=repr(other))
        with pytest.raises(KeyReused):
            await coordinator.run(saga, other, key=repr(other))
    await coordinator.run(Saga("count", step(count)), {"a": 1, "b": 2}, key="k")
    assert (await coordinator.run(Saga("count", step(count)), {"b": 2.0, "a": 1.0}, key="k")).completed


class Bought(BaseModel):
    amount: int


class BoughtBySomebody(Bought):
    """As the next release has it."""

    note: str = ""


async def test_a_field_that_was_added_with_a_default_makes_no_other_input(coordinator):
    """Who asks again after a deployment has asked before: with a fresh key he would have it twice."""

    async def old(request: Bought) -> None: ...
    async def new(request: BoughtBySomebody) -> None: ...

    before, after = Saga("buy", step(old, name="buy"), version="1"), Saga("buy", step(new, name="buy"), version="2")
    first = await coordinator.run(before, Bought(amount=5), key="k")
    assert (await coordinator.run(after, {"amount": 5}, key="k")).gid == first.gid
    assert (await coordinator.run(after, {"amount": 5, "note": ""}, key="k")).gid == first.gid
    for other in ({"amount": 6}, {"amount": 5, "note": "a gift"}):
        with pytest.raises(KeyReused):
            await coordinator.run(after, other, key="k")
    later = await coordinator.run(after, {"amount": 7}, key="l")
    assert (await coordinator.run(before, Bought(amount=7), key="l")).gid == later.gid, "a process that is older still"


@pytest.mark.parametrize("rests", [False, True], ids=["at once", "after a rest"])
async def test_what_a_call_changes_in_its_arguments_nobody_else_has(coordinator, rests):
    """Neither its own next attempt nor a later step, whether or not the saga was read from its log in between."""
    failures, paid = [Unavailable("later")], []

    async def discount(request: Bought) -> list[int]:
        request.amount -= 30
        if failures:
            raise failures.pop()
        return [request.amount]

    async def charge(request: Bought, discount: list[int]) -> None:
        paid.append((request.amount, discount.copy()))
        request.amount, discount[0] = 0, 0

    async def refund(request: Bought, discount: list[int]) -> None:
        paid.append((request.amount, discount.copy()))

    async def ship(discount: list[int]) -> None:
        raise Refused(f"not for {discount[0]}")

    pause = [sleep("rest", 0.01)] if rests else []
    saga = Saga("own", step(discount, retry=QUICK), *pause, step(charge, compensate=refund), step(ship))
    with pytest.raises(Compensated, match="not for 70"):
        await coordinator.run(saga, Bought(amount=100))
    assert paid == [(100, [70]), (100, [70])]


def paid_in_vain(world, on_unknown):
    """Pays, which may be in doubt and is known to have been done where it is asked about, and is undone then."""

    async def pay() -> None:
        await world.act("pay")

    async def refund() -> None:
        await world.act("refund")

    async def known() -> Status:
        await world.act("ask")
        return Status.DONE

    async def ship() -> None:
        raise Refused("no")

    status = known if on_unknown == "ask" else None
    return Saga("vain", step(pay, compensate=refund, status=status, on_unknown=on_unknown, retry=QUICK), step(ship))


@pytest.mark.parametrize("turned_away", [TurnedAway("401"), Misconfigured("no such route"), VotedNo("taken")], ids=repr)
@pytest.mark.parametrize("on_unknown", ["retry", "ask"])
async def test_a_call_that_is_turned_away_says_nothing_of_an_earlier_one(coordinator, world, turned_away, on_unknown):
    """The first one may have done it: it is undone, or asked about, and not taken for a no."""

    ask = on_unknown == "ask"
    world.raises["pay"] = [Unavailable("later"), turned_away] if ask else [ConnectionResetError(), turned_away]
    with pytest.raises(Compensated):
        await coordinator.run(paid_in_vain(world, on_unknown))
    assert world.did == ([] if ask else ["refund"])  # What was turned away without doubt did not happen.


async def test_that_a_saga_was_undone_is_the_answer_to_the_step_that_runs_it(coordinator, world):
    """Also where an earlier attempt waited in vain, which is doubt: with a key it is the same one."""

    async def hold() -> None:
        await world.act("hold")
        raise Refused("sold out")

    async def book() -> None:
        await world.act("book")

    async def unbook() -> None:
        await world.act("unbook")

    child = Saga("child", step(hold, timeout_s=30))

    async def run(context: StepContext) -> None:
        world.did.append("run")
        await context.coordinator.run(child, key=context.gid)

    world.holds["hold"] = asyncio.Event()
    pivot = step(run, pivot=True, timeout_s=0.3, retry=Attempts(at_most=20, backoff_s=0.05, backoff_max_s=0.05))
    waits = asyncio.create_task(coordinator.run(Saga("parent", step(book, compensate=unbook), pivot)))
    await until(lambda: world.did.count("run") > 1)
    world.holds["hold"].set()
    with pytest.raises(Compensated, match="sold out"):
        await asyncio.wait_for(waits, 10)
    assert (world.did[0], world.did[-1]) == ("book", "unbook")


@pytest.mark.parametrize("on_unknown", ["retry", "ask", "compensate"])
async def test_a_term_that_is_too_low_means_that_somebody_else_may_have_done_it(coordinator, world, on_unknown):
    """Also where nobody here has called it before: what another process did may be gone from the journal."""

    world.raises["pay"] = [Outdated("412")]
    with pytest.raises(Compensated):
        await coordinator.run(paid_in_vain(world, on_unknown))
    assert world.did == (["ask", "refund"] if on_unknown == "ask" else ["refund"])
    assert world.begun.count("pay") == 1


async def test_what_a_barrier_says_to_a_lower_term_is_no_refusal_either(coordinator, monkeypatch):
    """Whoever drives it lets go, and it is found again: each time under a higher term, at last under the highest."""
    monkeypatch.setattr(limits, "OWN_RECORD_IDLE_S", 0.05)
    terms = []

    async def pay(context: StepContext) -> None:
        terms.append(context.term)
        if context.term < 3:
            raise Replaced(f"the action came from term {context.term}, and term 3 was here before")

    handle = await coordinator.start(Saga("behind", step(pay, on_unknown="retry")))
    await phase(handle, Phase.COMPLETED)
    assert terms == [1, 2, 3]


async def test_a_refusal_after_doubt_speaks_for_the_step(coordinator, world):
    """It is idempotent: what it answers to the same key is what became of it."""

    async def pay() -> None:
        await world.act("pay")

    async def refund() -> None:
        await world.act("refund")

    world.raises["pay"] = [ConnectionResetError(), Refused("the card is refused")]
    with pytest.raises(Compensated, match="the card is refused"):
        await coordinator.run(Saga("card", step(pay, compensate=refund, on_unknown="retry", retry=QUICK)))
    assert world.did == []


class Broken(BaseException):
    """What no code of ours expects of a step."""


async def test_a_saga_whose_driving_fails_again_and_again_is_parked(coordinator, world, monkeypatch):
    """It is not driven for ever without a word: six times, and then somebody is told why."""
    monkeypatch.setattr(limits, "OWN_RECORD_IDLE_S", 0.05)

    async def fail() -> None:
        world.begun.append("fail")
        raise Broken("wrong")

    handle = await coordinator.start(Saga("broken", step(fail, on_unknown="retry")))
    await phase(handle, Phase.PARKED, "driving it ended 6 times in a row, the last time with Broken: wrong")
    assert len(world.begun) == limits.ADOPTIONS_MAX + 1


async def test_an_error_that_cannot_say_what_it_is_is_a_failure_like_any_other(coordinator, world):
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError("mute")

    async def fail() -> None:
        raise Mute

    with pytest.raises(Compensated, match="fail: Mute"):
        await coordinator.run(Saga("mute", step(fail, retry=QUICK)))


async def test_no_attempt_begins_after_the_time_of_its_step(coordinator, world):
    async def fail() -> None:
        world.begun.append("fail")
        raise Unavailable("down")

    within = Attempts(at_most=1_000, backoff_s=0.2, backoff_max_s=0.2, within_s=0.5)
    with pytest.raises(Compensated, match="down"):
        async with asyncio.timeout(10):
            await coordinator.run(Saga("late", step(fail, retry=within)))
    assert 1 < len(world.begun) < 1_000


async def test_an_answer_about_a_step_that_cannot_be_read_is_told(coordinator, world):
    async def pay() -> int:
        raise ConnectionResetError

    async def known() -> object:
        return Status.DONE, "five"

    with pytest.raises(
        Parked, match=r"nobody could say .*\(the last answer: ValueError: it: Input should be a valid int"
    ):
        await coordinator.run(Saga("odd", step(pay, status=known, undo_retry=QUICK)))


async def test_what_does_not_fit_is_told_without_what_it_is(coordinator):
    """A reason and an alert are read by operators, and what a step returns may be a secret."""

    async def issue() -> int:
        return "the PIN 4711"

    saga = Saga("pin", step(issue, retry=QUICK), await_signal("go", of=int))
    with pytest.raises(Compensated, match="it: Input should be a valid integer") as undone:
        await coordinator.run(saga)
    assert "4711" not in str(undone.value)
    with pytest.raises(InvalidDefinition, match="it: Input should be a valid integer") as refused:
        await coordinator.start(Saga("amount", step(count_of)), "the PIN 4711")
    assert "4711" not in str(refused.value)


async def count_of(request: int) -> None: ...


async def test_what_a_participant_asked_for_is_granted_when_it_is_asked_what_became_of_a_step(coordinator, world):
    async def pay() -> None:
        raise ConnectionResetError

    async def known() -> Status:
        world.begun.append(asyncio.get_running_loop().time())
        if len(world.begun) == 1:
            raise Unavailable("busy", retry_after_s=0.5)
        return Status.DONE

    assert (await coordinator.run(Saga("busy", step(pay, status=known, undo_retry=QUICK)))).completed
    assert world.begun[1] - world.begun[0] >= 0.5


async def test_a_deadline_counts_beside_a_longer_wait(coordinator):
    saga = Saga("short", await_signal("paid", within=3600), deadline_s=0.3)
    with pytest.raises(Compensated, match="its deadline has passed"):
        async with asyncio.timeout(10):
            await coordinator.run(saga)


async def test_no_more_steps_run_at_once_than_the_definition_says(coordinator, world):
    most = 0

    def one(name):
        async def action() -> None:
            nonlocal most
            world.begun.append(name)
            most = max(most, len(world.begun) - len(world.did))
            await asyncio.sleep(0.005)
            world.did.append(name)

        return step(action, name=name, after=())

    assert (await coordinator.run(Saga("wide", *(one(f"s{n}") for n in range(12)), parallel=3))).completed
    assert (most, len(world.did)) == (3, 12)


async def test_sagas_that_are_stuck_leave_room_for_those_of_another_definition(coordinator, world, monkeypatch):
    monkeypatch.setattr(limits, "SAGAS_FOUND_MAX", 3)
    world.holds["stuck"] = asyncio.Event()

    async def hang() -> None:
        await world.act("stuck")

    async def pass_by() -> None:
        await world.act("passed")

    stuck = Saga("stuck", sleep("nap", 0.01), step(hang))
    passing = Saga("passing", sleep("nap", 0.01), step(pass_by))
    for _ in range(5):
        await coordinator.start(stuck)
    await until(lambda: len(world.begun) >= 3)
    async with asyncio.timeout(5):
        assert (await coordinator.run(passing)).completed
    world.holds["stuck"].set()


@pytest.mark.parametrize("off_s", [7200, -7200])
async def test_a_machine_whose_clock_is_wrong_ends_no_wait(coordinator, monkeypatch, off_s):
    """Neither too early nor too late: what a saga waits for is a time of its log."""
    signals = await_signal("paid", within=3600, after=()), await_signal("note", after=())
    handle = await coordinator.start(Saga("patient", sleep("rest", 0.5, after=()), *signals))
    await asyncio.sleep(0.2)  # All of them have begun to wait.
    now = SystemClock.now
    monkeypatch.setattr(SystemClock, "now", lambda clock: now(clock) + timedelta(seconds=off_s))
    await handle.signal("note", 1)
    await asyncio.sleep(0.5)  # It is looked at again, and the rest is over.
    await handle.signal("paid", 100)
    assert (await asyncio.wait_for(handle.result(), 10)).outputs["paid"] == 100


@pytest.mark.parametrize("suspended", [True, False], ids=["a machine that was suspended", "a question that took long"])
async def test_what_the_log_has_woken_is_due_and_does_not_sleep_again(coordinator, monkeypatch, suspended):
    """However far this process' clock is from the log's: it may be behind it, and is never ahead."""
    engine, slept = coordinator.sagas.engine, []
    coordinator.sagas.recovery._tidy_at_s = float("inf")  # It is not time to ask for the time.
    suspend, now_s = engine.log.suspend, engine.log.now_s

    async def counted(rest):
        slept.append(rest)
        await suspend(rest)

    async def slow():
        await asyncio.sleep(0.3)
        return await now_s()

    monkeypatch.setattr(engine.log, "suspend", counted)
    monkeypatch.setattr(engine.log, "now_s", slow)
    await engine.listening.ask_the_time()
    handle = await coordinator.start(Saga("nap", sleep("nap", 0.5)))
    await until(lambda: slept and not engine.running)
    if suspended:
        engine.listening._ahead_s -= 60
    assert (await asyncio.wait_for(handle.result(), 5)).completed
    assert len(slept) == 1


async def test_the_time_is_asked_for_again_by_whoever_was_replaced(coordinator):
    """It may have been suspended: what begins to wait now would wait until a time that has passed."""
    engine, recovery = coordinator.sagas.engine, coordinator.sagas.recovery
    recovery._tidy_at_s = float("inf")  # Not because it is time for that.
    engine.listening._ahead_s -= 60
    engine.ownership.losses += 1
    await until(lambda: abs(engine.listening.now_s() - SystemClock().now().timestamp()) < 1)


async def test_what_annotated_says_of_a_type_is_a_part_of_it(coordinator):
    async def pay(request: Annotated[int, Field(gt=0)]) -> Annotated[int, Field(lt=10)]:
        return request

    saga = Saga("pay", step(pay))
    assert (await coordinator.run(saga, 5)).outputs == {"pay": 5}
    with pytest.raises(InvalidDefinition, match="greater than 0"):
        await coordinator.run(saga, -1)
    with pytest.raises(Compensated, match="less than 10"):
        await coordinator.run(saga, 50)


async def test_what_is_no_saga_and_no_key_is_refused(coordinator, world):
    with pytest.raises(InvalidDefinition, match="a saga is a definition"):
        await coordinator.run("checkout")
    for no_list in (world.saga(), "checkout", [world.saga(), "checkout"], 5):
        with pytest.raises(InvalidDefinition, match="sagas= takes a list of definitions"):
            Coordinator(journal="memory://none", sagas=no_list)
    with pytest.raises(InvalidDefinition, match="a key is text"):
        await coordinator.start(world.saga(), 1, key=5)
    with pytest.raises(InvalidDefinition, match="give one of them"):
        await coordinator.attach(world.saga())
    with pytest.raises(Refused, match="was begun as unan:"):
        await coordinator.attach(world.saga(), gid="unan:01ARZ3NDEKTSV4RRFFQ69G5FAV")
    handle = await coordinator.start(Saga("deaf", await_signal("go")))
    deep: list[object] = []
    for _ in range(3000):
        deep = [deep]
    for payload in (object(), deep):
        with pytest.raises(InvalidDefinition, match="waits for another type as 'go'") as refused:
            await handle.signal("go", payload)
        assert "object at" not in str(refused.value)  # It may be a secret, and is no word of an error.
    with pytest.raises(InvalidDefinition, match="waits for another type as 'go'"):
        await handle.signal("go", float("nan"))
    assert len(repr(handle)) < 100


async def test_one_key_begins_one_saga_however_many_processes_run_it_at_once(journal, world):
    saga = world.saga()
    one, other = (Coordinator(journal=journal, sagas=[saga], settings=SETTINGS) for _ in range(2))
    async with one, other:
        outcomes = await asyncio.gather(*(each.run(saga, 1, key="order") for each in (one, other) * 10))
    assert len({each.gid for each in outcomes}) == 1
    assert world.did == ["reserve", "charge", "ship"]


async def test_a_signal_that_comes_twice_counts_once_and_others_are_heard_in_any_order(coordinator):
    async def both(first: int, second: int) -> int:
        return 10 * first + second

    saga = Saga(
        "two", await_signal("first", of=int), await_signal("second", of=int), step(both, after=("first", "second"))
    )
    handle = await coordinator.start(saga, key="k")
    for name, value in (("second", 2), ("first", 1), ("first", 7)):
        await coordinator.signal(saga, "k", name, value)
    assert (await handle.result()).outputs["both"] == 12


async def test_a_deadline_counts_on_while_no_process_has_the_saga(journal, world):
    saga = Saga("short", await_signal("paid", within=3600), deadline_s=0.5)
    async with Coordinator(journal=journal, sagas=[saga], settings=SETTINGS) as first:
        handle = await first.start(saga)
    await asyncio.sleep(0.5)
    async with Coordinator(journal=journal, sagas=[saga], settings=SETTINGS) as second:
        async with asyncio.timeout(5):
            assert "its deadline has passed" in (await second.sagas.ended(handle.gid, saga)).reason


async def test_a_cancel_that_comes_while_the_pivot_is_called_and_is_done_leaves_no_reason(coordinator, world):
    world.holds["pay"] = asyncio.Event()

    async def pay() -> None:
        await world.act("pay")

    handle = await coordinator.start(saga := Saga("paid", step(pay, pivot=True, on_unknown="retry")))
    await until(lambda: "pay" in world.begun)
    await handle.cancel("changed their mind")
    world.holds["pay"].set()
    outcome = await handle.result()
    assert (outcome.completed, outcome.reason, saga.label) == (True, "", handle.saga.label)


async def test_a_saga_that_was_found_before_its_start_was_answered_is_not_driven_from_its_beginning_again(
    coordinator, world, monkeypatch
):
    """The answer was lost, and the database was away for so long that whoever looks for strays came first."""
    monkeypatch.setattr(limits, "OWN_RECORD_IDLE_S", 0.05)
    log, answers = coordinator.sagas.engine.log, 0
    begin = type(log).start

    async def start(self, new):
        nonlocal answers
        answers += 1
        if answers == 1:
            await begin(self, new)
            raise Disconnected("its answer never came")
        await until(lambda: world.did == ["reserve", "charge", "ship"])
        return await begin(self, new)

    monkeypatch.setattr(type(log), "start", start)
    assert (await coordinator.run(world.saga(), 1, key="order")).completed
    assert (answers, world.did) == (2, ["reserve", "charge", "ship"])


async def test_nothing_begins_where_the_log_is_behind(coordinator, world, monkeypatch):
    monkeypatch.setattr(type(coordinator.sagas.engine.log), "crowded", lambda self: "journal: sagas: 9000 records wait")
    with pytest.raises(Overloaded, match="9000 records wait"):
        await coordinator.run(world.saga(), 1)
    assert world.begun == []


async def test_a_step_that_calls_itself_may_be_defined_again(coordinator):
    def built(least):
        async def down(request: int) -> int:
            return await down(request - 1) if request > least else request

        return Saga("down", step(down))

    assert (await coordinator.run(built(1), 3)).outputs["down"] == 1
    assert (await coordinator.run(built(1), 3)).outputs["down"] == 1
    with pytest.raises(InvalidDefinition, match="with other functions"):
        await coordinator.run(built(2), 3)
