"""Ids: ours are recognised, everything else is refused, and the time in them is the time they were made."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator import limits
from coordinator.errors import InvalidDefinition
from coordinator.gids import issued_at, made_at, new_gid, valid_branch, valid_gid

MOMENTS = st.datetimes(datetime(1970, 1, 2), datetime(9999, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - bounds.
RANDOMNESS = st.binary(min_size=16, max_size=16)
PREFIXES = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=4, max_size=12)


@given(PREFIXES, MOMENTS, RANDOMNESS)
def test_an_id_is_valid_and_says_when_it_was_issued(prefix, moment, randomness):
    """To the millisecond, rounded down."""
    gid = new_gid(prefix, moment, randomness)
    assert valid_gid(gid) == gid
    assert timedelta(0) <= moment - issued_at(gid) < timedelta(milliseconds=1)


@given(st.tuples(MOMENTS, RANDOMNESS), st.tuples(MOMENTS, RANDOMNESS))
def test_ids_sort_as_their_times_and_differ_as_their_randomness(first, second):
    """Nothing of the time is lost, and of each random byte five bits are used."""
    one, other = new_gid("unan", *first), new_gid("unan", *second)
    if one == other:
        assert issued_at(one) == issued_at(other)
        assert [byte % 32 for byte in first[1]] == [byte % 32 for byte in second[1]]
    assert (one < other) or issued_at(one) >= issued_at(other)


def test_a_known_ulid_is_rendered_as_everybody_renders_it():
    """The example of the ULID specification: 1469918176385 milliseconds are 01ARYZ6S41."""
    moment = datetime(2016, 7, 30, 22, 36, 16, 385_000, tzinfo=UTC)
    assert new_gid("unan", moment, bytes(16)) == "unan:01ARYZ6S41" + "0" * 16


@given(st.text())
def test_no_other_text_is_an_id(text):
    """Whatever it is, it is refused or it is exactly of our form, in plain ASCII."""
    try:
        valid_gid(text)
    except InvalidDefinition:
        return
    prefix, _, ulid = text.partition(":")
    assert text.isascii()
    assert 4 <= len(prefix) <= 12
    assert len(ulid) == 26


@pytest.mark.parametrize("prefix", ["una", "unanunanunanu", "UNAN", "un-an", "unan:", "", "unan\n"])
def test_a_prefix_that_others_could_take_for_theirs_is_refused(prefix):
    """Sweeps match by prefix."""
    with pytest.raises(InvalidDefinition):
        new_gid(prefix, datetime(2026, 1, 1, tzinfo=UTC), bytes(16))


@pytest.mark.parametrize("name", ["", "a" * 33, "Db", "d b", "db\n", "d:b", "d'b", "dé"])
def test_a_branch_name_that_cannot_be_part_of_an_id_is_refused(name):
    """When the participant is registered, not when its first branch is prepared."""
    with pytest.raises(InvalidDefinition):
        valid_branch(name)


def test_the_longest_id_of_a_prepared_transaction_fits():
    """PostgreSQL takes fewer than 200 bytes, and we promise fewer than that."""
    assert 12 + 1 + 26 + 1 + 32 <= limits.GID_BYTES_MAX < 200


def test_too_little_randomness_is_a_bug():
    """Two processes must never make the same id."""
    with pytest.raises(ValueError, match="16 random bytes"):
        new_gid("unan", datetime(2026, 1, 1, tzinfo=UTC), bytes(15))


def test_only_an_id_of_ours_says_when_it_was_made():
    """Somebody else's says nothing, also where it looks like one of ours and its time is in no calendar."""
    gid = new_gid("unan", datetime(2026, 1, 2, tzinfo=UTC), bytes(16))
    assert made_at(gid) == issued_at(gid)
    assert made_at("order 7") is None
    assert made_at("unan:" + "Z" * 26) is None
