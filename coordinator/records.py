"""What is kept and passed on: messages, leases, the journal's rows, and branches that are found in doubt."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from coordinator.protocol.model import Branch, BranchName, Evidence, Gid, Prepared, Recipe, Vote


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message to publish. *id* is stable: the same message carries the same id however it is delivered."""

    id: str
    participant: BranchName
    topic: str
    value: bytes | None
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
    partition: int | None = None


class Standing(StrEnum):
    """What the journal's one row about a transaction says."""

    INTENT = "intent"
    PARKED = "parked"
    COMMIT = "commit"
    ABORT = "abort"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A process as an owner: its id, its term, and for how many seconds it may believe that it holds it."""

    owner: str
    term: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The journal's row about one transaction: the decision (or intent), and what finishes it from anywhere."""

    gid: Gid
    name: str
    recipe: Recipe
    standing: Standing
    branches: Mapping[BranchName, Branch] = field(default_factory=dict)
    votes: Mapping[BranchName, Vote] = field(default_factory=dict)
    evidence: Mapping[BranchName, Evidence] = field(default_factory=dict)
    reason: str = ""
    key: str | None = None
    """The caller's idempotency key: at most one COMMIT record per (name, key) can be inserted."""
    outbox: BranchName | None = None
    """The database branch that holds this transaction's waiting outbox rows, if there are any."""
    hold_s: float | None = None
    """For PARKED: how long it may be held before it is rolled back; None is until an operator decides."""
    lease: Lease | None = None
    """Under which its branches were made: it is decided under this one, or not at all. None is the journal's own."""
    adoptions: int = 0
    """How many processes died with it, or gave it up: see `limits.ADOPTIONS_MAX`."""
    reigns: int = 1
    """How many processes have driven it, one after the other: the term that participants are told."""
    traceparent: str = ""
    """Its place in a trace, for whoever finishes it elsewhere; empty where nobody traces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """An unfinished record as recovery finds it: whose it was, and how old it is by the database's clock."""

    record: Record
    owner: str
    age_s: float
    set_aside: bool = False
    """It was adopted too often, and nobody has been told yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubtful:
    """A prepared branch found at the participant, and its age by the participant's own clock, in seconds."""

    prepared: Prepared
    age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """Something that an operator has to see to: one per transaction and kind."""

    gid: Gid
    kind: str
    detail: str


@dataclass(frozen=True, slots=True)
class PoolFigures:
    """A pool of transactional ids: how many there are, how many rest, and for how long the next one has (seconds)."""

    size: int
    resting: int
    rest_s: float


OutboxRow = Mapping[str, Any]
"""A row of the outbox: id, shard, message_id, participant, topic, key, value, headers (JSON), partition, attempts."""
