"""Obligations, in the imperative: what the engine must have done before the transaction can move on.

They are derived from the state, never remembered apart from it. That is why recovery is the ordinary loop.
"""

from dataclasses import dataclass

from coordinator.protocol.model import BranchName, Outcome


@dataclass(frozen=True, slots=True)
class Prepare:
    """Ask the branch for its vote."""

    branch: BranchName


@dataclass(frozen=True, slots=True)
class Intend:
    """Make the intent durable, before the last resource is asked to commit."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Make durable that this transaction waits for an operator, and raise the alert."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Decide:
    """Make this outcome durable, unless another one stands already; adopt the one that stands.

    *through* names the branch whose own commit carries the decision (the commit record).
    *forced* is false where absence already means this outcome (presumed abort, before any intent was written).
    """

    outcome: Outcome
    through: BranchName | None = None
    forced: bool = True


@dataclass(frozen=True, slots=True)
class Commit:
    """Commit the branch, and say how it ended."""

    branch: BranchName


@dataclass(frozen=True, slots=True)
class Abort:
    """Abort the branch, and say how it ended. An abort of nothing succeeds."""

    branch: BranchName


@dataclass(frozen=True, slots=True)
class Release:
    """The branch did not commit although the decision is commit: let the relay deliver its waiting rows."""

    branch: BranchName


Action = Prepare | Intend | Hold | Decide | Commit | Abort | Release


def name_of(action: Action) -> str:
    """An action's name."""
    return type(action).__name__.lower()


def participant_of(action: Action) -> BranchName | None:
    """Whom an action is asked of; None is the journal."""
    if isinstance(action, Decide):
        return action.through
    branch: BranchName | None = getattr(action, "branch", None)
    return branch
