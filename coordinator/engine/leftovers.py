"""Shares that could not be dropped when their transactions were rolled back: dropped once their participants answer.

A try or a PREPARE without an answer may hold something, though its vote is a no by now. That it ends is owed, and is
nobody's to wait for: the caller is told of the rollback, a process that stops leaves it, and it takes no other
transaction's room. Nothing is written of it either. Where the process ends first, the sweep finds what is prepared.

Where it is refused, people are told, as of an abort that a record stands of. It is asked for all the same.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field

from coordinator import limits
from coordinator.engine.failures import pause_asked_s
from coordinator.engine.run import Run
from coordinator.engine.timers import is_cancelled
from coordinator.errors import CoordinatorError, InDoubt, Unavailable
from coordinator.ports import AlertKind, Alerts, Clock, Journal, Session
from coordinator.protocol.model import BranchName, Gid

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True, eq=False)
class _Share:
    gid: Gid
    branch: BranchName
    session: Session
    reigns: int
    untold: CoordinatorError | None = None
    """That it may not be dropped, which people have to be told."""

    def failed(self, failure: BaseException) -> None:
        if isinstance(failure, CoordinatorError) and not isinstance(failure, (Unavailable, InDoubt)):
            self.untold = failure


@dataclass(slots=True, kw_only=True)
class Leftovers:
    """Asks each participant for a few shares at a time, those first that were tried longest ago."""

    journal: Journal
    alerts: Alerts
    clock: Clock
    chance: random.Random
    left: dict[BranchName, deque[_Share]] = field(default_factory=dict)
    """What each participant may hold still; nothing of one where it holds nothing."""
    _tasks: dict[BranchName, asyncio.Task[None]] = field(default_factory=dict)
    _stopped: bool = False

    def owe(self, run: Run, branch: BranchName, session: Session, failure: BaseException) -> None:
        """*session* may hold something, and discarding it raised *failure*: it is discarded until that is done."""
        if self._stopped:
            return
        gid = run.transaction.gid
        logger.warning("what %s may hold of %s is asked to be dropped again: %r", branch, gid, failure)
        share = _Share(gid=gid, branch=branch, session=session, reigns=run.reigns)
        share.failed(failure)
        self._keep(share)
        if branch not in self._tasks:
            self._tasks[branch] = asyncio.create_task(self._drop_all(branch), name=f"drop what {branch} may hold")

    def stop(self) -> Collection[asyncio.Task[None]]:
        """Take nothing more. Returns what is asking still, to be cancelled. Idempotent."""
        self._stopped = True
        return list(self._tasks.values())

    def _keep(self, share: _Share) -> None:
        shares = self.left.setdefault(share.branch, deque())
        if len(shares) >= limits.SHARES_LEFT_MAX:
            forgotten = shares.popleft()
            logger.warning("what %s may hold of %s is left to the sweep: too much is", share.branch, forgotten.gid)
        shares.append(share)

    async def _drop_all(self, branch: BranchName) -> None:
        shares, pause_s, asked_for_s = self.left[branch], limits.FINISH_BACKOFF_S, 0.0
        try:
            while shares:
                await self._tell(shares)
                await self.clock.sleep(asked_for_s + self.chance.uniform(0, pause_s))
                together = [shares.popleft() for _ in range(min(len(shares), limits.SWEEP_TOGETHER_MAX))]
                failures = await asyncio.gather(*(self._drop(share) for share in together))
                answered = None in failures
                pause_s = limits.FINISH_BACKOFF_S if answered else min(limits.FINISH_BACKOFF_MAX_S, 2 * pause_s)
                asked_for_s = max((pause_asked_s(failure) for failure in failures if failure is not None), default=0.0)
        finally:
            del self._tasks[branch], self.left[branch]

    async def _drop(self, share: _Share) -> BaseException | None:
        """Why it could not be dropped, and is kept; None where it was."""
        try:
            async with asyncio.timeout(limits.SWEEP_CALL_S):
                await share.session.discard()
        except (Exception, asyncio.CancelledError) as failure:
            if is_cancelled():
                raise
            logger.debug("what %s may hold of %s is not dropped yet: %r", share.branch, share.gid, failure)
            share.failed(failure)
            self._keep(share)
            return failure
        return None

    async def _tell(self, shares: deque[_Share]) -> None:
        """Raise the one alert about each share that is refused, where it is this process' to end still."""
        for share in [share for share in shares if share.untold is not None]:
            try:
                record = await self.journal.look_up(share.gid)
                if record is not None and record.reigns > share.reigns:
                    # Who presumed its abort ends it now; this process would be refused for its lower term alone.
                    if share in shares:
                        shares.remove(share)
                    continue
                await self.alerts.raise_alert(share.gid, AlertKind.REFUSED, str(share.untold))
            except Exception as failure:  # noqa: BLE001 - whatever it is, it is told later.
                logger.warning("%s is refused, and nobody can be told of it yet: %r", share.gid, failure)
                return
            share.untold = None
