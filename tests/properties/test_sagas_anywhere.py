"""Whatever its calls are answered and whatever dies, wherever: a saga ends as it may, and its effects are right."""

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import Phase as Stage

from tests.properties.saga_cases import PLANS, crashes, single_strikes
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
    plan = PLANS[name][1]
    writes = verdict(plan).writes
    for struck in single_strikes(plan, writes):
        result, (strike,) = verdict(struck), struck.strikes
        assert result.problems(struck) == [], (strike, result)
        assert result.strikes or strike.at >= writes, f"{strike} has never happened"


@seed(20)
@settings(
    max_examples=100,
    deadline=None,
    database=None,
    phases=[Stage.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
@given(plan=plans(strikes_max=0))
def test_any_saga_survives_a_crash_at_each_of_its_writes(plan: Plan):
    """A hundred random graphs, always the same ones, and no write of any of them is left out."""
    plain = verdict(plan)
    assert plain.problems(plan) == [], plain
    for crashed in crashes(plan, plain.writes):
        result = verdict(crashed)
        assert result.problems(crashed) == [], (crashed, result)
        assert result.strikes, f"{crashed.strikes} has never happened"


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plan=plans())
def test_any_saga_under_anything_breaks_no_promise(plan: Plan):
    """Random graphs, answers, strikes, deadlines, call-offs and words of an operator."""
    result = verdict(plan)
    assert result.problems(plan) == [], result
