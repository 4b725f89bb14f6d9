"""What is in doubt, and what will become of it: branches that are prepared at a participant, and undecided records.

The participants are asked first, and then the journal: what was decided in between is not shown as undecided.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime

from coordinator import limits
from coordinator.errors import CoordinatorError, Unavailable
from coordinator.gids import issued_at
from coordinator.operating.ledger import Ledger, Row
from coordinator.operating.parties import Party
from coordinator.operating.story import recorded
from coordinator.ports import Doubtful, Participant
from coordinator.protocol.model import BranchName, Gid, Prepared
from coordinator.settings import Settings
from participants import Kafka, Postgres

_UNNAMED = "cannot be asked: only a record names its transactional id (`coordinator pool` shows which are open)"


@dataclass(slots=True, kw_only=True)
class InDoubt:
    """One transaction in doubt: its branches as their participants have them, and what the journal says."""

    gid: Gid
    record: Row | None = None
    """The journal's row, if there is one."""
    doubtful: dict[BranchName, Doubtful] = field(default_factory=dict)
    """Branches that were found prepared."""
    evidence: dict[str, str] = field(default_factory=dict)
    """What each participant that was asked says about its branch."""
    prospect: str = ""
    """What becomes of it if nobody does anything."""


async def found(
    ledger: Ledger, parties: Mapping[BranchName, Party], settings: Settings, now: datetime
) -> list[InDoubt]:
    """Everything that is in doubt now, the oldest first; *parties* are opened already."""
    listed = await asyncio.gather(*(_listed(name, party) for name, party in parties.items()))
    by_gid: dict[Gid, InDoubt] = {}
    for doubtful in (one for many in listed for one in many):
        gid = doubtful.prepared.gid
        by_gid.setdefault(gid, InDoubt(gid=gid)).doubtful[doubtful.prepared.branch] = doubtful
    for row in await ledger.undecided(by_gid):
        by_gid.setdefault(row["gid"], InDoubt(gid=row["gid"])).record = row
    for one in by_gid.values():
        one.prospect = prospect(one.gid, one.record, settings, now)
    return sorted(by_gid.values(), key=lambda one: issued_at(one.gid))


async def probed(one: InDoubt, parties: Mapping[BranchName, Party]) -> None:
    """Ask the participant of every branch of *one*; what it says (or that it does not) is in its evidence then.

    Without a record nobody knows which branches there were, so all of *parties* are asked: one that has the marker of
    a commit says more than anybody else.
    """
    branches = {name: doubtful.prepared for name, doubtful in one.doubtful.items()}
    if one.record is not None:
        record = recorded(one.record)
        branches |= {
            name: Prepared(gid=one.gid, branch=name, evidence=record.evidence.get(name, {})) for name in record.branches
        }
    else:
        branches = {name: Prepared(gid=one.gid, branch=name, evidence={}) for name in parties} | branches
    for name, prepared in branches.items():
        party = parties.get(name)
        if party is None:
            one.evidence[name] = "not asked: this command was given no participant of that name"
            continue
        if one.record is None and isinstance(party, Kafka):
            one.evidence[name] = _UNNAMED
            continue
        try:
            one.evidence[name] = await party.probe(prepared)
        except (CoordinatorError, OSError, TimeoutError) as failure:
            one.evidence[name] = f"does not answer: {failure}"


def prospect(gid: Gid, record: Row | None, settings: Settings, now: datetime) -> str:
    """What becomes of a transaction that is in doubt, by the rules that the engine follows."""
    if record is None:
        age_s = (now - issued_at(gid)).total_seconds()
        if age_s > limits.JOURNAL_RETENTION_S:
            return "an operator decides: it is older than the journal's memory"
        if age_s < settings.presume_abort_after_s:
            return "its owner decides it"
        return "its abort is presumed at the next sweeps"
    match record["standing"]:
        case "parked":
            return "an operator decides: it is parked"
        case "intent":
            return "the last resource is asked until it answers"
        case standing:
            return f"{standing} is decided; a running coordinator carries it out"


@asynccontextmanager
async def opened(parties: Mapping[BranchName, Party], *, prefix: str) -> AsyncIterator[Mapping[BranchName, Party]]:
    """*parties*, with connections to their databases (brokers connect when asked), which list what *prefix* begins."""
    try:
        for party in parties.values():
            if isinstance(party, Postgres):
                party.prefix = prefix
                await party.open()
        yield parties
    finally:
        for party in parties.values():
            await party.close()


async def _listed(name: BranchName, party: Participant) -> Sequence[Doubtful]:
    try:
        return await party.in_doubt()
    except (OSError, TimeoutError) as failure:
        raise Unavailable(f"{name} does not answer: {failure!r}", participant=name) from failure
