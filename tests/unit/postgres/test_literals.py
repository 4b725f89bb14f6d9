"""The one place where SQL is rendered from an id."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.errors import InvalidDefinition
from participants.postgres.literals import (
    PreparedId,
    begin_transaction,
    commit_prepared,
    parse,
    prepare_transaction,
    prepared_id,
    rollback_prepared,
)

GID = "unan:01ARZ3NDEKTSV4RRFFQ69G5FAV"
RENDERERS = [prepare_transaction, commit_prepared, rollback_prepared]


def test_a_branch_is_rendered_and_parsed_back():
    """What a sweep finds in the server's list names its transaction and branch."""
    identifier = prepared_id(GID, "my-db_2")
    assert parse(identifier) == (GID, "my-db_2")
    assert [render(identifier) for render in RENDERERS] == [
        f"{command} '{GID}:my-db_2'" for command in ("PREPARE TRANSACTION", "COMMIT PREPARED", "ROLLBACK PREPARED")
    ]


@given(st.text())
def test_no_other_text_is_rendered(text):
    """Not even when a type checker was told that it is a prepared transaction's id."""
    for render in RENDERERS:
        with pytest.raises(InvalidDefinition):
            render(PreparedId(text))
    with pytest.raises(InvalidDefinition):
        begin_transaction(text)
    assert parse(text) is None


@pytest.mark.parametrize("suffix", ["\n", "'", "'; DROP TABLE t; --", " ", ":", "\x00", "é"])
def test_an_id_of_ours_with_anything_behind_it_is_refused(suffix):
    """A newline at the end in particular, which `$` in a regular expression would let through."""
    for text in (GID + suffix, f"{GID}:db{suffix}"):
        with pytest.raises(InvalidDefinition):
            prepare_transaction(PreparedId(text))
        assert parse(text) is None
    with pytest.raises(InvalidDefinition):
        prepared_id(GID + suffix, "db")
    with pytest.raises(InvalidDefinition):
        prepared_id(GID, "db" + suffix)
