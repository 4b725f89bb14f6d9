"""What the server's answers mean to a caller, above all: can asking again help?"""

import asyncpg
import pytest

from coordinator.errors import Conflict, ForbiddenStatement, InDoubt, Misconfigured, Overloaded, Unavailable, VotedNo
from coordinator.protocol.model import BranchName
from participants.postgres.errors import LOST, refusal, unknown

MEANINGS = {
    asyncpg.SerializationError: Conflict,
    asyncpg.DeadlockDetectedError: Conflict,
    asyncpg.FeatureNotSupportedError: ForbiddenStatement,
    asyncpg.OutOfMemoryError: Overloaded,
    asyncpg.ObjectNotInPrerequisiteStateError: Misconfigured,
    asyncpg.InsufficientPrivilegeError: Misconfigured,
    asyncpg.TooManyConnectionsError: Unavailable,
    asyncpg.DiskFullError: Unavailable,
    asyncpg.ConnectionDoesNotExistError: Unavailable,
    asyncpg.IdleInTransactionSessionTimeoutError: Unavailable,
    asyncpg.UniqueViolationError: VotedNo,
    asyncpg.InFailedSQLTransactionError: VotedNo,
    asyncpg.RaiseError: VotedNo,
}


@pytest.mark.parametrize(("error", "meaning"), MEANINGS.items())
def test_an_answer_has_exactly_one_meaning(error, meaning):
    """It names the participant's own words."""
    found = refusal(error("the server's own words"), BranchName("db"))
    assert type(found) is meaning
    assert "db: the server's own words" in str(found)


@pytest.mark.parametrize("error", [ConnectionResetError(), TimeoutError(), asyncpg.AdminShutdownError("x")])
def test_no_answer_is_never_taken_for_a_no(error):
    """It may have been carried out."""
    assert isinstance(error, LOST)
    assert isinstance(unknown(error, BranchName("db")), InDoubt)
