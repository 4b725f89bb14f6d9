"""`coordinator in-doubt`: prepared branches and undecided records, what becomes of them, and an operator's word."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Annotated

import typer

from coordinator import cli_output as out
from coordinator.bootstrap import SystemClock
from coordinator.cli_transactions import watch_until_done
from coordinator.errors import InDoubt as LastResourceDecides
from coordinator.errors import Refused
from coordinator.operating import desk
from coordinator.operating.in_doubt import InDoubt, found, opened, probed
from coordinator.operating.ledger import Ledger, open_ledger
from coordinator.operating.parties import Party, parties
from coordinator.protocol.model import BranchName, Outcome
from coordinator.settings import ParticipantSettings

app = typer.Typer(
    no_args_is_help=True,
    help="Transactions in doubt: what is prepared where, what becomes of it, and deciding what the rules leave to you.",
)

Gid = Annotated[str, typer.Argument(metavar="GID", help="The transaction's id.", show_default=False)]
WaitOption = Annotated[
    float, typer.Option("--wait", envvar="COORDINATOR_WAIT", help="For how many seconds to watch it carried out.")
]


@app.command("list")
def list_(
    participant: out.ParticipantsOption = [],  # noqa: B006 - typer copies it.
    journal: out.JournalOption = "",
    output: out.OutputOption = out.Output.TABLE,
) -> None:
    """List what is prepared at the participants, and the intents and parked transactions of the journal.

    Example:

        coordinator in-doubt list --participant db=postgresql://localhost/app
    """
    url, given = out.journal_url(journal), out.participants(participant)
    clock = SystemClock()
    rows = [
        {
            "gid": one.gid,
            "prepared_at": sorted(one.doubtful),
            "age_s": max((doubtful.age_s for doubtful in one.doubtful.values()), default=None),
            "journal": one.record["standing"] if one.record else "no record",
            "prospect": one.prospect,
        }
        for one in out.run(lambda: _find(url, given, clock))
    ]
    out.show(rows, ("gid", "prepared_at", "age_s", "journal", "prospect"), output, nothing="nothing is in doubt")
    out.warn_of_no_participants(given)


@app.command()
def commit(
    gid: Gid,
    reason: out.ReasonOption = "",
    by: out.ByOption = "",
    yes: out.YesOption = False,
    wait_s: WaitOption = 15.0,
    participant: out.ParticipantsOption = [],  # noqa: B006
    journal: out.JournalOption = "",
) -> None:
    """Decide that a transaction in doubt commits, after every participant was asked about its branch.

    Example:

        coordinator in-doubt commit unan:01JD3Q9V2K8RZ6W0X5C7T4M1NB --reason "ops-123: events were delivered by hand"
    """
    _decide(gid, Outcome.COMMIT, out.reasoned(reason), out.operator(by), yes, wait_s, participant, journal)


@app.command()
def abort(
    gid: Gid,
    reason: out.ReasonOption = "",
    by: out.ByOption = "",
    yes: out.YesOption = False,
    wait_s: WaitOption = 15.0,
    participant: out.ParticipantsOption = [],  # noqa: B006
    journal: out.JournalOption = "",
) -> None:
    """Decide that a transaction in doubt is rolled back, after every participant was asked about its branch.

    Example:

        coordinator in-doubt abort unan:01JD3Q9V2K8RZ6W0X5C7T4M1NB --reason "ops-124: its owner is gone for good"
    """
    _decide(gid, Outcome.ABORT, out.reasoned(reason), out.operator(by), yes, wait_s, participant, journal)


def _decide(
    gid: str, outcome: Outcome, reason: str, by: str, yes: bool, wait_s: float, participant: list[str], journal: str
) -> None:
    url, given = out.journal_url(journal), out.participants(participant)
    clock = SystemClock()
    one = out.run(lambda: _evidence(url, given, gid, clock))
    typer.echo(f"{gid}: {one.prospect}")
    for name, says in one.evidence.items():
        typer.echo(f"  {name}: {says}")
    out.run(lambda: _refuse_decided(one))
    out.confirm(f"{outcome} {gid}?", yes=yes)

    async def say() -> None:
        if one.record is not None:
            await desk.resolve(url, gid, outcome, by=by, reason=reason)
        else:
            await desk.decide_doubtful(url, one.doubtful, outcome, by=by, reason=reason, clock=clock)

    out.run(say)
    out.err.print(f"{gid}: {outcome} is decided", markup=False, highlight=False)
    watch_until_done(url, gid, wait_s)


@asynccontextmanager
async def _asked(ledger: Ledger, given: Mapping[str, ParticipantSettings]) -> AsyncIterator[Mapping[BranchName, Party]]:
    prefix = out.settings().prefix or await ledger.prefix()
    async with opened(parties(given), prefix=prefix) as asked:
        yield asked


async def _find(url: str, given: Mapping[str, ParticipantSettings], clock: SystemClock) -> list[InDoubt]:
    async with open_ledger(url) as ledger, _asked(ledger, given) as asked:
        return await found(ledger, asked, out.settings(), clock.now())


async def _evidence(url: str, given: Mapping[str, ParticipantSettings], gid: str, clock: SystemClock) -> InDoubt:
    async with open_ledger(url) as ledger, _asked(ledger, given) as asked:
        for one in await found(ledger, asked, out.settings(), clock.now()):
            if one.gid == gid:
                await probed(one, asked)
                return one
    raise Refused(f"{gid} is not in doubt: `coordinator transactions show {gid}` tells what became of it", gid=gid)


async def _refuse_decided(one: InDoubt) -> None:
    standing = one.record["standing"] if one.record else ""
    if standing == "intent":
        raise LastResourceDecides(f"{one.gid} is the last resource's to decide, and it is still asked", gid=one.gid)
    if standing in ("commit", "abort"):
        raise Refused(f"{one.gid} is decided already ({standing}); a running coordinator carries it out", gid=one.gid)
