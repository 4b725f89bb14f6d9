"""Participants' budgets: one that hangs or fails holds up nobody else, and is asked no more than it may be."""

import asyncio
import random
from contextlib import suppress

import pytest

from coordinator import CircuitOpen, Coordinator, Overloaded, Refused, Unavailable
from coordinator.bootstrap import SystemClock
from coordinator.engine.breakers import Breakers
from coordinator.engine.saga_budgets import CallBudgets
from coordinator.errors import Compensated
from coordinator.limits import BREAKER_CALLS_MIN, RETRY_COSTS_ATTEMPTS, RETRY_RESERVE
from coordinator.protocol.calls import CallBudget
from coordinator.sagas import Attempts, Saga, step
from coordinator.settings import load


class Steps:
    """A clock that goes on only where somebody sleeps."""

    def __init__(self):
        self.now_s = 0.0

    def monotonic_s(self):
        """Now."""
        return self.now_s

    async def sleep(self, seconds):
        """At once."""
        self.now_s += seconds


class Timeline(Steps):
    """A clock for several who sleep: it goes on to the next who wakes up."""

    def __init__(self):
        super().__init__()
        self._asleep = []

    async def sleep(self, seconds):
        """Until it is woken."""
        woken = asyncio.get_running_loop().create_future()
        self._asleep.append((self.now_s + seconds, woken))
        await woken

    async def until_done(self, *calls):
        """Let time pass until all *calls* have ended; what they return."""
        ended = asyncio.gather(*calls)
        while not ended.done():
            for _ in range(5):  # Whoever was woken does what there is to do now.
                await asyncio.sleep(0)
            if self._asleep:
                first = min(self._asleep, key=lambda each: each[0])
                self._asleep.remove(first)
                self.now_s = max(self.now_s, first[0])
                first[1].set_result(None)
        return await ended


def budgets(clock=None, **configured):
    """Budgets by participant."""
    clock = clock or Steps()
    return CallBudgets(clock=clock, chance=random.Random(1), configured=configured, breakers=Breakers(clock))


def coordinator(request, *sagas, **configured):
    """On the log in memory."""
    return Coordinator(journal=f"memory://{request.node.name}", sagas=sagas, settings=load(budgets=configured))


SLOWLY = Attempts(at_most=3, backoff_s=0.1, backoff_max_s=5.0)


def soon(one, participant):
    """Whether the first retry of a call is let through with the pause of a first retry."""
    return one.pause_s(participant, SLOWLY, 1) <= SLOWLY.backoff_s


async def charge(request: int) -> int:
    """It answers."""
    return request


async def test_a_participant_that_hangs_holds_up_nobody_else(request):
    """Hundreds of sagas wait for it, as many calls as it may have are with it, and the other's sagas end as before."""
    calling, enough = 0, asyncio.Event()

    async def hang(request: int) -> int:
        nonlocal calling
        calling += 1
        await enough.wait()
        return request

    stuck = Saga("stuck", step(hang, participant="slow"))
    fine = Saga("fine", step(charge, participant="payments"))
    async with coordinator(
        request, stuck, fine, slow=CallBudget(in_flight=4), payments=CallBudget(in_flight=4)
    ) as running:
        waiting = [await running.start(stuck, number) for number in range(300)]
        async with asyncio.timeout(20):
            outcomes = await asyncio.gather(*(running.run(fine, number) for number in range(300)))
        assert [outcome.outputs["charge"] for outcome in outcomes] == list(range(300))
        assert calling == 4
        enough.set()  # A stop would wait for what still hangs.
        assert all(outcome.completed for outcome in await asyncio.gather(*(each.result() for each in waiting)))


async def test_a_participant_that_fails_is_left_alone_until_it_recovers(request):
    """Of sixty attempts of twenty sagas, only the first few and a probe reach it; the other participant is called."""
    made = 0

    async def fail(request: int) -> int:
        nonlocal made
        made += 1
        raise Unavailable("down")

    often = Attempts(at_most=3, backoff_s=0.001, backoff_max_s=0.01)
    down = Saga("down", step(fail, participant="slow", retry=often, timeout_s=0.2))
    fine = Saga("fine", step(charge, participant="payments"))
    async with coordinator(request, down, fine, slow=CallBudget(in_flight=1)) as running:
        ended = await asyncio.gather(*(running.run(down, number) for number in range(20)), return_exceptions=True)
        assert {type(each) for each in ended} == {Compensated}
        assert made <= BREAKER_CALLS_MIN + 1
        assert (await running.run(fine, 7)).completed


async def test_a_breaker_that_stays_open_is_said_and_one_that_closes_lets_calls_through():
    """A call waits for its probe, for as long as it may."""
    clock = Steps()
    one = budgets(clock)
    for _ in range(BREAKER_CALLS_MIN):
        with pytest.raises(Unavailable):
            async with one.turn("slow", again=False, within_s=1):
                raise Unavailable("down")
    with pytest.raises(CircuitOpen):
        async with one.turn("slow", again=False, within_s=1):
            raise AssertionError("it was called")
    async with one.turn("slow", again=False, within_s=10):
        pass
    async with one.turn("slow", again=False, within_s=0.001):
        pass


async def test_while_a_probe_hangs_no_other_is_made():
    """It may take as long as its call may; whoever waits meanwhile is told that the breaker is open."""
    one = budgets()
    for _ in range(BREAKER_CALLS_MIN):
        with pytest.raises(Unavailable):
            async with one.turn("slow", again=False, within_s=30):
                raise Unavailable("down")
    async with one.turn("slow", again=False, within_s=30):
        with pytest.raises(CircuitOpen):
            async with one.turn("slow", again=False, within_s=20):
                raise AssertionError("it was called")
    async with one.turn("slow", again=False, within_s=0.001):
        pass


async def test_what_is_not_called_after_all_leaves_the_probe_to_another_one():
    """Nobody knows yet whether the participant is up: whoever comes next finds out."""
    one = budgets()
    for _ in range(BREAKER_CALLS_MIN):
        with pytest.raises(Unavailable):
            async with one.turn("slow", again=False, within_s=30):
                raise Unavailable("down")

    async def withdrawn():
        raise LookupError

    for _ in range(3):
        with pytest.raises(LookupError):
            async with one.turn("slow", again=False, within_s=30, first=withdrawn):
                raise AssertionError("it was called")
    async with one.turn("slow", again=False, within_s=0.001):
        pass


async def test_sagas_that_are_called_off_while_their_participant_fails_hold_up_nobody_else(request):
    """As soon as a probe may be made, what was called off ends, and a saga that is not is called."""
    up, made = False, 0

    async def flaky(request: int) -> int:
        nonlocal made
        made += 1
        if not up:
            raise Unavailable("down")
        return request

    saga = Saga("flaky", step(flaky, participant="shop", timeout_s=60, retry=Attempts(at_most=100, backoff_s=0.05)))
    async with coordinator(request, saga) as running, asyncio.timeout(20):
        handles = [await running.start(saga, number) for number in range(BREAKER_CALLS_MIN)]
        breakers = running.sagas.engine.calls.budgets.breakers
        while not breakers.is_open("shop"):  # noqa: ASYNC110 - nobody is told of that.
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)  # The pauses between attempts are over by then: they wait for the breaker.
        up, asked = True, made
        for handle in handles:
            await handle.cancel("enough")
        for ended in await asyncio.gather(*(each.result() for each in handles), return_exceptions=True):
            assert isinstance(ended, Compensated)
        assert made == asked
        assert (await running.run(saga, 7)).completed


async def test_a_participant_that_refuses_has_answered_and_is_not_left_alone():
    """Whatever it says no to, it is well: others' calls go through."""
    one = budgets()
    for _ in range(4 * BREAKER_CALLS_MIN):
        with pytest.raises(Refused):
            async with one.turn("shop", again=False, within_s=1):
                raise Refused("the card is refused")
    async with one.turn("shop", again=False, within_s=0.001):
        pass


async def test_what_waits_too_long_for_a_place_is_told_so_and_takes_none():
    """Nothing happened, and it may be asked again."""
    one = budgets(SystemClock(), slow=CallBudget(in_flight=1))
    async with one.turn("slow", again=False, within_s=1):
        with pytest.raises(Overloaded, match="slow"):
            async with one.turn("slow", again=False, within_s=0.01):
                raise AssertionError("it was called")
    async with one.turn("slow", again=False, within_s=0.01):
        pass


async def test_a_participant_is_called_as_often_as_it_may_be():
    """Ten a second: thirty calls take almost three seconds, and a call that cannot wait takes nobody's turn."""
    clock = Steps()
    one = budgets(clock, slow=CallBudget(per_second=10))
    for _ in range(30):
        async with one.turn("slow", again=False, within_s=60):
            pass
    assert 2.8 <= clock.now_s <= 3.0
    with pytest.raises(Overloaded, match="as often as it may be"):
        async with one.turn("slow", again=False, within_s=0.01):
            raise AssertionError("it was called")


async def test_a_participant_that_recovers_is_called_no_more_often_than_it_may_be():
    """Those that waited for its breaker do not all begin when it closes."""
    clock, begun = Timeline(), []
    one = budgets(clock, slow=CallBudget(per_second=10))

    async def call():
        while True:
            with suppress(Unavailable):
                async with one.turn("slow", again=False, within_s=60):
                    begun.append(clock.now_s)
                    if clock.now_s < 5:
                        raise Unavailable("down")
                    return

    await clock.until_done(*(call() for _ in range(40)))
    in_a_second = [sum(start <= other < start + 1 for other in begun) for start in begun]
    assert max(in_a_second) <= 11
    assert sum(moment < 5 for moment in begun) <= BREAKER_CALLS_MIN + 3
    assert begun[-1] < 15


async def test_retries_cost_what_first_attempts_have_earned():
    """A tenth of them, and the reserve; another participant's are its own."""
    one = budgets()
    assert [soon(one, "slow") for _ in range(RETRY_RESERVE + 1)] == [True] * RETRY_RESERVE + [False]
    assert soon(one, "payments")
    for _ in range(RETRY_COSTS_ATTEMPTS):
        async with one.turn("slow", again=False, within_s=1):
            pass
    assert [soon(one, "slow") for _ in range(2)] == [True, False]


async def test_what_has_no_budget_comes_as_late_as_may_be_and_not_all_at_once():
    """Those that failed together would be a second storm; a step without a participant has no budget to spend."""
    one = budgets()
    while soon(one, "slow"):
        pass
    late_s = [one.pause_s("slow", SLOWLY, 1) for _ in range(1_000)]
    assert 4.0 <= min(late_s) < 4.05
    assert 4.95 < max(late_s) <= 5.0
    assert all(one.pause_s("", SLOWLY, 1) < 0.1 for _ in range(1_000))


async def test_sagas_that_wait_for_their_turn_do_not_hold_up_the_stop(request):
    """That a call is not made any more says nothing of its participant: the breaker stays as it is."""
    answers = asyncio.Event()

    async def hang(request: int) -> int:
        await answers.wait()
        return request

    stuck = Saga("stuck", step(hang, participant="slow"))
    async with coordinator(request, stuck, slow=CallBudget(in_flight=4)) as running:
        for number in range(300):
            await running.start(stuck, number)
        engine = running.sagas.engine
        await asyncio.sleep(0)
        answers.set()
        async with asyncio.timeout(6):
            assert await engine.drain(12.0)
