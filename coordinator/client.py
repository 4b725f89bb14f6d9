"""What a service embeds: a block in which a database and a broker are one.

    async with coordinator.transaction("create-post") as transaction:
        connection = await transaction.enlist("db")
        ...
        await transaction.publish("events", topic="posts", key=author, value=PostCreated(...))

When the block ends, both have happened or neither has. What the block's own end means is defined here and nowhere else:

* it ends normally: the transaction is driven to its outcome, and `transaction.outcome` says how;
* it raises, or its task is cancelled: everything is rolled back, and the exception goes on;
* its task is cancelled while the outcome is being made: the engine finishes it in a task of its own.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel

from coordinator import blocks, limits
from coordinator.errors import (
    CoordinatorError,
    InDoubt,
    InvalidDefinition,
    Parked,
    Refused,
    Unavailable,
    VotedNo,
)
from coordinator.faults.history import History, Phase
from coordinator.keys import check_key, check_name
from coordinator.ports import Engine, Message, Work
from coordinator.protocol.model import BranchName, Ending, Gid, Outcome, Recipe, Status, Transaction
from coordinator.protocol.policy import FailurePolicy, Rollback

Value = bytes | str | BaseModel | None
Headers = Mapping[str, bytes | str] | Iterable[tuple[str, bytes | str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionOutcome:
    """What finally happened, and how it was reached.

    *settled* is false when the outcome stands but a participant has not carried it out yet; the engine goes on.
    *endings* says for each branch how it ended so far; DEFERRED means that its messages are delivered by the relay.
    """

    gid: Gid
    outcome: Outcome
    recipe: Recipe
    settled: bool
    endings: Mapping[str, Ending]
    reason: str = ""

    @property
    def committed(self) -> bool:
        """Whether the transaction committed."""
        return self.outcome is Outcome.COMMIT

    @property
    def deferred(self) -> frozenset[str]:
        """Participants whose messages the relay delivers from the outbox."""
        return frozenset(name for name, ending in self.endings.items() if ending is Ending.DEFERRED)


@dataclass(slots=True, kw_only=True)
class TransactionBlock:
    """One transaction, as an `async with` block. Made by `Client.transaction`."""

    name: str
    engine: Engine
    recipe: Recipe | None
    policy: FailurePolicy
    key: str | None
    deadline_s: float
    history: History | None = None
    outcome: TransactionOutcome | None = None
    """Set when the block has ended and the outcome is known."""
    _work: Work | None = None
    _messages: int = 0
    _ended: bool = False

    @property
    def gid(self) -> Gid:
        """The global transaction's id: what to ask by, and what the journal's row is called. Kept behind the block."""
        return self._begun().gid

    async def enlist(self, participant: str) -> Any:
        """A connection of *participant* (an asyncpg connection for Postgres), inside this transaction.

        Asked again for the same participant it is the same connection. It must not be used after the block.
        Raises `Unavailable` or `Overloaded` where the participant cannot begin, `InvalidDefinition` where it may not.
        """
        return await self._open().enlist(participant)

    async def publish(
        self,
        participant: str,
        *,
        topic: str,
        value: Value,
        key: bytes | str | None = None,
        headers: Headers = (),
        partition: int | None = None,
        message_id: str | None = None,
    ) -> str:
        """Publish a message as part of this transaction; returns its id, which travels in the header `message-id`.

        *value*: bytes as they are, str as UTF-8, a pydantic model as JSON, None as a tombstone. The partition is the
        key's (murmur2, as every Kafka client has it) unless *partition* is given. *message_id* is its id where several
        transactions may publish what is one message; a consumer's inbox then takes it once. Raises `Refused` for a
        message that the broker can never take; a broker that is down or slow is the failure policy's business.
        """
        work = self._open()
        check_key(message_id)
        message = Message(
            id=message_id or f"{work.gid}:{self._messages}",
            participant=BranchName(participant),
            topic=topic,
            value=_bytes(value),
            key=_bytes(key),
            headers=_headers(headers),
            partition=partition,
        )
        await work.publish(message)
        self._messages += 1
        return message.id

    async def __aenter__(self) -> Self:
        """Open the transaction. Raises `InvalidDefinition`, `KeyReused` or `Unavailable` before any work."""
        if (outer := blocks.inside.get()) is not None:
            raise InvalidDefinition(f"transactions do not nest: {self.name!r} is inside {outer!r}; pass that one on")
        if self._work is not None:
            raise InvalidDefinition(f"{self.name!r} was entered before: ask the coordinator for a new transaction")
        self._work = await self.engine.begin(
            self.name, recipe=self.recipe, policy=self.policy, key=self.key, deadline_s=self.deadline_s
        )
        blocks.inside.set(self.name)
        self._note("invoke")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the transaction: commit it, or roll it back where the block raised."""
        work = self._open()
        self._ended = True
        blocks.inside.set(None)
        if error is not None:
            await work.abort(f"the block raised {type(error).__name__}")
            self._note("fail")
            return
        try:
            self._conclude(work, await work.commit())
        except (Unavailable, Refused):
            self._note("fail")
            raise
        except BaseException:
            self._note("info")  # Nobody can say yet: a checker must never take it for a failure.
            raise
        self._note("ok")

    def _note(self, phase: Phase) -> None:
        if self.history is not None and self._work is not None:
            self.history.write("transaction", phase, gid=self._work.gid, name=self.name)

    def _conclude(self, work: Work, transaction: Transaction) -> None:
        status = transaction.status
        if status in (Status.COMMITTING, Status.COMMITTED):
            self.outcome = _outcome(transaction, Outcome.COMMIT)
            return
        if status in (Status.ABORTING, Status.ABORTED):
            self.outcome = _outcome(transaction, Outcome.ABORT)
            raise _rolled_back(work, transaction)
        if status is Status.PARKED:
            raise Parked(f"{work.gid} waits for an operator: {transaction.reason}", gid=work.gid)
        raise InDoubt(f"{work.gid} has no outcome yet; ask for it by this id, do not run it again", gid=work.gid)

    def _open(self) -> Work:
        work = self._begun()
        if self._ended:
            raise InvalidDefinition(f"{self.name!r} has ended: nothing can be added to it", gid=work.gid)
        return work

    def _begun(self) -> Work:
        if self._work is None:
            raise InvalidDefinition(f"{self.name!r} is used outside of its block: write `async with`")
        return self._work


@dataclass(slots=True, kw_only=True)
class Client:
    """Opens transactions on an engine."""

    engine: Engine
    policies: Mapping[str, FailurePolicy] = field(default_factory=dict)
    """Per transaction name, from configuration; the name "default" is for all others."""
    history: History | None = None
    """Where every transaction's beginning and end is written, for a checker to read."""

    def transaction(
        self,
        name: str,
        *,
        policy: FailurePolicy | None = None,
        recipe: Recipe | str | None = None,
        key: str | None = None,
        deadline_s: float = limits.TRANSACTION_DEADLINE_S,
    ) -> TransactionBlock:
        """A transaction to be entered with `async with`.

        *policy*: what a broker that is down or slow means; by default what configuration says for *name*, else
        `Rollback()`. *recipe*: by default chosen from what the participants can do. *key*: at most one transaction
        *name* with this key ever commits; another attempt raises `KeyReused`, with the first one's gid. *deadline_s*:
        seconds after which the transaction is rolled back if it is not decided.
        """
        if not name:
            raise InvalidDefinition("a transaction has a name: policies, figures and operators call it by it")
        check_name(name)
        check_key(key)
        if not deadline_s > 0:
            raise InvalidDefinition(f"deadline_s must be above zero, not {deadline_s}")
        configured = self.policies.get(name) or self.policies.get("default")
        return TransactionBlock(
            name=name,
            engine=self.engine,
            recipe=_recipe(recipe),
            policy=policy or configured or Rollback(),
            key=key,
            deadline_s=deadline_s,
            history=self.history,
        )


def _outcome(transaction: Transaction, outcome: Outcome) -> TransactionOutcome:
    return TransactionOutcome(
        gid=transaction.gid,
        outcome=outcome,
        recipe=transaction.recipe,
        settled=transaction.finished,
        endings={str(name): ending for name, ending in transaction.endings.items()},
        reason=transaction.reason,
    )


def _rolled_back(work: Work, transaction: Transaction) -> CoordinatorError:
    """The error that says why, and whether asking again can help: the participant's own, where it gave one."""
    failure = work.failure
    if isinstance(failure, CoordinatorError) and not isinstance(failure, InDoubt):
        failure.gid = transaction.gid
        return failure
    reason = transaction.reason or "it was rolled back"
    if failure is None:
        return VotedNo(f"{transaction.gid}: {reason}", gid=transaction.gid)
    error = Unavailable(f"{transaction.gid} was rolled back: {reason}", gid=transaction.gid)
    error.__cause__ = failure
    return error


def _recipe(recipe: Recipe | str | None) -> Recipe | None:
    try:
        return None if recipe is None else Recipe(recipe)
    except ValueError:
        known = ", ".join(Recipe)
        raise InvalidDefinition(f"{recipe!r} is no recipe; there are {known}") from None


def _bytes(value: Value) -> bytes | None:
    match value:
        case None | bytes():
            return value
        case str():
            return value.encode()
        case BaseModel():
            return value.model_dump_json().encode()
        case _:
            raise InvalidDefinition(f"a message is bytes, str, a pydantic model or None, not {type(value).__name__}")


def _headers(headers: Headers) -> tuple[tuple[str, bytes], ...]:
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    return tuple((name, value.encode() if isinstance(value, str) else value) for name, value in pairs)
