"""Facts about a transaction, in the past tense. Evolving the state by them is the only way it changes."""

from dataclasses import dataclass, field

from coordinator.protocol.model import BranchName, Ending, Evidence, Outcome, Vote


@dataclass(frozen=True, slots=True)
class Voted:
    """A branch answered. *evidence* is what finishes it; *reason* says why not, when the vote is NO."""

    branch: BranchName
    vote: Vote
    evidence: Evidence = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Intended:
    """The journal holds the intent to end the last resource with commit, and no other outcome stands."""


@dataclass(frozen=True, slots=True)
class HeldForOperator:
    """The journal says that this transaction waits for an operator, and no other outcome stands."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Decided:
    """The outcome that stands in the journal (or, for the last resource, what it did)."""

    outcome: Outcome
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Settled:
    """A branch ended, by its participant's own word."""

    branch: BranchName
    ending: Ending


Event = Voted | Intended | HeldForOperator | Decided | Settled
