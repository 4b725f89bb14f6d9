"""The nouns of a commit protocol: what a transaction, a branch, a vote and an outcome are.

Everything here is plain, frozen data. A branch that has voted carries *evidence*: whatever its participant needs to
finish it from any other process that holds the same credentials.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import NewType

Gid = NewType("Gid", str)
"""A global transaction's id: `prefix:ULID`, made by us, never by a user."""

BranchName = NewType("BranchName", str)
"""The name under which the participant was registered; one branch per participant and transaction."""

Evidence = Mapping[str, str | int | None]
"""What finishes a prepared branch, as JSON-able data (see the participant that wrote it)."""

NO_EVIDENCE: Evidence = MappingProxyType({})
"""The evidence of a branch that has nothing to finish."""


class Recipe(StrEnum):
    """How Postgres and Kafka are made one. The participants' abilities choose; the user can."""

    COMMIT_RECORD = "commit-record"
    TWO_PHASE = "two-phase"
    LAST_RESOURCE = "last-resource"
    OUTBOX = "outbox"


class Role(StrEnum):
    """What a branch can promise, and therefore when it acts."""

    PREPARED = "prepared"
    """It can hold its promise for as long as it takes: it votes, waits for the decision, and obeys it."""

    LAST = "last"
    """It cannot hold a promise for ever, but answers truthfully how it ended: what it did *is* the decision."""

    DECIDER = "decider"
    """Its own commit carries the decision record: it commits with it, or not at all."""


class Vote(StrEnum):
    """What a branch answers when asked to prepare."""

    YES = "yes"
    NO = "no"
    READ_ONLY = "read-only"
    """Nothing was done, so there is nothing to finish."""


class Outcome(StrEnum):
    """What a global transaction decides."""

    COMMIT = "commit"
    ABORT = "abort"


class OnNo(StrEnum):
    """What a NO of this branch means for the whole: the failure policy, as the protocol sees it."""

    ABORT = "abort"
    DEFER = "defer"
    """The others commit; what this branch should have published is delivered later, from the outbox."""
    PARK = "park"
    """The others stay prepared until an operator decides."""


class Ending(StrEnum):
    """How one branch finally ended, by its participant's own word."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    DEFERRED = "deferred"
    """Not committed, but its messages stand in the outbox of the same decision: the relay delivers them."""
    HAZARD = "hazard"
    """Nobody can tell any more. Recorded, alerted, and left to an operator."""
    LOST = "lost"
    """It was to be committed, and is in no way part of the history that its server follows since a failover."""


class Status(StrEnum):
    """Where a transaction is. Why, and how often it was tried, are fields."""

    PREPARING = "preparing"
    INTENDING = "intending"
    """The intent is durable; only the last resource's own answer may now turn it into commit or abort."""
    PARKED = "parked"
    """Held prepared for an operator, whose word is then the decision."""
    COMMITTING = "committing"
    ABORTING = "aborting"
    COMMITTED = "committed"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """One participant's share of one global transaction.

    *on_no*: what a NO of this branch means for the others.
    *backed*: its messages also ride as waiting outbox rows in one of the databases, so that losing it after the
    decision means delivering later, not losing anything.
    """

    name: BranchName
    role: Role
    on_no: OnNo = OnNo.ABORT
    backed: bool = False

    def __post_init__(self) -> None:
        assert self.backed or self.on_no is not OnNo.DEFER, "only messages that stand in an outbox can be deferred"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A branch that has voted, as plain data: whoever holds its participant's credentials can finish it."""

    gid: Gid
    branch: BranchName
    evidence: Evidence = field(default_factory=dict)
    term: int = 1
    """Whose reign it is finished in: a participant that was told a higher one turns it away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """The state of one global transaction: everything that `owed` needs, and nothing else."""

    gid: Gid
    name: str
    recipe: Recipe
    branches: Mapping[BranchName, Branch]
    status: Status = Status.PREPARING
    votes: Mapping[BranchName, Vote] = field(default_factory=dict)
    evidence: Mapping[BranchName, Evidence] = field(default_factory=dict)
    endings: Mapping[BranchName, Ending] = field(default_factory=dict)
    reason: str = ""

    @property
    def finished(self) -> bool:
        """Whether nothing is owed any more."""
        return self.status in (Status.COMMITTED, Status.ABORTED)

    @property
    def heuristic(self) -> bool:
        """Whether a branch ended otherwise than was decided, or nobody can tell how it ended."""
        opposite = {Status.COMMITTING: Ending.ABORTED, Status.COMMITTED: Ending.ABORTED}.get(
            self.status, Ending.COMMITTED
        )
        return any(ending in (Ending.HAZARD, Ending.LOST, opposite) for ending in self.endings.values())

    def prepared(self, branch: BranchName, term: int) -> Prepared:
        """The branch as plain data, to be finished by whoever gets there."""
        return Prepared(gid=self.gid, branch=branch, evidence=self.evidence.get(branch, NO_EVIDENCE), term=term)
