"""What the failure of a call says of what it did."""

import asyncpg
import psycopg
import pytest
from sqlalchemy.exc import DBAPIError

from coordinator import Compensated, Refused, Unavailable, errors
from coordinator.engine.failures import pause_asked_s
from coordinator.engine.saga_calls import nothing_happened, says_nothing_of_earlier

ROLLED_BACK = [
    asyncpg.SerializationError("could not serialize access"),
    asyncpg.DeadlockDetectedError("deadlock detected"),
    psycopg.errors.SerializationFailure("could not serialize access"),
    psycopg.errors.DeadlockDetected("deadlock detected"),
]


@pytest.mark.parametrize("failure", ROLLED_BACK, ids=repr)
def test_what_was_rolled_back_for_another_one_s_sake_did_nothing(failure):
    """The same call may be made again, also where what wraps the driver raises an error of its own."""
    assert nothing_happened(failure)
    assert nothing_happened(DBAPIError("UPDATE", {}, failure))


def test_who_is_not_there_did_nothing():
    assert nothing_happened(Unavailable("down"))


@pytest.mark.parametrize(
    "failure",
    [TimeoutError(), ConnectionResetError(), Refused("no"), asyncpg.UniqueViolationError("taken"), ValueError()],
    ids=repr,
)
def test_of_anything_else_nobody_knows(failure):
    """A connection that was lost may have carried the call."""
    assert not nothing_happened(failure)
    assert not nothing_happened(DBAPIError("UPDATE", {}, failure))


class SoldOut(Refused):
    """A step's own."""


class TakenByUs(errors.VotedNo):
    """One of this project's, by another name."""


OURS = [kind for kind in vars(errors).values() if isinstance(kind, type) and Refused in kind.__mro__[1:]]
OURS.remove(Compensated)


@pytest.mark.parametrize("refusal", [*OURS, TakenByUs])
def test_what_this_project_refuses_is_one_call(refusal):
    """A key that was used, a unique row that is there: an earlier attempt may be what did that."""
    assert says_nothing_of_earlier(refusal("no"))


@pytest.mark.parametrize("refusal", [Refused, SoldOut, Compensated])
def test_what_a_step_refuses_in_its_own_words_is_the_step(refusal):
    """And so is that a saga which it runs was undone: with a key, there is one, whoever began it."""
    assert not says_nothing_of_earlier(refusal("no"))


class Odd(Exception):
    """Its attributes are what a step's author made of them."""

    def __init__(self, **told):
        super().__init__("odd")
        self.__dict__.update(told)

    @property
    def orig(self):
        """It cannot be had."""
        raise LookupError


@pytest.mark.parametrize("said", ["30", b"1", None, float("nan"), float("inf"), -1, 10**400, [], object()], ids=repr)
def test_what_is_no_number_of_seconds_asks_for_nothing(said):
    """A header as it came, say."""
    assert pause_asked_s(Odd(retry_after_s=said)) == 0.0


@pytest.mark.parametrize("said", [0, 3, 0.5])
def test_who_asks_to_be_left_alone_is(said):
    assert pause_asked_s(Odd(retry_after_s=said)) == said


@pytest.mark.parametrize("said", [[], {}, 40001, None], ids=repr)
def test_what_is_no_state_of_a_database_says_nothing(said):
    """And what cannot even be read."""
    assert not nothing_happened(Odd(sqlstate=said))
    assert nothing_happened(Odd(sqlstate="40001"))
