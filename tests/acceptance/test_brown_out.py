"""One of two services over HTTP browns out: it is asked little, the other's sagas go on as before, and it passes."""

import asyncio
import itertools
import json
import time
from contextlib import asynccontextmanager

import pytest

from coordinator import Coordinator, Settings
from coordinator.limits import BREAKER_REST_S, RETRY_COSTS_ATTEMPTS, RETRY_RESERVE
from coordinator.protocol.calls import CallBudget
from coordinator.sagas import Attempts, Saga, step
from participants.http import Key
from participants.http.service import Bounds, Service
from tests.integration.http.server import serving, whole

KEY = Key("2026-11", b"s" * 32)
IN_FLIGHT, EACH_S, SLOW_S = 8, 0.02, 10.0
SETTINGS = Settings(budgets={"default": CallBudget(in_flight=IN_FLIGHT)})
PATIENT = Attempts(at_most=1_000, backoff_s=0.02, backoff_max_s=0.5)
ONCE_MORE_AT_MOST_HALF_A_MINUTE_LATER = Attempts(at_most=1_000, backoff_s=0.01, backoff_max_s=30.0)
WITHIN_S, QUICK_S = 40.0, 2.0
"""Far less than a sick service takes, and far more than a saga does on a busy machine."""


class Participant:
    """An ASGI application that is well or sick, and what it was asked."""

    def __init__(self, *, refuses_each=0):
        self.state, self.refuses_each = "well", refuses_each
        self.attempts, self.done = [], []

    @property
    def again(self):
        """How often it was asked again."""
        return sum(attempt > 1 for attempt in self.attempts)

    async def __call__(self, scope, receive, send):
        headers = dict(scope["headers"])
        body = await whole(receive)
        self.attempts.append(int(headers[b"unanimity-attempt"]))
        if self.state == "slow":
            await asyncio.sleep(SLOW_S)
        refused = self.state == "unavailable" or (self.refuses_each and len(self.attempts) % self.refuses_each == 0)
        if not refused:
            self.done.append(json.loads(body))
        again = [(b"retry-after", b"0")] if refused else []
        await send({"type": "http.response.start", "status": 503 if refused else 200, "headers": again})
        await send({"type": "http.response.body", "body": b"" if refused else b"{}"})


@asynccontextmanager
async def called(name, participant, retry):
    """A saga whose one step calls *participant* over HTTP."""
    bounds = Bounds(answer_s=1.0)
    async with (
        serving(participant) as port,
        Service(name, f"http://127.0.0.1:{port}", KEY, networks=["127.0.0.1/32"], bounds=bounds) as service,
    ):
        yield Saga(name, step(service.action("/do"), on_unknown="retry", retry=retry))


async def begun(coordinator, saga, numbers):
    """One saga after the other, at a pace; each's time to its end, as a task."""

    async def one(number):
        began_s = time.monotonic()
        async with asyncio.timeout(WITHIN_S):
            assert (await coordinator.run(saga, number)).completed
        return time.monotonic() - began_s

    running = []
    for number in numbers:
        running.append(asyncio.create_task(one(number)))
        await asyncio.sleep(EACH_S)
    return running


@pytest.mark.parametrize("state", ["slow", "unavailable"])
async def test_a_service_that_browns_out_holds_up_no_saga_of_another(database, state):
    """It is left alone, but for probes and a tenth of its sagas; once it is well, all that waited is done."""
    sick, well = Participant(), Participant()
    async with (
        called("sick", sick, PATIENT) as needs_sick,
        called("well", well, PATIENT) as needs_well,
        Coordinator(journal=database, sagas=[needs_sick, needs_well], settings=SETTINGS) as coordinator,
    ):
        warm = await asyncio.gather(*(begun(coordinator, saga, range(50)) for saga in (needs_sick, needs_well)))
        assert max(await asyncio.gather(*itertools.chain(*warm))) < QUICK_S
        sick.state, before = state, len(sick.attempts)
        waiting, served = await asyncio.gather(
            begun(coordinator, needs_sick, range(50, 250)), begun(coordinator, needs_well, range(50, 250))
        )
        slowest_s = max(await asyncio.gather(*served))
        assert slowest_s < QUICK_S, "the others are served as before"
        assert not any(each.done() for each in waiting)
        asked = len(sick.attempts) - before
        assert RETRY_COSTS_ATTEMPTS * asked <= len(waiting) + RETRY_COSTS_ATTEMPTS * RETRY_RESERVE
        sick.state, well_s = "well", time.monotonic()
        await asyncio.gather(*waiting)
        passed_s = time.monotonic() - well_s
        assert passed_s < 5 * BREAKER_REST_S
        assert max(await asyncio.gather(*await begun(coordinator, needs_sick, range(250, 300)))) < QUICK_S
    print(
        f"\n{state}: others took {slowest_s:.2f} s at most; it was asked {asked} times, and well for {passed_s:.1f} s"
    )
    assert set(sick.done) == set(range(300))
    assert sorted(well.done) == list(range(250))


async def test_a_service_that_fails_now_and_then_is_asked_again_for_a_tenth_of_its_sagas(database):
    """Its breaker stays closed: what holds is the budget. What is owed beyond that comes as late as may be."""
    total = 300
    flaky = Participant(refuses_each=3)
    async with (
        called("flaky", flaky, ONCE_MORE_AT_MOST_HALF_A_MINUTE_LATER) as saga,
        Coordinator(journal=database, sagas=[saga], settings=SETTINGS) as coordinator,
    ):
        running = await begun(coordinator, saga, range(total))
        await asyncio.sleep(1.0)  # Retries that are allowed come within milliseconds.
        first = flaky.attempts.count(1)
        left = [each for each in running if not each.done()]
        for each in left:
            each.cancel()
        await asyncio.gather(*left, return_exceptions=True)
    print(f"\n{first} first attempts, {flaky.again} again, {len(left)} wait")
    assert first == total
    assert total / RETRY_COSTS_ATTEMPTS < flaky.again <= total / RETRY_COSTS_ATTEMPTS + RETRY_RESERVE
    assert len(left) + len(flaky.done) == total
    assert left, "without a budget all of them would be done by now"
