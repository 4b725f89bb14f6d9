"""One transaction as this process runs it: its state, and what only this process has of it.

The state is the protocol's and could be loaded from the journal by anyone. Sessions, messages and the caller's deadline
are this process' alone: a recovered transaction runs without them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from coordinator.ports import Ability, Lease, Message, Participant, Record, Session, Standing
from coordinator.protocol.model import BranchName, Status, Transaction
from coordinator.protocol.policy import FailurePolicy, Park, Retry, Rollback
from coordinator.protocol.two_phase import restored
from coordinator.storable import storable
from coordinator.telemetry.following import Following


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """A participant as it was opened: what it is, and what it can do."""

    participant: Participant
    abilities: frozenset[Ability]

    @property
    def publishes(self) -> bool:
        """Whether its branch takes messages (a broker) rather than a connection (a database)."""
        return Ability.PUBLISH in self.abilities


Participants = Mapping[BranchName, Registered]


@dataclass(slots=True, kw_only=True)
class Run:
    """A transaction being driven in this process."""

    transaction: Transaction
    policy: FailurePolicy = field(default_factory=Rollback)
    deadline_s: float = float("inf")
    """On this process' monotonic clock."""
    key: str | None = None
    lease: Lease | None = None
    """What its branches are made under; a process that was replaced since then cannot decide it."""
    outbox: BranchName | None = None
    """The database branch in which the messages stand as waiting rows, if they do."""
    sessions: dict[BranchName, Session] = field(default_factory=dict)
    messages: list[Message] = field(default_factory=list)
    failures: dict[BranchName, list[BaseException]] = field(default_factory=dict)
    """What each failed attempt at publishing came to."""
    publish_until_s: dict[BranchName, float] = field(default_factory=dict)
    """On the monotonic clock: when the attempt under way counts as failed."""
    failure: BaseException | None = None
    """The first reason why it was not committed."""
    voted_s: float = 0.0
    """When the last resource voted, on the monotonic clock: its vote does not keep for ever."""
    reigns: int = 1
    """How many processes have driven it, up to this one."""
    replaced: bool = False
    """Another process drives it now; what it owes still is no business of this one."""
    journalled: bool = False
    """Whether the journal has a row about it, which must be finished."""
    following: Following | None = None
    """What tells of it; None where nobody listens."""
    traceparent: str = ""
    """Its first place in a trace, which is kept with its record."""

    def failed(self, failure: BaseException) -> None:
        """Keep the first failure: later ones are its consequences."""
        self.failure = self.failure or failure

    @property
    def hold_s(self) -> float | None:
        """How long it may be held for an operator; None is until one decides."""
        return park.hold_s if (park := self._park) else None

    @property
    def alert(self) -> str:
        """What its policy has to say to the operator that it is held for."""
        return park.alert if (park := self._park) else ""

    @property
    def _park(self) -> Park | None:
        final = self.policy.then if isinstance(self.policy, Retry) else self.policy
        return final if isinstance(final, Park) else None

    def record(self, standing: Standing, *, reason: str = "") -> Record:
        """The journal's row about this transaction, were it decided so now."""
        transaction = self.transaction
        return Record(
            gid=transaction.gid,
            name=transaction.name,
            recipe=transaction.recipe,
            standing=standing,
            branches=transaction.branches,
            votes=transaction.votes,
            evidence=transaction.evidence,
            reason=storable(reason or transaction.reason),
            key=self.key,
            outbox=self.outbox,
            hold_s=self.hold_s,
            lease=self.lease,
            reigns=self.reigns,
            traceparent=self.traceparent,
        )


def resume(record: Record) -> Run:
    """The run of a recorded transaction, in a process that never saw it begin: recovery is the ordinary loop from here.

    What the journal does not say is asked of the participants again; they answer the same however often.
    """
    status = {
        Standing.INTENT: Status.INTENDING,
        Standing.PARKED: Status.PARKED,
        Standing.COMMIT: Status.COMMITTING,
        Standing.ABORT: Status.ABORTING,
    }[record.standing]
    transaction = Transaction(
        gid=record.gid,
        name=record.name,
        recipe=record.recipe,
        branches=record.branches,
        status=status,
        votes=record.votes,
        evidence=record.evidence,
        reason=record.reason,
    )
    return Run(
        transaction=restored(transaction),
        outbox=record.outbox,
        key=record.key,
        reigns=record.reigns,
        journalled=True,
        traceparent=record.traceparent,
    )
