"""Each row of `docs/failure-policies.md`, on real servers: the demo is run once, and every cell is a test."""

import pytest

from examples.social_post import demo
from examples.social_post.promises import (
    CUT,
    FROZEN,
    HEALTHY,
    KILL_POLICIES,
    KILLS,
    LOST,
    STOPPED,
    combinations,
    promised,
)

CONDITIONS = (HEALTHY, LOST, CUT, STOPPED, FROZEN)
IN_PROCESS = [(policy, recipe, condition) for condition in CONDITIONS for policy, recipe in combinations()]
KILLED = [
    (policy, recipe, f"killed at {point}")
    for recipe, points in KILLS.items()
    for point in points
    for policy in KILL_POLICIES
]
CELLS = [*IN_PROCESS, *KILLED]


@pytest.fixture(scope="module")
async def shown(servers_directory):
    """The demo's cells, and what was left over."""
    rows, leftovers = await demo.play(servers_directory / "demo")
    return {(row.policy, row.recipe, row.condition): row for row in rows}, leftovers


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("policy", "recipe", "condition"), CELLS)
async def test_a_promise_is_kept(shown, policy, recipe, condition):
    """The caller, Postgres and Kafka agree with what the policy promises."""
    row = shown[0][policy, recipe, condition]
    promise = promised(policy, recipe, condition)
    assert (row.caller, row.rows, row.messages) == (promise.caller, promise.rows, promise.messages), row.why
    assert row.recovered_s is not None


async def test_nothing_is_left_over(shown):
    """No prepared branch, no unfinished decision, no outbox row, no open Kafka transaction."""
    cells, leftovers = shown
    assert set(cells) == set(CELLS)
    assert not any(leftovers.values()), leftovers
