"""What the engine asks of the world: small interfaces, each with an in-memory twin that is held to the same tests.

Two failures are the same everywhere. `Unavailable` and its children mean: nothing happened, it may be asked again.
`InDoubt` (and a timeout, a cancellation or a lost connection at a boundary) means: it may or may not have happened.
Every method may be called twice, late, or never, and by another process than the one that began.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from coordinator.alerts import AlertKind as AlertKind
from coordinator.alerts import Alerts as Alerts
from coordinator.owning import Owners as Owners
from coordinator.owning import TransactionalIds as TransactionalIds
from coordinator.protocol.model import (
    BranchName,
    Ending,
    Evidence,
    Gid,
    Outcome,
    Prepared,
    Recipe,
    Transaction,
    Vote,
)
from coordinator.protocol.policy import FailurePolicy
from coordinator.publishing import Blame as Blame
from coordinator.publishing import Parcel as Parcel
from coordinator.publishing import Publisher as Publisher
from coordinator.records import Adopted as Adopted
from coordinator.records import Alert as Alert
from coordinator.records import Doubtful as Doubtful
from coordinator.records import Lease as Lease
from coordinator.records import Message as Message
from coordinator.records import OutboxRow as OutboxRow
from coordinator.records import PoolFigures as PoolFigures
from coordinator.records import Record as Record
from coordinator.records import Standing as Standing


class Journal(Protocol):
    """The durable memory. One row per transaction; the first insert wins, and the loser adopts what stands."""

    async def decide(self, record: Record) -> Standing:
        """Insert *record* unless a row stands already; return what stands now, once it is durable.

        An INTENT, PARKED or COMMIT is written only while this process holds its term (the owner's row is locked):
        `Replaced` otherwise. An ABORT may be written by anyone. After `Unavailable` or `InDoubt` call it again.
        """
        ...

    async def decide_within(
        self, connection: Any, record: Record, messages: Sequence[Message], *, ready: frozenset[BranchName]
    ) -> None:
        """Insert *record* and its outbox rows on the caller's own open database transaction; one round trip.

        Rows for the participants in *ready* are the relay's at once; the others wait for their branch's outcome.
        Raises `Refused` where an ABORT stands already: the caller must roll back.
        """
        ...

    async def conclude(
        self, gid: Gid, standing: Standing, *, reason: str = "", hold_s: float | None = None
    ) -> Standing:
        """Turn an INTENT or PARKED row into COMMIT or ABORT, once (or an INTENT into PARKED); return what stands."""
        ...

    async def finish(self, gid: Gid, outcome: Outcome, endings: Mapping[BranchName, Ending]) -> None:
        """Record that nothing is owed any more. Written with others and not forced: a crash may forget it again.

        An INTENT row becomes *outcome* by it; a COMMIT or ABORT row never changes its standing.
        """
        ...

    async def adopt(self, busy: Collection[Gid] = ()) -> Sequence[Adopted]:
        """Make unfinished records of dead owners this process' own, each by exactly one process, and return them.

        Dead is an owner that was taken over by this process, one that is no longer listed, and one whose term has
        moved past the record's (a stale owner's commit that landed after its takeover).
        Also returned: PARKED records that were held for longer than they may be, once; and this process' own records
        that are not *busy* being driven or finished here (the answer to an earlier adoption was lost, say).
        """
        ...

    async def look_up(self, gid: Gid) -> Record | None:
        """The row about *gid*, finished or not; None where there is none."""
        ...

    async def remembers_since(self) -> datetime | None:
        """When the journal's present history began (a failover, a restored backup); None where it is the first.

        What was decided before then may be forgotten, so absence says nothing about it. To be asked often: the first
        who asks in a new history dates it.
        """
        ...

    async def commits_elsewhere(self, branch: BranchName, history: Evidence, *, within_s: float) -> Mapping[Gid, bool]:
        """Commits of the last *within_s* seconds whose *branch* was prepared in another history; whether finished."""
        ...

    async def note_ending(self, gid: Gid, branch: BranchName, ending: Ending) -> None:
        """Correct how a branch of a finished transaction ended: it was found to be otherwise afterwards."""
        ...

    async def note_attempt(self, gid: Gid, branch: str, action: str, *, tried: int, answer: str) -> None:
        """Keep for people what a call that is owed was last answered, and how often it was tried. Never forced."""
        ...

    async def purge(self) -> int:
        """Forget records that were finished cleanly and longer ago than is remembered, a batch at a time; how many."""
        ...

    async def look_up_key(self, name: str, key: str) -> Record | None:
        """The row of the transaction *name* that was given the idempotency *key*, if it stands and is no ABORT."""
        ...


class Session(Protocol):
    """One participant's open share of one transaction, in the process that began it."""

    async def vote(self, timeout_s: float) -> tuple[Vote, Evidence]:
        """Do everything that can fail, so that a commit cannot; then promise.

        Raises `Refused` or `Unavailable` for a NO (nothing of it can be committed by anyone afterwards), and anything
        else for an answer that never came: the same, once `discard` has returned.
        """
        ...

    async def discard(self) -> None:
        """End this share without a commit. Legal at any time, twice, and after a vote that raised."""
        ...


@runtime_checkable
class DecidingSession(Session, Protocol):
    """A session whose own commit can carry the decision record (the journal lives in the same database)."""

    async def commit_with(
        self, journal: Journal, record: Record, messages: Sequence[Message], *, ready: frozenset[BranchName]
    ) -> None:
        """Commit the business rows, the decision and the outbox rows as one.

        Returns when committed. Raises `Refused` or `Unavailable` when it definitely did not commit, and `InDoubt`
        when nobody knows: then `journal.decide(abort)` tells, by winning or by finding what stands.
        """
        ...


@runtime_checkable
class ConnectedSession(Session, Protocol):
    """A session that business code writes through."""

    @property
    def connection(self) -> Any:
        """The driver's own connection, inside the open transaction."""
        ...


@runtime_checkable
class PublishingSession(Session, Protocol):
    """A session that takes messages."""

    def publish(self, message: Message) -> None:
        """Take *message*; it may travel at once. Raises `Refused` for what the broker can never take."""
        ...


class Ability(StrEnum):
    """What a participant can do, as detected when it is opened."""

    PREPARE = "prepare"
    """It can be truly prepared: Postgres with prepared transactions, Kafka where the broker allows KIP-939."""
    PUBLISH = "publish"
    HOLDS_JOURNAL = "holds-journal"
    HOLDS_OUTBOX = "holds-outbox"


class Participant(Protocol):
    """A resource that takes part. It obeys; it decides nothing."""

    name: BranchName

    async def open(self) -> frozenset[Ability]:
        """Connect, check every setting the promise rests on, and say what it can do. Raises `Misconfigured`."""
        ...

    async def close(self) -> None:
        """Let go of every connection. Idempotent."""
        ...

    async def begin(self, gid: Gid, *, recipe: Recipe) -> Session:
        """Begin this participant's share of *gid*. Raises `Unavailable` or `Overloaded` before anything is done."""
        ...

    async def commit(self, prepared: Prepared) -> Ending:
        """Commit a branch that voted yes, from any process, however often: the truth about how it ended.

        Raises `Unavailable` or `InDoubt` while it cannot be told yet.
        """
        ...

    async def abort(self, prepared: Prepared) -> Ending:
        """Abort a branch, voted or not, from any process. An abort of nothing is ABORTED."""
        ...

    async def in_doubt(self) -> Sequence["Doubtful"]:
        """Branches of ours that are prepared right now, whoever prepared them."""
        ...


@runtime_checkable
class HoldsOutbox(Protocol):
    """A database participant in which messages can wait beside the business rows."""

    async def write_outbox(self, session: Session, gid: Gid, messages: Sequence[Message]) -> None:
        """Insert *messages* as waiting rows, inside the open share that *session* is."""
        ...

    async def release_outbox(self, gid: Gid, participant: BranchName) -> None:
        """Let the relay deliver the waiting rows of *gid* for *participant*. Idempotent."""
        ...

    async def clear_outbox(self, delivered: Sequence[tuple[Gid, BranchName]]) -> None:
        """Delete the waiting rows of (transaction, participant) pairs that Kafka has committed. Idempotent."""
        ...


@runtime_checkable
class FollowsHistory(Protocol):
    """A participant whose server may be replaced by another that knows less (a standby that was promoted)."""

    async def history(self) -> Evidence:
        """What names the history that it follows now, as its branches' evidence has it; empty where nobody may read it.

        Raises `Unavailable` while it follows none.
        """
        ...

    async def lost(self, history: Evidence, gids: Sequence[Gid]) -> Sequence[Gid]:
        """Those whose branch is neither committed nor prepared. Raises `Unavailable` in another *history*."""
        ...


@runtime_checkable
class LeavesMarkers(Protocol):
    """A participant whose branches leave rows behind that tell how they ended."""

    async def purge(self) -> int:
        """Forget those that are older than anybody asks about, a batch at a time; how many."""
        ...


@runtime_checkable
class AnswersProbes(Protocol):
    """A participant that can be asked about a branch without changing anything."""

    async def probe(self, prepared: Prepared) -> str:
        """What the resource itself says about the branch, in words for people. Raises where it does not answer."""
        ...


@runtime_checkable
class OwnsIds(Protocol):
    """A participant whose resources carry ids of an owner (Kafka), to be settled when the owner died."""

    async def settle_id(self, transactional_id: str) -> None:
        """Abort whatever is open on the id. Called only once no decision names its current transaction."""
        ...

    async def lost_term(self) -> None:
        """This process was replaced: use nothing again that carries the old owner's ids."""
        ...


@runtime_checkable
class HasPools(Protocol):
    """A participant whose transactional ids are pooled."""

    def pools(self) -> Mapping[str, PoolFigures]:
        """Its pools, by kind."""
        ...


class Relays(Protocol):
    """What delivers outboxes in this process."""

    def wake(self, poll_every_s: float) -> None:
        """There is something to deliver now; and from now on, poll at least this often."""
        ...


class Work(Protocol):
    """One open transaction in this process, as the client steers it."""

    @property
    def gid(self) -> Gid:
        """The transaction's id."""
        ...

    async def enlist(self, participant: str) -> Any:
        """Begin the participant's branch and return its connection; the same one when asked again."""
        ...

    async def publish(self, message: Message) -> None:
        """Take a message for its participant's branch."""
        ...

    async def commit(self) -> Transaction:
        """Drive the transaction to its end, or for as long as the caller may wait; return where it is then."""
        ...

    async def abort(self, reason: str) -> Transaction:
        """Undo everything; nothing of it can be committed by anyone once this has been called."""
        ...

    @property
    def failure(self) -> BaseException | None:
        """Why it was not committed, as the participant or the journal said it."""
        ...


class Engine(Protocol):
    """What a client needs of the engine."""

    async def begin(
        self, name: str, *, recipe: Recipe | None, policy: FailurePolicy, key: str | None, deadline_s: float
    ) -> Work:
        """Open a transaction. Raises `InvalidDefinition` for an impossible recipe, `Unavailable` without a lease."""
        ...


class Clock(Protocol):
    """Time as an input."""

    def monotonic_s(self) -> float:
        """Seconds that only go forward; their zero means nothing."""
        ...

    def now(self) -> datetime:
        """The wall clock, in UTC: for new ids and for people, never for leases."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...
