"""Finishing what others left: load the state, and run the ordinary loop.

Three things can be left behind by a process that died, and each is found where it is:

* records with something owed still: in the journal, under owners whose lease has expired;
* prepared branches that no record speaks of: at the participants. Their abort is presumed, by rule, and is written
  first, so that an owner who was only paused finds it and adopts it;
* open transactions on a dead owner's ids: by the ids' rows. They are aborted once no record names them.

The order matters: an owner's term is bumped before its records are read, and those are read before its ids are touched.
"""

import logging
from dataclasses import dataclass

from coordinator.alerts import AlertKind
from coordinator.engine.driver import Driver
from coordinator.engine.failover import Failover
from coordinator.engine.ownership import Ownership
from coordinator.engine.performer import UNKNOWN
from coordinator.engine.run import Participants, resume
from coordinator.engine.sweep import Sweep
from coordinator.errors import Refused, Unavailable
from coordinator.ports import Adopted, Journal, OwnsIds, Standing, TransactionalIds
from coordinator.protocol.model import BranchName

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Recovery:
    """One look at what is left, to be repeated for ever."""

    participants: Participants
    journal: Journal
    ids: TransactionalIds
    ownership: Ownership
    driver: Driver
    sweep: Sweep
    failover: Failover
    recovered: int = 0

    async def once(self) -> None:
        """Take over from dead owners, drive their transactions, settle their ids, and look at the participants."""
        dead = await self.ownership.owners.take_over(self.ownership.lease)
        adopted = await self.journal.adopt({*self.driver.runs, *self.driver.finisher.pending})
        for found in adopted:
            if not found.set_aside:
                self._drive(found)
        for found in adopted:
            if found.set_aside:
                detail = f"adopted {found.record.adoptions} times, last from {found.owner}, and never finished"
                await self.sweep.alerts.raise_alert(found.record.gid, AlertKind.POISON, detail)
        for owner in dead:
            await self._settle_ids(owner)
        await self.failover.once()
        await self.sweep.once(busy=self.driver.driving.keys())

    def _drive(self, found: Adopted) -> None:
        record = found.record
        run = resume(record)
        if record.standing is Standing.PARKED:
            logger.warning("%s was held for longer than it may be; it is rolled back", record.gid)
        logger.info("recovering %s (%s, %.1f s old) of owner %s", record.gid, record.standing, found.age_s, found.owner)
        self.recovered += 1
        self.driver.start(run)

    async def _settle_ids(self, owner: str) -> None:
        """Abort what is open on a dead owner's ids. Those that an unfinished record names are not listed yet."""
        left = False
        for cluster, transactional_id in await self.ids.of(owner):
            registered = self.participants.get(BranchName(cluster))
            if registered is None:
                left = True
                continue
            participant = registered.participant
            assert isinstance(participant, OwnsIds), f"{cluster} has ids, but cannot settle them"
            try:
                await participant.settle_id(transactional_id)
                await self.ids.release(cluster, transactional_id)
            except (Refused, Unavailable, *UNKNOWN) as failure:
                logger.warning("id %s of dead owner %s is not settled yet: %r", transactional_id, owner, failure)
                left = True
        if not left:
            await self.ownership.owners.buried(owner)
