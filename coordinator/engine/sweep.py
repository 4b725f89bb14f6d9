"""Prepared branches that no record speaks of: finding them, for ever, and presuming their abort by rule.

Absence of a record means abort only if (1) the id was issued by us, (2) it is older than any owner may take to decide,
(3) it is younger than the journal's memory, which a failover or a restored backup of its database may have cut short,
(4) two looks some time apart agree, and (5) whoever presumes writes it first, and obeys what stands. Without (5) an
owner that was only paused would still decide commit.
"""

import logging
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Literal

from coordinator import limits
from coordinator.alerts import of_ending
from coordinator.engine.driver import Driver
from coordinator.engine.performer import UNKNOWN
from coordinator.engine.run import Participants, resume
from coordinator.errors import CoordinatorError
from coordinator.gids import issued_at
from coordinator.ports import AlertKind, Alerts, Clock, Doubtful, Journal, Participant, Record, Standing
from coordinator.protocol.model import NO_EVIDENCE, Branch, BranchName, Ending, Gid, Prepared, Recipe, Role

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PresumeAbort:
    """When absence means abort, in seconds."""

    after_s: float = limits.PRESUME_ABORT_AFTER_S
    looks_apart_s: float = limits.PRESUME_ABORT_LOOKS_APART_S
    retention_s: float = limits.JOURNAL_RETENTION_S


@dataclass(slots=True, kw_only=True)
class Sweep:
    """Looks at every participant for prepared branches of ours, and finishes those whose outcome stands."""

    participants: Participants
    journal: Journal
    driver: Driver
    alerts: Alerts
    clock: Clock
    rule: PresumeAbort = field(default_factory=PresumeAbort)
    presumed: int = 0
    in_doubt: dict[BranchName, tuple[int, float]] = field(default_factory=dict)
    """What the last look at each participant found prepared: how many, and how old the oldest was, in seconds."""
    _first_seen_s: dict[tuple[Gid, BranchName], float] = field(default_factory=dict)

    async def once(self, *, busy: Container[Gid]) -> None:
        """One look. Transactions in *busy* are being driven here and are left alone."""
        seen: set[tuple[Gid, BranchName]] = set()
        for name, registered in self.participants.items():
            try:
                found = await registered.participant.in_doubt()
            except (CoordinatorError, *UNKNOWN) as failure:
                logger.warning("%s could not be swept: %r", name, failure)
                continue
            self.in_doubt[name] = (len(found), max((doubtful.age_s for doubtful in found), default=0.0))
            for doubtful in found:
                seen.add((doubtful.prepared.gid, name))
                if doubtful.prepared.gid in busy:
                    continue
                try:
                    await self._look_at(registered.participant, doubtful)
                except (CoordinatorError, *UNKNOWN) as failure:
                    logger.warning("%s of %s is swept again later: %r", name, doubtful.prepared.gid, failure)
        self._first_seen_s = {key: at for key, at in self._first_seen_s.items() if key in seen}

    async def _look_at(self, participant: Participant, doubtful: Doubtful) -> None:
        gid = doubtful.prepared.gid
        record = await self.journal.look_up(gid)
        if record is not None:
            if record.adoptions <= limits.ADOPTIONS_MAX:  # Or else it is set aside, and recovery sees to it.
                await self._obey(participant, record)
        elif await self._presumable(doubtful):
            record = _presumed_abort(doubtful)
            stands = await self.journal.decide(record)
            logger.warning("%s has no record; its abort was presumed, and what stands is %s", gid, stands)
            if stands is Standing.ABORT:
                self.presumed += 1
                self.driver.start(resume(await self.journal.look_up(gid) or record))  # Its owner may have written it.
            else:
                await self._look_at(participant, doubtful)

    async def _obey(self, participant: Participant, record: Record) -> None:
        """Do as was decided, also where it had been done: a failover brings back what was committed as prepared."""
        name = participant.name
        evidence = record.evidence.get(name, NO_EVIDENCE)
        prepared = Prepared(gid=record.gid, branch=name, evidence=evidence, term=record.reigns)
        match record.standing:
            case Standing.COMMIT:
                ending, wanted = await participant.commit(prepared), Ending.COMMITTED
            case Standing.ABORT:
                ending, wanted = await participant.abort(prepared), Ending.ABORTED
            case Standing.INTENT | Standing.PARKED:
                return  # Its owner, or whoever adopts it, is told by the last resource or by an operator.
        if ending is not wanted:
            detail = f"decided {record.standing}: {name} {ending}"
            await self.alerts.raise_alert(record.gid, of_ending(ending), detail)
            await self.journal.note_ending(record.gid, name, ending)

    async def _presumable(self, doubtful: Doubtful) -> bool:
        prepared, now_s = doubtful.prepared, self.clock.monotonic_s()
        issued = issued_at(prepared.gid)
        if (self.clock.now() - issued).total_seconds() > self.rule.retention_s:
            return await self._untold(prepared, "it is older than the journal's memory")
        since = await self.journal.remembers_since()
        if since is not None and (issued - since).total_seconds() < limits.CLOCKS_APART_S:
            return await self._untold(prepared, "it is older than the failover of the journal, which may have lost it")
        first_s = self._first_seen_s.setdefault((prepared.gid, prepared.branch), now_s)
        return doubtful.age_s >= self.rule.after_s and now_s - first_s >= self.rule.looks_apart_s

    async def _untold(self, prepared: Prepared, why: str) -> Literal[False]:
        detail = f"{prepared.branch} is prepared, and that no record speaks of it says nothing: {why}"
        await self.alerts.raise_alert(prepared.gid, AlertKind.OLDER_THAN_JOURNAL, detail)
        return False


def _presumed_abort(doubtful: Doubtful) -> Record:
    prepared = doubtful.prepared
    return Record(
        gid=prepared.gid,
        name="(presumed abort)",
        recipe=Recipe.TWO_PHASE,
        standing=Standing.ABORT,
        branches={prepared.branch: Branch(name=prepared.branch, role=Role.PREPARED)},
        evidence={prepared.branch: prepared.evidence},
        reason="no record speaks of it, and it is too old for its owner to decide still",
        reigns=2,  # It was tried, or prepared, by an owner that this one takes over from.
    )
