"""Whatever its calls are answered and whatever dies, wherever: a saga ends as it may, and its effects are right."""

import pytest
from hypothesis import HealthCheck, given, settings

from tests.properties.saga_cases import PLANS, single_strikes
from tests.properties.saga_plans import Plan, plans
from tests.properties.saga_world import verdict


@pytest.mark.parametrize("name", PLANS)
def test_an_undisturbed_saga_ends_as_it_says(name: str):
    """The plain run of every plan."""
    ending, plan = PLANS[name]
    result = verdict(plan)
    assert result.problems(plan) == [], result
    assert result.ending == ending


@pytest.mark.parametrize("name", PLANS)
def test_one_strike_anywhere_breaks_no_promise(name: str):
    """Every action, before and after every write of the log: exhaustively."""
    struck = 0
    for plan in single_strikes(PLANS[name][1]):
        result = verdict(plan)
        struck += result.strikes
        assert result.problems(plan) == [], (plan.strikes, result)
    assert struck > 10, "strikes that never happen prove nothing"


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plan=plans())
def test_any_saga_under_anything_breaks_no_promise(plan: Plan):
    """Random graphs, answers, strikes and a call-off."""
    result = verdict(plan)
    assert result.problems(plan) == [], result
