"""The retry budget: whatever is asked in whatever order, retries are a tenth of the first attempts, and the reserve."""

from hypothesis import given
from hypothesis import strategies as st

from coordinator.limits import RETRY_COSTS_ATTEMPTS, RETRY_RESERVE
from coordinator.protocol.budget import RetryBudget

FIRST, AGAIN = True, False


def run(wishes):
    """Whether each wish was done: a first attempt always is, a retry where the budget allows it."""
    budget, done = RetryBudget(), []
    for wish in wishes:
        if wish is FIRST:
            budget = budget.attempted()
            done.append(True)
        else:
            done.append(budget.allows)
            budget = budget.retried() if budget.allows else budget
    return done


@given(
    before=st.lists(st.booleans(), max_size=400),
    stretch=st.lists(st.sampled_from([FIRST, AGAIN, AGAIN, AGAIN]), max_size=400),
)
def test_retries_are_a_tenth_of_first_attempts_over_any_stretch(before, stretch):
    """Whatever came before: amplification is 1.1 and the reserve, and no more."""
    done = run(before + stretch)[len(before) :]
    retries = sum(allowed for wish, allowed in zip(stretch, done, strict=True) if wish is AGAIN)
    assert RETRY_COSTS_ATTEMPTS * retries <= stretch.count(FIRST) + RETRY_COSTS_ATTEMPTS * RETRY_RESERVE


@given(wishes=st.lists(st.booleans(), max_size=300))
def test_what_was_earned_can_be_spent(wishes):
    """A budget that is spent allows one retry again after ten first attempts: it slows, and never starves."""
    exhausted = wishes + [AGAIN] * RETRY_RESERVE
    assert run([*exhausted, *[FIRST] * RETRY_COSTS_ATTEMPTS, AGAIN])[-1]


def test_the_reserve_is_for_those_who_ask_seldom():
    """The first retries need no first attempts to have earned them; one more does."""
    assert run([AGAIN] * (RETRY_RESERVE + 1)) == [True] * RETRY_RESERVE + [False]
