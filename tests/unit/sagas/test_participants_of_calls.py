"""Each call counts as its own participant's: an action, its compensation, and the question what became of it."""

import asyncio

import pytest

from coordinator import Coordinator, InDoubt, Refused, Unavailable
from coordinator.errors import Compensated
from coordinator.protocol.calls import CallBudget
from coordinator.sagas import Attempts, Saga, Status, step
from coordinator.settings import load

QUICK = Attempts(at_most=3, backoff_s=0.001, backoff_max_s=0.01)


def of(participant, function):
    """*function*, which says whom it calls, as those of a `Service` do."""
    function.participant = participant
    return function


async def refuse() -> None:
    """The last step, so that what comes before it is undone."""
    raise Refused("no")


async def reserve() -> int:
    """It answers."""
    return 5


async def release() -> None:
    """It answers."""


async def undone(request, *sagas, **configured):
    """Run each saga to its undoing; the first attempts by participant, and the retries."""
    settings = load(budgets=configured)
    async with Coordinator(journal=f"memory://{request.node.name}", sagas=sagas, settings=settings) as running:
        for saga in sagas:
            with pytest.raises(Compensated):
                await running.run(saga)
        budgets = running.sagas.engine.calls.budgets
        return dict(budgets.retries.first_attempts), dict(budgets.retries.retries)


async def test_a_compensation_of_a_service_counts_as_its_own_where_the_action_is_local(request):
    """It has a budget and a breaker like any other call of that service."""

    async def give_back() -> None:
        pass

    saga = Saga("order", step(reserve, compensate=of("bank", give_back)), step(refuse))
    assert (await undone(request, saga))[0] == {"bank": 1}


async def test_action_compensation_and_question_each_count_as_their_own_service_s(request):
    async def charge() -> int:
        raise InDoubt("no answer")

    async def what_became() -> tuple[Status, int]:
        return Status.DONE, 5

    async def give_back() -> None:
        pass

    asked, undo = of("ledger", what_became), of("bank", give_back)
    saga = Saga("order", step(of("shop", charge), compensate=undo, status=asked), step(refuse))
    assert (await undone(request, saga))[0] == {"shop": 1, "ledger": 1, "bank": 1}


async def test_a_retry_of_a_compensation_comes_out_of_its_own_service_s_budget(request):
    failures = [Unavailable("down")]

    async def charge() -> int:
        return 5

    async def give_back() -> None:
        if failures:
            raise failures.pop()

    undo = of("bank", give_back)
    saga = Saga("order", step(of("shop", charge), compensate=undo, undo_retry=QUICK), step(refuse))
    assert (await undone(request, saga))[1] == {"bank": 1}


async def test_what_names_nobody_counts_as_the_participant_of_its_step(request):
    saga = Saga("order", step(reserve, compensate=release, participant="shop"), step(refuse))
    assert (await undone(request, saga))[0] == {"shop": 2}


async def test_a_service_that_hangs_holds_up_no_compensation_of_another(request):
    """The action's service has all its calls out; the compensation is another one's, and is made."""
    never, go_on = asyncio.Event(), asyncio.Event()

    async def charge() -> int:
        return 5

    async def hang() -> int:
        await never.wait()
        return 5

    async def give_back() -> None:
        pass

    async def refuse_later() -> None:
        await go_on.wait()
        raise Refused("no")

    order = Saga("order", step(of("shop", charge), compensate=of("bank", give_back)), step(refuse_later))
    stuck = Saga("stuck", step(of("shop", hang), timeout_s=30))
    settings = load(budgets={"shop": CallBudget(in_flight=1)})
    async with Coordinator(journal=f"memory://{request.node.name}", sagas=[order, stuck], settings=settings) as running:
        handle = await running.start(order)
        row = running.sagas.engine.calls.budgets._row("shop")
        async with asyncio.timeout(10):
            while "charge" not in (await handle.outcome()).outputs:  # noqa: ASYNC110 - its log has no event for it.
                await asyncio.sleep(0.01)
            await running.start(stuck)
            while not row.places.locked():  # noqa: ASYNC110 - a semaphore tells nobody.
                await asyncio.sleep(0.01)
            go_on.set()
            with pytest.raises(Compensated):
                await handle.result()
        never.set()
