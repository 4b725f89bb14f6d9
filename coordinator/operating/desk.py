"""An operator's word: written into the journal, with who said it and why, and carried out by whoever runs.

The desk is an owner like any other process, for a moment. It writes one decision, first insert wins as everywhere, and
resigns; a running coordinator takes its records over within a recovery period and drives them as it drives all others.
So there is one way to move a transaction, and a command that is killed in between leaves nothing that is not found.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from coordinator.alerts import AlertKind
from coordinator.errors import InDoubt, Refused
from coordinator.gids import issued_at, valid_gid
from coordinator.operating.ledger import open_ledger
from coordinator.operating.sagas import parked_at
from coordinator.ports import Clock, Doubtful, Record, Standing
from coordinator.protocol.model import Branch, BranchName, Gid, Outcome, Recipe, Role, Vote
from coordinator.settings import Settings, load
from coordinator.stores import Stores, open_stores

_LOOK_EVERY_S = 0.2


@asynccontextmanager
async def _as_owner(url: str, settings: Settings) -> AsyncIterator[Stores]:
    async with open_stores(url, settings) as stores:
        lease = await stores.owners.register()
        try:
            yield stores
        finally:
            await stores.owners.resign(lease)


async def resolve(url: str, gid: str, outcome: Outcome, *, by: str, reason: str) -> None:
    """Decide a parked transaction. Returns once it is durable.

    Raises `Refused` where another decision stands or nothing is known, `InDoubt` where the last resource decides.
    """
    async with _as_owner(url, load()) as stores:
        record = await stores.journal.look_up(valid_gid(gid))
        if record is None:
            raise Refused(f"the journal has no record of {gid}: `coordinator in-doubt list` shows what is prepared")
        _refuse_decided(record, outcome)
        await _say(stores, Gid(gid), f"resolve {outcome}", by, reason)
        stands = await stores.journal.conclude(Gid(gid), Standing(outcome), reason=f"{by}: {reason}")
        if stands is not Standing(outcome):
            raise Refused(f"{gid} was decided at the same moment: {stands}", gid=gid)
        await stores.alerts.resolve_alert(Gid(gid), AlertKind.PARKED, by=by, reason=reason)


async def decide_doubtful(
    url: str, doubtful: Mapping[BranchName, Doubtful], outcome: Outcome, *, by: str, reason: str, clock: Clock
) -> None:
    """Decide a transaction of which nothing is left but prepared branches, by name in *doubtful*.

    Raises `Refused` while its owner may still decide it, and where another decision stands.
    """
    settings = load()
    gid = next(iter(doubtful.values())).prepared.gid
    age_s = (clock.now() - issued_at(gid)).total_seconds()
    if age_s < settings.presume_abort_after_s:
        wait_s = settings.presume_abort_after_s - age_s
        raise Refused(
            f"{gid} is {age_s:.0f} s old: its owner may still decide it; ask again in {wait_s:.0f} s", gid=gid
        )
    async with _as_owner(url, settings) as stores:
        record = Record(
            gid=gid,
            name="(by an operator)",
            recipe=Recipe.TWO_PHASE,
            standing=Standing(outcome),
            branches={name: Branch(name=name, role=Role.PREPARED) for name in doubtful},
            votes=dict.fromkeys(doubtful, Vote.YES),
            evidence={name: found.prepared.evidence for name, found in doubtful.items()},
            reason=f"{by}: {reason}",
            reigns=2,  # Whoever carries it out takes over from the owner that left it.
        )
        await _say(stores, gid, f"in-doubt {outcome}", by, reason)
        stands = await stores.journal.decide(record)
        if stands is not Standing(outcome):
            raise Refused(f"{gid} is decided already: {stands}", gid=gid)


async def resolve_alert(url: str, gid: str, kind: str, *, by: str, reason: str) -> None:
    """Say that an alert has been seen to. Raises `Refused` where no such alert is open, or its saga is still parked."""
    if kind == AlertKind.PARKED_SAGA:
        await _refuse_parked(url, gid)
    async with open_stores(url, load()) as stores:
        if not await stores.alerts.resolve_alert(Gid(gid), kind, by=by, reason=reason):
            raise Refused(f"there is no open alert {kind!r} about {gid}: `coordinator alerts list` shows them", gid=gid)


async def note(url: str, *, by: str, action: str, reason: str, details: Mapping[str, str]) -> None:
    """Keep in the audit what an operator does elsewhere: *details* by gid, so that each story tells its own."""
    async with open_stores(url, load()) as stores:
        for gid, detail in details.items():
            await stores.alerts.audit(actor=by, action=action, gid=Gid(gid), reason=reason, detail=detail)


async def wait_until_done(url: str, gid: str, *, within_s: float) -> bool:
    """Whether a coordinator has carried *gid* out within this many seconds."""
    until_s = asyncio.get_running_loop().time() + within_s
    async with open_ledger(url) as ledger:
        while (await ledger.transaction(gid))["done_at"] is None:
            if asyncio.get_running_loop().time() > until_s:
                return False
            await asyncio.sleep(_LOOK_EVERY_S)
    return True


async def _say(stores: Stores, gid: Gid, action: str, by: str, reason: str) -> None:
    """Before it is done: an act without a trace must be impossible, a trace without its act is only a question."""
    await stores.alerts.audit(actor=by, action=action, gid=gid, reason=reason)


async def _refuse_parked(url: str, gid: str) -> None:
    """As long as a saga is parked, its alert is open: a word to the saga closes both."""
    async with open_ledger(url, "journal", "sagas") as ledger:
        try:
            step = parked_at(await ledger.saga(gid))
        except Refused:
            return  # It is forgotten: the alert is all that is left of it.
    if step is not None:
        raise Refused(
            f"{gid} is still parked at {step!r}: resume, skip or cancel it (`coordinator sagas`), and its alert is "
            "closed with that",
            gid=gid,
        )


def _refuse_decided(record: Record, outcome: Outcome) -> None:
    match record.standing:
        case Standing.PARKED:
            return
        case Standing.INTENT:
            raise InDoubt(
                f"{record.gid} is the last resource's to decide, and it is still asked "
                "(`coordinator transactions show`)",
                gid=record.gid,
            )
        case stands if stands == Standing(outcome):
            raise Refused(f"{record.gid} is decided so already: nothing is to be done", gid=record.gid)
        case stands:
            raise Refused(f"{record.gid} is decided already: {stands}. A decision never changes", gid=record.gid)
