"""Recording that nothing is owed any more, in batches and off everybody's critical path.

First the outbox rows that Kafka has committed are deleted, then the journal's row is marked as done. A crash in between
costs only that recovery finds out once more what it already knew.
"""

import asyncio
import contextlib
import logging
from collections import defaultdict
from dataclasses import dataclass, field

from coordinator import limits
from coordinator.alerts import of_outcome
from coordinator.engine.performer import UNKNOWN
from coordinator.engine.run import Participants, Run
from coordinator.errors import CoordinatorError, Replaced
from coordinator.ports import Alerts, Clock, HoldsOutbox, Journal, Relays, Standing
from coordinator.protocol.model import BranchName, Ending, Gid, Outcome, Recipe, Status
from coordinator.protocol.policy import poll_every_s

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Finisher:
    """A queue of finished transactions, and the task that records them."""

    participants: Participants
    journal: Journal
    alerts: Alerts
    clock: Clock
    relays: Relays
    gather_s: float = limits.FINISH_GATHER_S
    pending: set[Gid] = field(default_factory=set)
    """Transactions that have ended, and are not recorded yet."""
    _waiting: list[Run] = field(default_factory=list)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None
    _stopping: bool = False

    async def start(self) -> None:
        """Begin recording."""
        self._task = asyncio.create_task(self._run(), name="finisher")

    async def stop(self) -> None:
        """Record what waits, once, and end. Idempotent. What could not be recorded is found again by recovery."""
        if self._task is None:
            return
        self._stopping = True
        self._wake.set()
        task, self._task = self._task, None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(task, timeout=limits.PARTICIPANT_CALL_S)

    def crowded(self) -> str | None:
        """Why nothing should begin: too much is finished and not recorded."""
        if len(self.pending) < limits.FINISHES_PENDING_MAX:
            return None
        return (
            f"finished transactions: {len(self.pending)} are not recorded yet; "
            "slow down, and look at the journal's database and the outboxes"
        )

    async def finish(self, run: Run) -> None:
        """Take *run*, which owes nothing any more."""
        deferred = Ending.DEFERRED in run.transaction.endings.values()
        if deferred or (run.messages and run.transaction.recipe is Recipe.OUTBOX):
            self.relays.wake(poll_every_s(run.policy))
        if run.journalled or run.transaction.heuristic:
            self._waiting.append(run)
            self.pending.add(run.transaction.gid)
            self._wake.set()

    async def flush(self) -> None:
        """Record what waits now. Raises what recording raised; then it still waits."""
        batch, self._waiting = self._waiting, []
        try:
            await self._record(batch)
        except BaseException:
            self._waiting = batch + self._waiting
            raise

    async def _run(self) -> None:
        while not self._stopping or self._waiting:
            await self._wake.wait()
            self._wake.clear()
            if not self._stopping:
                await self.clock.sleep(self.gather_s)  # Rows are deleted by the hundred, not one by one.
            try:
                await self.flush()
            except Replaced:
                logger.warning("%d finished transactions belong to another process now", len(self._waiting))
                self._waiting.clear()
            except Exception as failure:  # noqa: BLE001 - the loop's edge: what is finished must be recorded, however late.
                logger.warning("%d finished transactions are not recorded yet: %r", len(self._waiting), failure)
                if self._stopping:
                    return
                await self.clock.sleep(limits.FINISH_BACKOFF_MAX_S / 5)
                self._wake.set()

    async def _record(self, batch: list[Run]) -> None:
        delivered: dict[BranchName, list[tuple[Gid, BranchName]]] = defaultdict(list)
        for run in batch:
            for name, ending in run.transaction.endings.items():
                if run.outbox is not None and ending is Ending.COMMITTED and self.participants[name].publishes:
                    delivered[run.outbox].append((run.transaction.gid, name))
        away = {holder for holder, pairs in delivered.items() if not await self._cleared(holder, pairs)}
        self._waiting += [run for run in batch if run.outbox in away]
        await asyncio.gather(*(self._finish(run) for run in batch if run.outbox not in away))
        self.pending -= {run.transaction.gid for run in batch if run.outbox not in away}

    async def _cleared(self, holder: BranchName, delivered: list[tuple[Gid, BranchName]]) -> bool:
        """Whether *holder* has deleted what was delivered; one database that is away does not hold up the others."""
        participant = self.participants[holder].participant
        assert isinstance(participant, HoldsOutbox), f"{holder} holds no outbox"
        try:
            await participant.clear_outbox(delivered)
        except (CoordinatorError, *UNKNOWN) as failure:
            logger.warning("the outbox of %s is cleared later: %r", holder, failure)
            return False
        return True

    async def _finish(self, run: Run) -> None:
        transaction = run.transaction
        outcome = Outcome.COMMIT if transaction.status is Status.COMMITTED else Outcome.ABORT
        if transaction.heuristic:
            await self._tell(run)  # Before it is finished: after a crash in between, it is found and told again.
        await self.journal.finish(transaction.gid, outcome, transaction.endings)

    async def _tell(self, run: Run) -> None:
        """Raise the one alert about a branch that ended against the decision, and see to it that a record stands."""
        transaction = run.transaction
        if not run.journalled:  # An abort needs none; what somebody committed against it does.
            await self.journal.decide(run.record(Standing.ABORT))
            run.journalled = True
        endings = ", ".join(f"{name} {ending}" for name, ending in transaction.endings.items())
        decided = "commit" if transaction.status is Status.COMMITTED else "abort"
        await self.alerts.raise_alert(transaction.gid, of_outcome(transaction), f"decided {decided}: {endings}")
