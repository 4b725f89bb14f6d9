"""What PostgreSQL's errors mean for a branch: a NO that stays a NO, one that may be asked again, or nobody knows."""

import asyncpg

from coordinator.errors import (
    Conflict,
    CoordinatorError,
    Disconnected,
    ForbiddenStatement,
    Misconfigured,
    Overloaded,
    Unavailable,
    VotedNo,
)
from coordinator.protocol.model import BranchName

# What a connection raises when nobody can say any more whether the statement was carried out.
LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.QueryCanceledError,
    OSError,
    TimeoutError,
)

_CONFLICTS = ("40001", "40P01")
_FORBIDDEN = "0A000"
_EXHAUSTED = "53200"
_SETTINGS = ("55000", "25001", "42501")
# Connections, resources, operators, and sessions that the server ended because they were idle or open for too long.
_MAY_BE_ASKED_AGAIN = ("08", "53", "57", "25P03", "25P04")


def refusal(error: asyncpg.PostgresError, branch: BranchName) -> CoordinatorError:
    """The error that a caller gets for a statement which the server definitely did not carry out."""
    state, text = error.sqlstate or "", f"{branch}: {error}"
    if state in _CONFLICTS:
        return Conflict(f"{text}; run the transaction again", participant=branch)
    if state == _FORBIDDEN:
        return ForbiddenStatement(
            f"{text}. A transaction that is prepared cannot do this: do it after the block, on a connection of its "
            "own, or use the commit record (one database, which also holds the journal)",
            participant=branch,
        )
    if state == _EXHAUSTED:
        return Overloaded(f"{text}. {getattr(error, 'hint', None) or 'The server has no memory left.'}")
    if state in _SETTINGS:
        return Misconfigured(f"{text} ({state}). {getattr(error, 'hint', None) or ''}".rstrip(), participant=branch)
    if state.startswith(_MAY_BE_ASKED_AGAIN):
        return Unavailable(text, participant=branch)
    return VotedNo(f"{text} ({state})", participant=branch)


def unknown(error: BaseException, branch: BranchName) -> Disconnected:
    """The error for a statement of which nobody knows whether it was carried out."""
    return Disconnected(f"{branch}: the database did not answer: {error!r}", participant=branch)
