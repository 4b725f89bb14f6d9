"""Postgres and Kafka commit together, or neither does."""

from coordinator.bootstrap import Coordinator
from coordinator.client import TransactionBlock, TransactionOutcome
from coordinator.errors import (
    CircuitOpen,
    Compensated,
    Conflict,
    CoordinatorError,
    DeadlineExceeded,
    Disconnected,
    ForbiddenStatement,
    Heuristic,
    InDoubt,
    InvalidDefinition,
    KeyReused,
    Misconfigured,
    NothingEnlisted,
    Overloaded,
    Parked,
    Refused,
    Replaced,
    Unavailable,
    VotedNo,
)
from coordinator.protocol.model import Ending, Outcome, Recipe
from coordinator.protocol.policy import BackupPolling, FailurePolicy, Park, Retry, Rollback
from coordinator.settings import Settings

__all__ = [
    "BackupPolling",
    "CircuitOpen",
    "Compensated",
    "Conflict",
    "Coordinator",
    "CoordinatorError",
    "DeadlineExceeded",
    "Disconnected",
    "Ending",
    "FailurePolicy",
    "ForbiddenStatement",
    "Heuristic",
    "InDoubt",
    "InvalidDefinition",
    "KeyReused",
    "Misconfigured",
    "NothingEnlisted",
    "Outcome",
    "Overloaded",
    "Park",
    "Parked",
    "Recipe",
    "Refused",
    "Replaced",
    "Retry",
    "Rollback",
    "Settings",
    "TransactionBlock",
    "TransactionOutcome",
    "Unavailable",
    "VotedNo",
]
