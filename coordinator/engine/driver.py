"""The loop: do what is owed, believe what was done, until nothing is owed.

There is no other way to move a transaction, before the decision or after it, here or in the process that takes over.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from coordinator import limits
from coordinator.engine.failures import pause_asked_s
from coordinator.engine.finisher import Finisher
from coordinator.engine.performer import UNKNOWN, Performer
from coordinator.engine.run import Run
from coordinator.engine.watchdog import Watchdog
from coordinator.errors import CoordinatorError, Unavailable
from coordinator.ports import AlertKind, Standing
from coordinator.protocol.actions import Action, name_of, participant_of
from coordinator.protocol.model import Gid, Outcome, Role, Status
from coordinator.protocol.two_phase import evolve, owed
from coordinator.telemetry import Telemetry

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Driver:
    """Drives transactions in tasks of their own: a caller that is cancelled never interrupts a second phase."""

    performer: Performer
    finisher: Finisher
    watchdog: Watchdog
    driving: dict[Gid, asyncio.Task[None]] = field(default_factory=dict)
    runs: dict[Gid, Run] = field(default_factory=dict)
    telemetry: Telemetry | None = None
    stopped: bool = False

    def start(self, run: Run) -> asyncio.Task[None]:
        """Drive *run* in a task of its own, to its end; the same task when it is being driven already."""
        gid = run.transaction.gid
        if self.stopped:
            raise Unavailable("this process is stopping: nothing of this transaction was committed", gid=gid)
        task = self.driving.get(gid)
        if task is None:
            if self.telemetry is not None and run.following is None:
                now_s = self.performer.clock.monotonic_s()
                run.following = self.telemetry.resumed(run.transaction, recorded=run.traceparent, now_s=now_s)
            task = asyncio.create_task(self.drive(run), name=f"drive {gid}")
            self.driving[gid], self.runs[gid] = task, run
            task.add_done_callback(lambda ended: self._forget(gid, ended))
        elif (driven := self.runs.get(gid)) is not None:
            driven.reigns = max(driven.reigns, run.reigns)  # This process has adopted what it drove before, as another.
        return task

    async def stop(self) -> None:
        """Drive nothing any more, and return when nothing is, or soon: whoever takes over owes the rest. Idempotent."""
        self.stopped = True
        tasks = [*self.driving.values(), *self.performer.leftovers.stop()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=limits.DRIVER_STOPS_WITHIN_S)

    def _forget(self, gid: Gid, ended: asyncio.Task[None]) -> None:
        self.driving.pop(gid, None)
        run = self.runs.pop(gid, None)
        if run is not None and run.following is not None:
            run.following.ended(run.transaction, self.performer.clock.monotonic_s(), run.failure)
        if not ended.cancelled() and (failure := ended.exception()) is not None:
            logger.error("driving %s ended with a bug or a misconfiguration", gid, exc_info=failure)

    async def drive(self, run: Run) -> None:
        """Do what *run* owes until it is finished, waits for an operator, or is another process' to finish."""
        while not run.replaced and (actions := owed(run.transaction)):
            if len(actions) == 1:
                await self._perform(run, actions[0])
            else:
                await self._perform_together(run, actions)
        if run.transaction.finished:
            await self.finisher.finish(run)

    async def _perform_together(self, run: Run, actions: Sequence[Action]) -> None:
        async with asyncio.TaskGroup() as group:
            for action in actions:
                group.create_task(self._perform(run, action))

    async def _perform(self, run: Run, action: Action) -> None:
        """Perform *action* until it is a fact, then believe it. What is owed after the decision is owed for ever."""
        pause_s, failures, asked = limits.FINISH_BACKOFF_S, 0, participant_of(action)
        if asked is not None:
            self.performer.budgets.attempted(asked)
        while True:
            if self.watchdog.stalled:
                await self.watchdog.steady()
            try:
                event = await self.performer.perform(run, action)
            except (CoordinatorError, *UNKNOWN) as failure:
                refused = not isinstance(failure, (Unavailable, *UNKNOWN))
                if run.transaction.status is Status.PREPARING and refused:
                    raise
                failures += 1
                if failures == 1:
                    logger.warning("%s of %s has no answer yet: %r", action, run.transaction.gid, failure)
                    await self._remember_conclusion(run)
                if (refused or _is_rare(failures)) and await self._is_replaced(run):
                    logger.warning("%s is driven by another process now", run.transaction.gid)
                    run.replaced = True
                    return
                await self._note_attempt(run, action, failures, failure)
                if refused:
                    await self._tell_of_refusal(run, failure)
                if run.following is not None:
                    run.following.retried(name_of(action), asked)
                affordable = asked is None or self.performer.budgets.spend(asked)
                later_s = pause_asked_s(failure) + self._pause_s(pause_s, affordable=affordable)
                await self.performer.clock.sleep(later_s)
                pause_s = min(limits.FINISH_BACKOFF_MAX_S, 2 * pause_s)
            else:
                run.transaction = evolve(run.transaction, event)
                return

    def _pause_s(self, pause_s: float, *, affordable: bool) -> float:
        """With full jitter; and where the participant has no retry left, as late as what is owed may be asked for."""
        if affordable:
            return self.performer.chance.uniform(0, pause_s)
        return limits.FINISH_BACKOFF_MAX_S * self.performer.chance.uniform(0.8, 1.0)

    async def _is_replaced(self, run: Run) -> bool:
        """Whether somebody has taken *run* over: its participants then answer this process nothing else for ever."""
        if run.transaction.status not in (Status.COMMITTING, Status.ABORTING):
            return False
        try:
            record = await self.performer.journal.look_up(run.transaction.gid)
        except (CoordinatorError, *UNKNOWN) as unread:
            logger.debug("whose %s is cannot be read now: %r", run.transaction.gid, unread)
            return False
        return record is not None and record.reigns > run.reigns

    async def _note_attempt(self, run: Run, action: Action, failures: int, failure: BaseException) -> None:
        """Tell operators what is tried and answered."""
        if not run.journalled or not _is_rare(failures):
            return
        branch, tried = getattr(action, "branch", ""), failures - failures // 2
        try:
            answer = f"{type(failure).__name__}: {failure}"
            await self.performer.journal.note_attempt(
                run.transaction.gid, branch, name_of(action), tried=tried, answer=answer
            )
        except (CoordinatorError, *UNKNOWN) as unwritten:
            logger.debug("what %s was answered is not written: %r", action, unwritten)

    async def _tell_of_refusal(self, run: Run, refusal: BaseException) -> None:
        """What a setting, a privilege or a service forbids is owed all the same, and somebody has to know."""
        try:
            await self.performer.alerts.raise_alert(run.transaction.gid, AlertKind.REFUSED, str(refusal))
        except (CoordinatorError, *UNKNOWN) as unwritten:
            logger.warning("%s is refused, and nobody can be told of it yet: %r", run.transaction.gid, unwritten)

    async def _remember_conclusion(self, run: Run) -> None:
        """What the last resource answered could be asked again, but not for ever: write it down before a long wait."""
        transaction = run.transaction
        last = any(branch.role is Role.LAST for branch in transaction.branches.values())
        if not run.journalled or not last or transaction.status not in (Status.COMMITTING, Status.ABORTING):
            return
        standing = Standing.COMMIT if transaction.status is Status.COMMITTING else Standing.ABORT
        try:
            await self.performer.journal.conclude(transaction.gid, standing, reason=transaction.reason)
        except (Unavailable, *UNKNOWN) as failure:
            logger.warning("the conclusion of %s is not written yet: %r", transaction.gid, failure)


def _is_rare(failures: int) -> bool:
    """At first often, then as rarely as the number doubles."""
    return not failures & (failures - 1)


def outcome_of(status: Status) -> Outcome | None:
    """What has been decided in this status; None while nothing has."""
    match status:
        case Status.COMMITTING | Status.COMMITTED:
            return Outcome.COMMIT
        case Status.ABORTING | Status.ABORTED:
            return Outcome.ABORT
        case _:
            return None
