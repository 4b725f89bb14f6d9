"""What a soak leaves behind to be judged: plain values, which can be kept in a file and judged again.

Times are seconds of this machine's wall clock: the soak, its workers and its brokers all run on it.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

COMMITTED, ABORTED, UNKNOWN = "committed", "aborted", "unknown"
OUTBOX = "outbox"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A business row in Postgres: one per transaction; *messages* is how many were published with it."""

    gid: str
    key: str
    sequence: int
    messages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """A message, as a `read_committed` consumer sees it.

    *relayed*: it did not come by a Kafka transaction of its own, so the relay delivered it.
    """

    message_id: str
    gid: str
    key: str
    sequence: int
    partition: int
    offset: int
    at_s: float
    relayed: bool
    producer: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One transaction, as its caller knows it: what it was told, or that it was never told anything."""

    gid: str
    worker: str
    recipe: str
    policy: str
    began_s: float
    answer: str = UNKNOWN
    ended_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Injury:
    """Something that was done to the system, from when until when."""

    kind: str
    target: str
    began_s: float
    ended_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Observations:
    """Everything that the checker is told."""

    rows: list[Row]
    sightings: list[Sighting]
    told: list[Told]
    decided: dict[str, str]
    """What stands in the journal, by gid: commit, abort, intent or parked."""
    stood: dict[str, list[str]] = field(default_factory=dict)
    """What stood there before, while it was watched: each standing once, in the order in which they were seen."""
    leftovers: dict[str, list[str]] = field(default_factory=dict)
    """What should be gone once everything is settled."""
    alerts: list[str] = field(default_factory=list)
    injuries: list[Injury] = field(default_factory=list)
    healed_s: float = 0.0
    """From when on nothing was disturbed any more."""

    def save(self, path: Path) -> None:
        """Write them down."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> "Observations":
        """Read them again."""
        data: dict[str, Any] = json.loads(path.read_text())
        return cls(
            **data
            | {
                "rows": [Row(**row) for row in data["rows"]],
                "sightings": [Sighting(**sighting) for sighting in data["sightings"]],
                "told": [Told(**told) for told in data["told"]],
                "injuries": [Injury(**injury) for injury in data["injuries"]],
            }
        )
