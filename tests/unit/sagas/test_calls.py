"""What the failure of a call says of what it did."""

import asyncpg
import psycopg
import pytest
from sqlalchemy.exc import DBAPIError

from coordinator import Refused, Unavailable
from coordinator.engine.saga_calls import nothing_happened

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
