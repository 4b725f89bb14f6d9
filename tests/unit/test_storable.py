"""Text that a database keeps, whatever a service has said."""

from hypothesis import example, given
from hypothesis import strategies as st

from coordinator import limits
from coordinator.storable import storable


@given(st.text(st.characters(codec=None)))
@example("a\0b\ud800")
def test_whatever_was_said_is_kept_but_for_what_no_database_takes(text):
    kept = storable(text)
    assert "\0" not in kept
    assert kept.encode().decode() == kept
    for before, after in zip(text, kept, strict=False):
        assert after == before or (after == "?" and (before == "\0" or "\ud800" <= before <= "\udfff"))
    assert len(kept) == min(len(text), limits.ANSWER_CHARACTERS_MAX)


def test_it_is_cut_off_where_it_is_long():
    assert storable("x" * 10_000) == "x" * limits.ANSWER_CHARACTERS_MAX
