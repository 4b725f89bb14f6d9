"""What a failover lost: branches that were to be committed, and are no part of what their server follows now.

A standby that was promoted knows nothing of what its primary did after it last heard of it. A prepared branch that
stands again although it was committed is found by the sweep, which obeys the record. What vanished is found here: on
every change of history, and once when a process begins, the commits of the last minutes are looked for.
"""

import asyncio
import logging
from dataclasses import dataclass, field

from coordinator import limits
from coordinator.engine.performer import UNKNOWN
from coordinator.engine.run import Participants
from coordinator.engine.timers import is_cancelled
from coordinator.errors import CoordinatorError
from coordinator.ports import AlertKind, Alerts, FollowsHistory, Journal
from coordinator.protocol.model import BranchName, Ending, Evidence, Gid

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Failover:
    """Looks which history each participant follows, and verifies recent commits where it has changed."""

    participants: Participants
    journal: Journal
    alerts: Alerts
    look_back_s: float = limits.FAILOVER_LOOK_BACK_S
    _verified: dict[BranchName, Evidence] = field(default_factory=dict)

    async def look_at_journal(self) -> None:
        """One look at the journal's own history, which dates it."""
        try:
            await self.journal.remembers_since()
        except (CoordinatorError, *UNKNOWN) as failure:
            logger.warning("the journal's history is looked at later: %r", failure)

    async def look_at(self, name: BranchName) -> None:
        """One look at one participant, if it has a history. Whatever it raises is told, and it is asked again."""
        participant = self.participants[name].participant
        if isinstance(participant, FollowsHistory):
            try:
                await self._look_at(name, participant)
            except (Exception, asyncio.CancelledError) as failure:
                if is_cancelled():
                    raise
                logger.warning("what a failover of %s may have lost is looked for later: %r", name, failure)

    async def _look_at(self, name: BranchName, participant: FollowsHistory) -> None:
        async with asyncio.timeout(limits.SWEEP_CALL_S):
            history = await participant.history()
        if not history or self._verified.get(name) == history:
            return
        commits = await self.journal.commits_elsewhere(name, history, within_s=self.look_back_s)
        gids = list(commits)
        for start in range(0, len(gids), limits.JOURNAL_BATCH_MAX):
            async with asyncio.timeout(limits.SWEEP_CALL_S):
                lost = await participant.lost(history, gids[start : start + limits.JOURNAL_BATCH_MAX])
            for gid in lost:
                await self._tell(gid, name)
        if all(commits.values()):  # What is not finished may have been committed where nobody follows: look again.
            self._verified[name] = history

    async def _tell(self, gid: Gid, name: BranchName) -> None:
        detail = f"decided commit: {name} {Ending.LOST}: neither committed nor prepared in the history it follows now"
        await self.alerts.raise_alert(gid, AlertKind.LOST_BY_FAILOVER, detail)
        await self.journal.note_ending(gid, name, Ending.LOST)
