"""One action, one call, one fact: the only place where the protocol touches the world.

Nothing is decided here. An action either becomes the fact that it has been done, durable where the protocol believes it
only then, or raises `Unavailable` or `InDoubt`: then the driver asks again.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import assert_never, cast

from coordinator import limits
from coordinator.engine.breakers import Breakers
from coordinator.engine.budgets import RetryBudgets
from coordinator.engine.leftovers import Leftovers
from coordinator.engine.run import Participants, Run
from coordinator.errors import CircuitOpen, CoordinatorError, InDoubt, Refused, Replaced, Unavailable
from coordinator.ports import (
    AlertKind,
    Alerts,
    Clock,
    DecidingSession,
    HoldsOutbox,
    Journal,
    Participant,
    PublishingSession,
    Session,
    Standing,
)
from coordinator.protocol.actions import Abort, Action, Commit, Decide, Hold, Intend, Prepare, Release
from coordinator.protocol.events import Decided, Event, HeldForOperator, Intended, Settled, Voted
from coordinator.protocol.model import BranchName, Ending, Outcome, Vote
from coordinator.protocol.policy import RetryAfter, attempt_within_s, next_attempt
from coordinator.protocol.two_phase import last_resource

# What a connection raises when nobody can say any more whether the request was carried out.
UNKNOWN = (InDoubt, OSError, TimeoutError)


@dataclass(slots=True, kw_only=True)
class Performer:
    """Performs actions on the participants and the journal it was given."""

    participants: Participants
    journal: Journal
    alerts: Alerts
    clock: Clock
    breakers: Breakers
    budgets: RetryBudgets = field(default_factory=RetryBudgets)
    chance: random.Random = field(default_factory=random.Random)
    leftovers: Leftovers = field(init=False)

    def __post_init__(self) -> None:
        self.leftovers = Leftovers(journal=self.journal, alerts=self.alerts, clock=self.clock, chance=self.chance)

    def perform(self, run: Run, action: Action) -> Awaitable[Event]:
        """Do *action* and return the fact. Raises `Unavailable` or `InDoubt` where it must be asked again."""
        done = self._perform(run, action)
        return done if run.following is None else run.following.performing(action, done)

    async def _perform(self, run: Run, action: Action) -> Event:
        match action:
            case Prepare():
                return await self._prepare(run, action.branch)
            case Intend():
                return await self._intend(run)
            case Hold():
                return await self._hold(run, action.reason)
            case Decide():
                return await self._decide(run, action)
            case Commit():
                return Settled(action.branch, await self._commit(run, action.branch))
            case Abort():
                return Settled(action.branch, await self._abort(run, action.branch))
            case Release():
                await self._release(run, action.branch)
                return Settled(action.branch, Ending.DEFERRED)
            case _:
                assert_never(action)

    # ── votes ──

    async def _prepare(self, run: Run, branch: BranchName) -> Event:
        if branch not in run.sessions and self.breakers.is_open(branch):
            run.failed(CircuitOpen(f"{branch} has failed repeatedly", participant=branch, gid=run.transaction.gid))
            return Voted(branch, Vote.NO, reason=f"{branch} has failed repeatedly")
        failures = run.failures.setdefault(branch, [])
        while True:
            if failures:
                pause_s = self._pause_before_retry_s(run, branch, failures)
                if pause_s is None:
                    return await self._refused(run, branch, failures[-1])
                if run.following is not None:
                    run.following.retried("prepare", branch)
                await self._drop_session(run, branch, after=failures[-1])
                await self.clock.sleep(pause_s)
            try:
                session = run.sessions.get(branch)
                if session is None:
                    async with asyncio.timeout(self._within_s(run, branch)):
                        session = await self.open_session(run, branch)
                vote, evidence = await session.vote(self._within_s(run, branch))
            except (Refused, Unavailable, *UNKNOWN) as failure:
                failures.append(failure)
                run.publish_until_s.pop(branch, None)
            else:
                self.breakers.succeeded(branch)
                run.voted_s = self.clock.monotonic_s()
                return Voted(branch, vote, evidence)

    async def _refused(self, run: Run, branch: BranchName, failure: BaseException) -> Voted:
        if not isinstance(failure, Refused):
            self.breakers.failed(branch)
        run.failed(failure)
        await self._drop_session(run, branch, after=failure)
        return Voted(branch, Vote.NO, reason=f"{branch}: {str(failure) or type(failure).__name__}")

    def _pause_before_retry_s(self, run: Run, branch: BranchName, failures: list[BaseException]) -> float | None:
        if isinstance(failures[-1], Refused) or not self.participants[branch].publishes:
            return None  # The same answer would come again; and a database's share cannot be done over by us.
        step = next_attempt(run.policy, made=len(failures), chance=self.chance.random())
        if not isinstance(step, RetryAfter) or self.clock.monotonic_s() + step.seconds >= run.deadline_s:
            return None
        return step.seconds if self.budgets.spend(branch) else None

    async def open_session(self, run: Run, branch: BranchName) -> Session:
        """The branch's open share; a new one, with the same messages, where the last was discarded."""
        session = run.sessions.get(branch)
        if session is None:
            session = await self._participant(branch).begin(run.transaction.gid, recipe=run.transaction.recipe)
            run.sessions[branch] = session
            for message in run.messages:
                if message.participant == branch:
                    cast("PublishingSession", session).publish(message)
        return session

    def _within_s(self, run: Run, branch: BranchName) -> float:
        """How long this attempt may still take: from its first message for a publisher, from now for a database."""
        now_s = self.clock.monotonic_s()
        if self.participants[branch].publishes:
            until_s = run.publish_until_s.setdefault(branch, now_s + attempt_within_s(run.policy))
        else:
            until_s = now_s + limits.BRANCH_BUDGET_MAX_S
        return max(0.001, min(until_s, run.deadline_s) - now_s)

    async def _drop_session(self, run: Run, branch: BranchName, *, after: BaseException | None = None) -> None:
        """End the share without a commit, *after* its vote raised, if it did. Nobody will commit it.

        Where that fails, and nobody knows whether it voted, it may hold something: then it is tried until it is done.
        """
        session = run.sessions.pop(branch, None)
        if session is None:
            return
        try:
            await session.discard()
        except (CoordinatorError, *UNKNOWN) as failure:
            if after is not None and not isinstance(after, (Refused, Unavailable)):
                self.leftovers.owe(run, branch, session, failure)

    # ── the decision ──

    async def _intend(self, run: Run) -> Event:
        if self.clock.monotonic_s() - run.voted_s > limits.KAFKA_TRANSACTION_TIMEOUT_S / 2:
            return Decided(Outcome.ABORT, "the last resource's vote is too old: its broker may have timed it out")
        return await self._write(run, Standing.INTENT)

    async def _hold(self, run: Run, reason: str) -> Event:
        gid, unreadable = run.transaction.gid, Ending.HAZARD in run.transaction.endings.values()
        # Before it is held, not after: nobody looks at what is held until an operator does.
        detail = f"{run.alert}: {reason}" if run.alert else reason
        await self.alerts.raise_alert(gid, AlertKind.HAZARD if unreadable else AlertKind.PARKED, detail)
        if run.journalled:  # Its intent stands: that row becomes the parked one.
            return _fact(await self.journal.conclude(gid, Standing.PARKED, reason=reason, hold_s=run.hold_s), reason)
        return await self._write(run, Standing.PARKED, reason=reason)

    async def _decide(self, run: Run, action: Decide) -> Event:
        if not action.forced:
            return Decided(action.outcome, run.transaction.reason)
        if action.through is not None:
            return await self._decide_through(run, action.through)
        return await self._write(run, Standing.COMMIT if action.outcome is Outcome.COMMIT else Standing.ABORT)

    async def _decide_through(self, run: Run, carrier: BranchName) -> Event:
        session = cast("DecidingSession", run.sessions[carrier])  # Its role says so; see `recipes.database_role`.
        run.outbox = carrier if run.messages else None
        promised = {name for name, vote in run.transaction.votes.items() if vote is Vote.YES}
        ready = frozenset(message.participant for message in run.messages) - promised
        record = run.record(Standing.COMMIT)
        try:
            await session.commit_with(self.journal, record, run.messages, ready=ready)
        except (Refused, Unavailable, Replaced) as failure:
            run.failed(failure)
            return Voted(carrier, Vote.NO, reason=f"{carrier}: {failure}")
        except UNKNOWN as failure:
            run.failed(failure)
            return await self._what_stands(run)
        run.journalled = True
        return Decided(Outcome.COMMIT)

    async def _write(self, run: Run, standing: Standing, *, reason: str = "") -> Event:
        """Write the row; adopt the one that stands. Only an answer counts: without one, ask by writing an abort."""
        record = run.record(standing, reason=reason)
        try:
            stands = await self.journal.decide(record)
        except (Unavailable, Replaced, Refused, *UNKNOWN) as failure:
            run.failed(failure)
            return await self._what_stands(run)
        run.journalled = True
        return _fact(stands, record.reason)

    async def _what_stands(self, run: Run) -> Event:
        """Find out what became of a write without an answer: the insert of an abort waits for it, and wins or adopts.

        Our own earlier row may stand, another process' presumed abort, or none: then this abort is the decision.
        """
        reason = run.transaction.reason or str(run.failure or "the decision could not be written")
        stands = await self._until_answered(lambda: self.journal.decide(run.record(Standing.ABORT, reason=reason)))
        run.journalled = True
        if stands is Standing.ABORT:
            return Decided(Outcome.ABORT, reason)
        run.failure = None
        if stands is Standing.COMMIT and last_resource(run.transaction) is not None:
            return Intended()  # Our intent was written and its taker concluded it: the last resource says so again.
        return _fact(stands, reason)

    async def _until_answered(self, ask: Callable[[], Awaitable[Standing]]) -> Standing:
        pause_s = limits.FINISH_BACKOFF_S
        while True:
            try:
                return await ask()
            except (Unavailable, *UNKNOWN):
                await self.clock.sleep(self.chance.uniform(0, pause_s))
                pause_s = min(limits.FINISH_BACKOFF_MAX_S, 2 * pause_s)

    # ── the second phase ──

    async def _commit(self, run: Run, branch: BranchName) -> Ending:
        return await self._participant(branch).commit(run.transaction.prepared(branch, run.reigns))

    async def _abort(self, run: Run, branch: BranchName) -> Ending:
        voted_yes = run.transaction.votes.get(branch) is Vote.YES
        if branch in run.sessions and not voted_yes:
            await self._drop_session(run, branch)
            return Ending.ABORTED
        if not voted_yes and not run.journalled:
            return Ending.ABORTED  # It never had a share that anyone could commit.
        return await self._participant(branch).abort(run.transaction.prepared(branch, run.reigns))

    async def _release(self, run: Run, branch: BranchName) -> None:
        if run.outbox is None:
            raise CoordinatorError(f"{run.transaction.gid} has no outbox to deliver {branch} from")
        holder = self._participant(run.outbox)
        assert isinstance(holder, HoldsOutbox), f"{run.outbox} holds no outbox"
        await holder.release_outbox(run.transaction.gid, branch)

    def _participant(self, branch: BranchName) -> Participant:
        registered = self.participants.get(branch)
        if registered is None:
            raise Unavailable(f"{branch} is not registered in this process", participant=branch)
        return registered.participant


def _fact(stands: Standing, reason: str) -> Event:
    match stands:
        case Standing.INTENT:
            return Intended()
        case Standing.PARKED:
            return HeldForOperator(reason)
        case Standing.COMMIT:
            return Decided(Outcome.COMMIT)
        case Standing.ABORT:
            return Decided(Outcome.ABORT, reason)
        case _:
            assert_never(stands)
