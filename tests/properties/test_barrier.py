"""Whatever comes twice, late, at once or is broken off: the effect is there once, and never after its undo."""

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from participants.barrier import Direction, Verdict
from participants.barrier.conformance import CHECKS
from participants.barrier.subject import again, fresh
from tests.conformance.barriers import MemorySubject, on_asyncpg, prepare
from tests.properties.barriers import BUGS, Delivery, Gates, TakesConflictsForAnswers, deliver_all

DIRECTIONS = st.sampled_from([Direction.ACTION, Direction.COMPENSATION])
DELIVERIES = st.lists(st.builds(Delivery, DIRECTIONS, st.booleans()), min_size=1, max_size=6)
CHOICES = st.lists(st.integers(0, 5), max_size=14)
FOUND_BY_DELIVERIES = [
    "dedupe outside the transaction",
    "dedupe by attempt",
    "missing origin row",
    "caching a transient error as the result",
    "a concurrent duplicate assumes success",
]


@settings(max_examples=400, deadline=None)
@given(DELIVERIES, CHOICES)
def test_effect_minus_undo_is_what_it_should_be(deliveries, choices):
    """In every order of deliveries, and of the moments in which each of them goes on."""
    asyncio.run(deliver_all(MemorySubject(), deliveries, choices))


async def test_on_postgresql_as_well(create_database):
    """The same, where transactions really wait for each other."""
    url = await create_database()
    await prepare(url)
    dice = random.Random(20)
    async with on_asyncpg(url) as subject:
        for _ in range(25):
            deliveries = [
                Delivery(dice.choice([Direction.ACTION, Direction.COMPENSATION]), dice.random() < 0.4)
                for _ in range(dice.randint(2, 5))
            ]
            choices = [dice.randrange(6) for _ in range(14)]
            await deliver_all(subject, deliveries, choices, rest=lambda: asyncio.sleep(0.005))


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(["marked", "done", "settled"]), min_size=1, max_size=3),
    st.lists(st.tuples(DIRECTIONS, st.sampled_from(["marked", "done", "settled"])), max_size=4),
    CHOICES,
)
def test_an_effect_outside_is_undone_however_far_its_deliveries_got(first, then, choices):
    """First the actions, each broken off somewhere; then undos, among late duplicates of the action."""
    asyncio.run(_effects_outside(MemorySubject(), first, then, choices))


async def _effects_outside(subject, first, then, choices):
    gates, action = Gates(), fresh(Direction.ACTION)
    outside = set()

    async def one(direction, until):
        await gates.wait()
        call = again(action, direction)
        have = outside.discard if direction.undoes else outside.add
        passage = await subject.intend(call)
        if passage.verdict not in (Verdict.PROCEED, Verdict.UNSETTLED) or until == "marked":
            return
        await gates.wait()
        have("effect")
        if until == "done":
            return
        await gates.wait()
        if await subject.settle(call, 0) is Verdict.TOO_LATE:
            outside.discard("effect")

    async def together(deliveries):
        tasks = [asyncio.create_task(one(*delivery)) for delivery in deliveries]
        async for _ in gates.let_go(tasks, choices):
            pass
        await asyncio.gather(*tasks)

    await together([(Direction.ACTION, until) for until in first])
    # A sender undoes what it knows to have ended; what still comes are duplicates, whose processes live.
    late = [(d, until if d.undoes or until == "marked" else "settled") for d, until in then]
    await together([*late, (Direction.COMPENSATION, "settled")])
    await together([(Direction.ACTION, "settled"), (Direction.COMPENSATION, "settled")])
    assert not outside


@pytest.mark.parametrize("bug", FOUND_BY_DELIVERIES)
def test_a_planted_bug_is_found_by_deliveries(bug):
    """The property can fail: for each of them there is an order that shows it."""
    dice = random.Random(1)
    for _ in range(400):
        deliveries = [
            Delivery(dice.choice([Direction.ACTION, Direction.COMPENSATION]), dice.random() < 0.4)
            for _ in range(dice.randint(1, 5))
        ]
        try:
            asyncio.run(deliver_all(BUGS[bug](), deliveries, [dice.randrange(6) for _ in range(14)]))
        except AssertionError:
            return
    pytest.fail("no order of deliveries showed it")


FOUND_BY_CHECKS = {
    "dedupe outside the transaction": "a_rollback_takes_the_record_back_with_the_effect",
    "dedupe by attempt": "a_duplicate_has_no_effect_and_gets_the_first_answer",
    "missing origin row": "an_undo_without_its_action_has_no_effect_and_keeps_it_out",
    "caching a transient error as the result": "a_rollback_takes_the_record_back_with_the_effect",
    "a concurrent duplicate assumes success": "concurrent_duplicates_have_one_effect",
    "confirmation and cancellation do not meet": "a_confirmation_that_meets_a_cancellation_excludes_it",
    "no terms": "a_lower_term_is_refused",
    "no fingerprints": "the_same_key_with_another_payload_is_refused",
    "terms of one digit": "a_lower_term_is_refused",
    "fingerprints of what was stripped": "the_same_key_with_another_payload_is_refused",
    "fingerprints of what was decoded": "the_same_key_with_another_payload_is_refused",
    "results that are text": "a_duplicate_has_no_effect_and_gets_the_first_answer",
    "results in a short column": "a_duplicate_has_no_effect_and_gets_the_first_answer",
    "a marker inside the local transaction": "an_undo_runs_where_the_local_transaction_was_rolled_back",
    "what was forgotten never came": "an_undo_of_what_may_be_forgotten_is_in_doubt",
}


@pytest.mark.parametrize("bug", BUGS)
async def test_a_planted_bug_is_found_by_the_public_checks(bug):
    """By the check that is about it."""
    (check,) = [check for check in CHECKS if check.__name__ == FOUND_BY_CHECKS[bug]]
    with pytest.raises(AssertionError):
        await asyncio.wait_for(check(BUGS[bug]()), 20)


async def test_a_serialisation_failure_that_is_taken_for_an_answer_is_found(create_database):
    """On a real server, since it is the server that says 40001."""
    url = await create_database()
    await prepare(url)
    (check,) = [check for check in CHECKS if check.__name__ == "a_serialisation_failure_is_not_an_answer"]
    async with on_asyncpg(url, "repeatable read") as subject:
        await check(subject)
        with pytest.raises(AssertionError):
            await check(TakesConflictsForAnswers(subject.driver, subject.connected))
