"""Prepared branches that no record speaks of: finding them, for ever, and presuming their abort by rule.

Absence of a record means abort only if (1) the id was issued by us, (2) it is older than any owner may take to decide,
(3) it is younger than the journal's memory, which a failover or a restored backup of its database may have cut short,
(4) two looks some time apart agree, and (5) whoever presumes writes it first, and obeys what stands. Without (5) an
owner that was only paused would still decide commit.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Literal

from coordinator import limits
from coordinator.alerts import of_ending
from coordinator.engine.driver import Driver
from coordinator.engine.run import Participants, resume
from coordinator.engine.timers import is_cancelled
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


@dataclass(slots=True)
class _Known:
    """What is remembered of one participant from one look to the next."""

    failure: type[BaseException] | None = None
    """What it raised instead of an answer."""
    first_seen_s: dict[Gid, float] = field(default_factory=dict)
    failures: dict[Gid, type[BaseException]] = field(default_factory=dict)
    """What each branch raised that could not be finished; first the one that was tried longest ago."""

    def forget_all_but(self, seen: Container[Gid]) -> None:
        """What is not prepared any more is finished."""
        self.first_seen_s = {gid: at_s for gid, at_s in self.first_seen_s.items() if gid in seen}
        self.failures = {gid: failure for gid, failure in self.failures.items() if gid in seen}


@dataclass(slots=True, kw_only=True)
class Sweep:
    """Looks at participants for prepared branches of ours, and finishes those whose outcome stands."""

    participants: Participants
    journal: Journal
    driver: Driver
    alerts: Alerts
    clock: Clock
    rule: PresumeAbort = field(default_factory=PresumeAbort)
    presumed: int = 0
    in_doubt: dict[BranchName, tuple[int, float]] = field(default_factory=dict)
    """What the last look at each participant found prepared: how many, and how old the oldest was, in seconds."""
    _known: defaultdict[BranchName, _Known] = field(default_factory=lambda: defaultdict(_Known))

    async def look_at(self, name: BranchName) -> None:
        """One look at one participant. Whatever it raises is told when it is new; it harms no other look.

        Transactions that are being driven here are left alone.
        """
        participant, known = self.participants[name].participant, self._known[name]
        try:
            async with asyncio.timeout(limits.SWEEP_CALL_S):
                found = await participant.in_doubt()
            self.in_doubt[name] = (len(found), max((doubtful.age_s for doubtful in found), default=0.0))
        except (Exception, asyncio.CancelledError) as failure:  # It is anybody's code, and will be asked again.
            if is_cancelled():
                raise
            if known.failure is not type(failure):
                logger.warning("%s cannot be swept, and is asked again and again: %r", name, failure)
            known.failure = type(failure)
            return
        known.failure = None
        known.forget_all_but({doubtful.prepared.gid for doubtful in found})
        decided = []
        for doubtful in found:
            gid = doubtful.prepared.gid
            try:
                if gid not in self.driver.driving and (record := await self._look_at(participant, doubtful)):
                    decided.append(record)
            except (Exception, asyncio.CancelledError) as failure:  # Whatever is wrong with one branch stops no other.
                if is_cancelled():
                    raise
                self._later(name, gid, failure)
        turns = {gid: turn for turn, gid in enumerate(known.failures)}
        decided.sort(key=lambda record: turns.get(record.gid, -1))
        for start in range(0, len(decided), limits.SWEEP_TOGETHER_MAX):
            together = decided[start : start + limits.SWEEP_TOGETHER_MAX]
            if not any(await asyncio.gather(*(self._obeyed(participant, record) for record in together))):
                return  # It answers nothing now, or these are stuck: the next look begins with the others.

    async def _look_at(self, participant: Participant, doubtful: Doubtful) -> Record | None:
        """What stands about a branch and is to be obeyed; its abort is presumed where nothing does."""
        gid = doubtful.prepared.gid
        record = await self.journal.look_up(gid)
        if record is not None:  # One that was adopted too often is set aside, and recovery sees to it.
            return record if record.adoptions <= limits.ADOPTIONS_MAX else None
        if not await self._presumable(doubtful):
            return None
        record = _presumed_abort(doubtful)
        stands = await self.journal.decide(record)
        logger.warning("%s has no record; its abort was presumed, and what stands is %s", gid, stands)
        if stands is not Standing.ABORT:
            return await self._look_at(participant, doubtful)
        self.presumed += 1
        self.driver.start(resume(await self.journal.look_up(gid) or record))  # Its owner may have written it.
        return None

    async def _obeyed(self, participant: Participant, record: Record) -> bool:
        """Whether *participant* did as was decided, or said how it had ended otherwise."""
        if record.gid in self.driver.driving:  # Since it was looked up.
            return True
        try:
            async with asyncio.timeout(limits.SWEEP_CALL_S):
                await self._obey(participant, record)
        except (Exception, asyncio.CancelledError) as failure:  # As in `look_at`.
            if is_cancelled():
                raise
            self._later(participant.name, record.gid, failure)
            return False
        return True

    def _later(self, name: BranchName, gid: Gid, failure: BaseException) -> None:
        failures = self._known[name].failures
        if failures.pop(gid, None) is not type(failure):
            logger.warning("%s of %s is swept again later: %r", name, gid, failure)
        failures[gid] = type(failure)

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
        first_s = self._known[prepared.branch].first_seen_s.setdefault(prepared.gid, now_s)
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
