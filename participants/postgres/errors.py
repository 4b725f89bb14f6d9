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
_SLOTS = "53200"
_SETTINGS = ("55000", "25001", "42501")


def refusal(error: asyncpg.PostgresError, branch: BranchName) -> CoordinatorError:
    """The error that a caller gets for a statement which the server definitely did not carry out."""
    state, text = error.sqlstate or "", str(error)
    if state in _CONFLICTS:
        return Conflict(f"{branch}: {text}; run the transaction again", participant=branch)
    if state == _FORBIDDEN:
        return ForbiddenStatement(
            f"{branch}: {text}. A transaction that is prepared cannot do this: do it after the block, on a connection "
            "of its own, or use the commit record (one database, which also holds the journal)",
            participant=branch,
        )
    if state == _SLOTS:
        return Overloaded(
            f"{branch}: no slot for a prepared transaction is free; raise max_prepared_transactions", participant=branch
        )
    if state in _SETTINGS:
        return Misconfigured(f"{branch}: {text} ({state})", participant=branch)
    if state.startswith(("08", "57", "53")):
        return Unavailable(f"{branch}: {text}", participant=branch)
    return VotedNo(f"{branch}: {text} ({state})", participant=branch)


def unknown(error: BaseException, branch: BranchName) -> Disconnected:
    """The error for a statement of which nobody knows whether it was carried out."""
    return Disconnected(f"{branch}: the database did not answer: {error!r}", participant=branch)
