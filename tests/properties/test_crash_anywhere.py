"""Whatever dies, is taken over, loses a reply or times out, wherever: nothing is torn, lost, doubled or left over."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.properties.cases import CASES, CELLS, actions, single_strikes, verdict
from tests.properties.world import Strike


@pytest.mark.parametrize("name", CASES)
def test_an_undisturbed_transaction_is_whole_and_leaves_nothing(name: str):
    """The plain run of every case."""
    case = CASES[name]
    result = verdict(case)
    assert result.problems(case) == []
    expected = "aborted" if case.refuses and "backup" not in name else "committed"
    assert result.answer == expected


@pytest.mark.parametrize("name", CASES)
def test_one_strike_anywhere_breaks_no_promise(name: str):
    """Every action, in every cell, at every boundary: exhaustively."""
    case, struck = CASES[name], 0
    for strike in single_strikes(case):
        result = verdict(case, strike)
        struck += result.strikes
        assert result.problems(case) == [], f"{strike} at {result.boundaries[strike.at : strike.at + 1]}"
    assert struck > 3, "strikes that never happen prove nothing"


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("last resource")])
def test_an_intent_that_another_process_concluded_is_adopted(name: str):
    """The answer to the intent is lost, and its taker has asked the last resource before we find out what stands."""
    case = CASES[name]
    for at in range(10):
        for cell in CELLS:
            result = verdict(
                case, Strike(at=at, cell="after", action="lost"), Strike(at=at + 1, cell=cell, action="takeover")
            )
            assert result.problems(case) == [], result


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_several_strikes_break_no_promise(data: st.DataObject):
    """Two or three things at once, at random."""
    case = CASES[data.draw(st.sampled_from(sorted(CASES)))]
    strike = st.builds(
        Strike, at=st.integers(0, 14), cell=st.sampled_from(CELLS), action=st.sampled_from(actions(case))
    )
    strikes = data.draw(st.lists(strike, min_size=2, max_size=3, unique_by=lambda s: s.at))
    result = verdict(case, *strikes)
    assert result.problems(case) == [], result
