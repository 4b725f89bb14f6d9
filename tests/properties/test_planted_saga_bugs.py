"""The suite of sagas is only worth something if it catches bugs: each of these, planted, must break its promise.

The plan that is about the bug has to show it, in the words of the promise that is about it.
"""

import pytest

from tests.properties.saga_bugs import BUGS
from tests.properties.saga_cases import broken_promises


@pytest.mark.parametrize("bug", BUGS)
def test_the_suite_catches(bug: str, monkeypatch: pytest.MonkeyPatch):
    """With the bug planted, the plan that is about it breaks the promise that is."""
    plant, plan, promise = BUGS[bug]
    plant(monkeypatch)
    found = []
    for problem in broken_promises(plan):
        if promise in problem:
            return
        found.append(problem)
    pytest.fail(f"{bug} was not noticed, but {found}")
