"""One open transaction: enlisting, publishing, and the two ways in which its block can end.

What a client steers and nothing else: the rules are the protocol's, the loop is the driver's.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, cast

from coordinator import limits
from coordinator.engine.driver import Driver, outcome_of
from coordinator.engine.performer import UNKNOWN
from coordinator.engine.run import Participants, Run
from coordinator.errors import (
    CircuitOpen,
    CoordinatorError,
    DeadlineExceeded,
    InvalidDefinition,
    NothingEnlisted,
    TurnedAway,
    Unavailable,
)
from coordinator.ports import Ability, ConnectedSession, HoldsOutbox, Message, PublishingSession
from coordinator.protocol.events import Decided
from coordinator.protocol.model import Branch, BranchName, Gid, OnNo, Outcome, Recipe, Role, Transaction
from coordinator.protocol.policy import attempt_within_s, on_no
from coordinator.protocol.recipes import database_role, publisher_role
from coordinator.protocol.two_phase import evolve


@dataclass(slots=True, kw_only=True)
class EngineWork:
    """`ports.Work` on this engine."""

    run: Run
    participants: Participants
    driver: Driver
    left: Callable[[Gid], None]
    """To be told when the block has ended."""
    settle_within_s: float = limits.SETTLE_WITHIN_S
    _opening: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def gid(self) -> Gid:
        """The transaction's id."""
        return self.run.transaction.gid

    @property
    def failure(self) -> BaseException | None:
        """Why it was not committed, if it was not."""
        return self.run.failure

    async def enlist(self, participant: str) -> Any:
        """The participant's connection inside this transaction; the same one when asked again."""
        name = self._registered(participant)
        if self.participants[name].publishes:
            raise InvalidDefinition(f"{name} takes messages: call publish, not enlist", participant=name)
        async with self._opening:
            return await self._enlist(name)

    async def _enlist(self, name: BranchName) -> Any:
        session = self.run.sessions.get(name)
        if session is None:
            if database_role(self.run.transaction.recipe) is Role.DECIDER:
                self._refuse_second_decider(name)
            session = await self.participants[name].participant.begin(self.gid, recipe=self.run.transaction.recipe)
            self.run.sessions[name] = session
        return cast("ConnectedSession", session).connection  # What does not publish has a connection.

    async def publish(self, message: Message) -> None:
        """Take a message. A broker that cannot be reached is the policy's business, later; a bad message is not."""
        name = self._registered(message.participant)
        if not self.participants[name].publishes:
            raise InvalidDefinition(f"{name} takes no messages: enlist it and write to it", participant=name)
        self._refuse_oversize(message)
        if self.run.following is not None:
            message = self.run.following.published(message)
        if self.run.transaction.recipe is Recipe.OUTBOX:
            self.run.messages.append(message)
            return
        session = cast("PublishingSession | None", self.run.sessions.get(name))
        if session is None and not self.run.failures.get(name):
            async with self._opening:
                known = cast("PublishingSession | None", self.run.sessions.get(name))
                session = known or await self._open_publisher(name)
        if session is not None:
            session.publish(message)
        self.run.messages.append(message)

    async def commit(self) -> Transaction:
        """Drive the transaction; return when it has ended, or when the caller may not be kept any longer."""
        if not self.run.sessions and not self.run.messages:
            await self.abort("nothing was enlisted and nothing published")
            raise NothingEnlisted(gid=self.gid)
        if self.driver.performer.clock.monotonic_s() >= self.run.deadline_s:
            self.run.failed(DeadlineExceeded(gid=self.gid))
            return await self.abort("the deadline passed before the block ended")
        try:
            await self._back_messages()
        except (CoordinatorError, *UNKNOWN) as failure:
            self.run.failed(failure)
            return await self.abort(f"the messages could not be written beside the business rows: {failure}")
        except BaseException as failure:
            self._begin_abort(f"the block's end raised {type(failure).__name__}")
            raise
        self._define_branches()
        if problem := self._two_last():
            self.run.failed(InvalidDefinition(problem, gid=self.gid))
            return await self.abort(problem)
        return await self._drive()

    async def abort(self, reason: str) -> Transaction:
        """Undo everything that was begun. Nothing of it was promised, so nothing needs to be remembered."""
        self._begin_abort(reason)
        return self.run.transaction if self.driver.stopped else await self._drive()

    def _begin_abort(self, reason: str) -> None:
        self._define_branches()
        self.run.transaction = evolve(self.run.transaction, Decided(Outcome.ABORT, reason))
        if self.driver.stopped:
            self.left(self.gid)  # Its shares were closed with the participants, and nobody was promised anything.
        else:
            self._start()

    def _start(self) -> asyncio.Task[None]:
        self.left(self.gid)
        return self.driver.start(self.run)

    async def _drive(self) -> Transaction:
        """Wait for the decision until the deadline, and for what follows from it a while longer."""
        task, clock = self._start(), self.driver.performer.clock
        while not task.done() and self._undecided() and (left_s := self.run.deadline_s - clock.monotonic_s()) > 0:
            await asyncio.wait({task}, timeout=min(left_s, self.settle_within_s))
        if not task.done() and not self._undecided():
            await asyncio.wait({task}, timeout=self.settle_within_s)
        if task.done() and not task.cancelled():
            task.result()
        # Cancelled is what a process drives that stops: what has become of it is asked of another one.
        return self.run.transaction

    def _undecided(self) -> bool:
        return outcome_of(self.run.transaction.status) is None

    async def _open_publisher(self, name: BranchName) -> PublishingSession | None:
        """Begin the publishing branch at the first message, so that it travels while the business statements run."""
        aborts = on_no(self.run.policy) is OnNo.ABORT
        if not self.driver.performer.breakers.admit(name):
            if aborts:
                raise CircuitOpen(f"{name} has failed repeatedly; no work was done", participant=name, gid=self.gid)
            return None
        within_s = attempt_within_s(self.run.policy)
        self.run.publish_until_s[name] = self.driver.performer.clock.monotonic_s() + within_s
        try:
            async with asyncio.timeout(within_s):
                session = await self.driver.performer.open_session(self.run, name)
        except (Unavailable, *UNKNOWN) as failure:
            self.run.failures[name] = [failure]
            self.run.publish_until_s.pop(name, None)
            return None
        return cast("PublishingSession", session)

    async def _back_messages(self) -> None:
        """Put the messages beside the business rows before anything is prepared, where the policy may need them there.

        (The commit record does so itself, in the commit that decides.)
        """
        run = self.run
        defers = on_no(run.policy) is not OnNo.ABORT
        if not run.messages or run.transaction.recipe in (Recipe.COMMIT_RECORD, Recipe.OUTBOX):
            if run.messages and not self._databases() and (defers or run.transaction.recipe is Recipe.OUTBOX):
                await self.enlist(self._outbox_holder())
            return
        if defers:
            if not self._databases():
                await self.enlist(self._outbox_holder())
            holder = next((name for name in self._databases() if self._holds_outbox(name)), None)
            if holder is None:
                raise InvalidDefinition("none of the enlisted databases has an outbox to deliver the messages from")
            participant = self.participants[holder].participant
            assert isinstance(participant, HoldsOutbox), f"{holder} says that it holds an outbox, and does not"
            await participant.write_outbox(run.sessions[holder], self.gid, run.messages)
            run.outbox = holder

    def _define_branches(self) -> None:
        """Name the branches and what each can promise: known only now that the block has ended."""
        recipe = self.run.transaction.recipe
        databases = self._databases()
        branches = {name: Branch(name=name, role=database_role(recipe)) for name in databases}
        backed = self.run.outbox is not None or (recipe is Recipe.COMMIT_RECORD and bool(databases))
        if recipe is not Recipe.OUTBOX:
            role = publisher_role(recipe, with_database=bool(databases))
            opened = [name for name in self.run.sessions if self.participants[name].publishes]
            for name in dict.fromkeys([*(message.participant for message in self.run.messages), *opened]):
                meaning = on_no(self.run.policy) if backed else OnNo.ABORT
                branches[name] = Branch(name=name, role=role, on_no=meaning, backed=backed)
        self.run.transaction = replace(self.run.transaction, branches=branches)

    def _databases(self) -> list[BranchName]:
        return [name for name in self.run.sessions if not self.participants[name].publishes]

    def _holds_outbox(self, name: BranchName) -> bool:
        return Ability.HOLDS_OUTBOX in self.participants[name].abilities

    def _outbox_holder(self) -> BranchName:
        wanted = (
            Ability.HOLDS_JOURNAL if database_role(self.run.transaction.recipe) is Role.DECIDER else Ability.PREPARE
        )
        for name, registered in self.participants.items():
            if not registered.publishes and self._holds_outbox(name) and wanted in registered.abilities:
                return name
        raise InvalidDefinition("messages can only be delivered later from a database with an outbox; register one")

    def _registered(self, name: str) -> BranchName:
        if self.driver.stopped:
            raise Unavailable("this process is stopping: nothing of this transaction will be committed", gid=self.gid)
        if name not in self.participants:
            known = ", ".join(sorted(self.participants)) or "none"
            raise InvalidDefinition(f"{name!r} is not a registered participant (registered: {known})")
        return BranchName(name)

    def _refuse_second_decider(self, name: BranchName) -> None:
        if Ability.HOLDS_JOURNAL not in self.participants[name].abilities:
            raise InvalidDefinition(
                f"{name} is not the database that holds the journal, so it cannot be part of a commit-record "
                "transaction; use recipe two-phase or last-resource",
                participant=name,
            )
        if self._databases():
            raise InvalidDefinition(
                f"a commit-record transaction has one database, and {self._databases()[0]} is enlisted already; "
                "use recipe two-phase or last-resource",
                participant=name,
            )

    def _two_last(self) -> str | None:
        last = [name for name, branch in self.run.transaction.branches.items() if branch.role is Role.LAST]
        if len(last) < 2:
            return None
        return (
            f"{' and '.join(last)} can neither be prepared nor both be last: publish one of them through the "
            "outbox, or use brokers that prepare (two-phase)"
        )

    def _refuse_oversize(self, message: Message) -> None:
        size = len(message.value or b"") + len(message.key or b"")
        if size > limits.MESSAGE_BYTES_MAX:
            raise TurnedAway(f"a message of {size} bytes is above the limit of {limits.MESSAGE_BYTES_MAX}")
        if len(self.run.messages) >= limits.MESSAGES_PER_TRANSACTION_MAX:
            raise TurnedAway(f"more than {limits.MESSAGES_PER_TRANSACTION_MAX} messages in one transaction")
