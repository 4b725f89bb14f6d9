"""Policies are data: what a NO means, when to ask again, and how long an attempt may take."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator import limits
from coordinator.protocol.breaker import Breaker
from coordinator.protocol.model import OnNo
from coordinator.protocol.policy import (
    BackupPolling,
    GiveUp,
    Park,
    Retry,
    RetryAfter,
    Rollback,
    attempt_within_s,
    next_attempt,
    on_no,
)


@pytest.mark.parametrize(
    ("policy", "meaning"),
    [
        (Rollback(), OnNo.ABORT),
        (BackupPolling(), OnNo.DEFER),
        (Park(), OnNo.PARK),
        (Retry(), OnNo.ABORT),
        (Retry(then=BackupPolling()), OnNo.DEFER),
        (Retry(then=Park()), OnNo.PARK),
    ],
)
def test_what_a_no_means(policy, meaning):
    """Retry means, in the end, what it was told to do then."""
    assert on_no(policy) is meaning


@given(made=st.integers(1, 40), chance=st.floats(0, 0.999))
def test_retry_asks_again_within_its_attempts_and_never_waits_longer_than_its_bound(made, chance):
    """Full jitter: anywhere between zero and the bound, which doubles up to the maximum."""
    policy = Retry(attempts=10, backoff_s=0.1, backoff_max_s=2.0)
    step = next_attempt(policy, made=made, chance=chance)
    if made >= 10:
        assert step == GiveUp()
    else:
        assert isinstance(step, RetryAfter)
        assert 0 <= step.seconds <= min(2.0, 0.1 * 2 ** (made - 1))


def test_other_policies_take_the_first_failure_for_a_no():
    """Only Retry asks again."""
    assert {next_attempt(policy, made=1, chance=0.5) for policy in (Rollback(), BackupPolling(), Park())} == {GiveUp()}


def test_an_attempt_may_take_as_long_as_the_policy_in_the_end_allows():
    """The bound of one attempt is the final policy's."""
    assert attempt_within_s(Retry(then=BackupPolling(push_within_s=0.25))) == 0.25
    assert attempt_within_s(Rollback(within_s=3)) == 3


@pytest.mark.parametrize("build", [lambda: Rollback(within_s=0), lambda: Retry(attempts=0), lambda: Park(hold_s=-1)])
def test_bounds_must_be_positive(build):
    """A bad bound is refused where it is written."""
    with pytest.raises(ValueError, match="above zero"):
        build()


def test_the_breaker_opens_after_repeated_failures_probes_after_a_rest_and_closes_on_success():
    """A known outage costs one probe per rest."""
    breaker = Breaker()
    for _ in range(limits.BREAKER_CALLS_MIN):
        assert breaker.allows(0.0)
        breaker = breaker.failed(0.0)
    assert not breaker.allows(limits.BREAKER_REST_S - 0.01)
    assert breaker.allows(limits.BREAKER_REST_S)
    probing = breaker.called(limits.BREAKER_REST_S)
    assert not probing.allows(limits.BREAKER_REST_S)
    assert not probing.failed(limits.BREAKER_REST_S).allows(limits.BREAKER_REST_S + 0.1)
    assert probing.succeeded().allows(limits.BREAKER_REST_S)


def test_no_other_probe_is_made_while_one_may_still_be_answered():
    """What hangs is not called again and again; and a probe that is never heard of keeps nobody out for ever."""
    breaker = Breaker()
    for _ in range(limits.BREAKER_CALLS_MIN):
        breaker = breaker.failed(0.0)
    probing = breaker.called(10.0, within_s=30.0)
    assert not probing.allows(39.9)
    assert probing.allows(40.0)
    assert probing.failed(11.0).allows(11.0 + limits.BREAKER_REST_S)
    assert probing.succeeded().allows(11.0)


def test_a_few_failures_among_many_successes_do_not_open_the_breaker():
    """Half of the recent calls must have failed."""
    breaker = Breaker()
    for _ in range(limits.BREAKER_WINDOW):
        breaker = breaker.succeeded()
    for _ in range(limits.BREAKER_CALLS_MIN):
        breaker = breaker.failed(0.0)
    assert breaker.allows(0.0)
