"""The rate of calls: whatever comes when, no stretch of time sees more than it allows, and nothing is wasted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.errors import InvalidDefinition
from coordinator.limits import CALLS_TOGETHER_S
from coordinator.protocol.calls import CallBudget, Rate


def begun(per_second, gaps):
    """When each call begins, of calls that come after *gaps*."""
    rate, now_s, times = Rate(per_second), 100.0, []
    for gap in gaps:
        now_s += gap
        times.append(now_s + rate.wait_s(now_s))
        rate = rate.taken(now_s)
    return times


@given(
    per_second=st.floats(0.5, 500),
    gaps=st.lists(st.floats(0, 0.2), min_size=1, max_size=100),
    stretch_s=st.floats(0.01, 5),
)
def test_no_stretch_of_time_sees_more_than_the_rate(per_second, gaps, stretch_s):
    """But for what may begin together."""
    times = begun(per_second, gaps)
    most = per_second * stretch_s + max(1.0, per_second * CALLS_TOGETHER_S) + 1e-3
    for start_s in times:
        assert sum(start_s <= each < start_s + stretch_s for each in times) <= most + 1


@given(per_second=st.floats(0.5, 500), number=st.integers(1, 100))
def test_a_backlog_is_worked_off_at_the_rate(per_second, number):
    """Not slower: the last of so many that came at once begins when the rate says."""
    assert begun(per_second, [0.0] * number)[-1] - 100.0 <= (number - 1) / per_second + 1e-6


def test_a_budget_that_allows_nothing_is_refused():
    """It would stop every saga that calls this participant."""
    with pytest.raises(InvalidDefinition, match="one call at least"):
        CallBudget(in_flight=0)
    with pytest.raises(InvalidDefinition, match="a rate above zero"):
        CallBudget(per_second=0)
