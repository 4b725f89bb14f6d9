"""Finishing what others left: load the state, and run the ordinary loop.

Three things can be left behind by a process that died, and each is found where it is:

* records with something owed still: in the journal, under owners whose lease has expired;
* prepared branches that no record speaks of: at the participants. Their abort is presumed, by rule, and is written
  first, so that an owner who was only paused finds it and adopts it;
* open transactions on a dead owner's ids: by the ids' rows. They are aborted once no record names them.

The order matters: an owner's term is bumped before its records are read, and those are read before its ids are touched.
The first asks the journal alone, and the others are each participant's own: one that hangs, or that raises whatever it
likes, keeps neither the transactions nor the sagas of a dead process from going on, nor other participants from a look.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from coordinator import limits
from coordinator.alerts import AlertKind
from coordinator.engine.driver import Driver
from coordinator.engine.failover import Failover
from coordinator.engine.ownership import Ownership
from coordinator.engine.performer import UNKNOWN
from coordinator.engine.run import Participants, resume
from coordinator.engine.sweep import Sweep
from coordinator.engine.timers import is_cancelled
from coordinator.errors import CoordinatorError
from coordinator.ports import Adopted, Journal, OwnsIds, Standing, TransactionalIds
from coordinator.protocol.model import BranchName

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Recovery:
    """Looks at what is left, to be repeated for ever."""

    participants: Participants
    journal: Journal
    ids: TransactionalIds
    ownership: Ownership
    driver: Driver
    sweep: Sweep
    failover: Failover
    recovered: int = 0
    _dead: Sequence[str] = ()
    """Owners that this process has taken over, and whose records it has read: only then may their ids be touched."""
    _failed_ids: dict[BranchName, dict[str, None]] = field(default_factory=dict)
    """Ids of dead owners at each participant that could not be settled; first the one that was tried longest ago."""

    async def once(self) -> None:
        """All of it, one after the other and to its end. (In a service, each participant has a loop of its own.)"""
        await self.take_over()
        await self.failover.look_at_journal()
        for name in self.participants:
            await self.look_at(name)

    async def take_over(self) -> None:
        """Take over from dead owners, and drive their transactions. No participant is waited for."""
        owners = self.ownership.owners
        dead = await owners.take_over(self.ownership.lease)
        adopted = await self.journal.adopt({*self.driver.runs, *self.driver.finisher.pending})
        self._dead = dead
        for found in adopted:
            if not found.set_aside:
                self._drive(found)
        for found in adopted:
            if found.set_aside:
                detail = f"adopted {found.record.adoptions} times, last from {found.owner}, and never finished"
                await self.sweep.alerts.raise_alert(found.record.gid, AlertKind.POISON, detail)
        for owner in dead:
            await owners.buried(owner)

    async def look_at(self, name: BranchName) -> None:
        """Find what a failover of one participant lost, and finish what stands prepared there, in that order."""
        await self.failover.look_at(name)
        participant = self.participants[name].participant
        if isinstance(participant, OwnsIds):
            await self._settle_ids(name, participant)
        await self.sweep.look_at(name)

    def _drive(self, found: Adopted) -> None:
        record = found.record
        run = resume(record)
        if record.standing is Standing.PARKED:
            logger.warning("%s was held for longer than it may be; it is rolled back", record.gid)
        logger.info("recovering %s (%s, %.1f s old) of owner %s", record.gid, record.standing, found.age_s, found.owner)
        self.recovered += 1
        self.driver.start(run)

    async def _settle_ids(self, name: BranchName, participant: OwnsIds) -> None:
        """Abort what is open on dead owners' ids. Those that an unfinished record names are not listed yet.

        What hangs is left after a while. The next look begins with others.
        """
        loop, until_s = asyncio.get_running_loop(), asyncio.get_running_loop().time() + limits.SWEEP_CALL_S
        failed = self._failed_ids.setdefault(name, {})
        try:
            async with asyncio.timeout_at(until_s):
                found = [each for owner in self._dead for cluster, each in await self.ids.of(owner) if cluster == name]
        except (CoordinatorError, *UNKNOWN) as failure:
            logger.warning("the ids of dead owners at %s are read later: %r", name, failure)
            return
        turns = {transactional_id: turn for turn, transactional_id in enumerate(failed)}
        for transactional_id in sorted(found, key=lambda each: turns.get(each, -1)):
            if loop.time() >= until_s:
                return
            failed.pop(transactional_id, None)
            try:
                async with asyncio.timeout_at(until_s):
                    await participant.settle_id(transactional_id)
                    await self.ids.release(name, transactional_id)
            except (Exception, asyncio.CancelledError) as failure:  # It is anybody's code, and will be asked again.
                if is_cancelled():
                    raise
                failed[transactional_id] = None
                logger.warning("id %s of a dead owner is not settled yet: %r", transactional_id, failure)
