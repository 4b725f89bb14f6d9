"""`coordinator transactions`: which there are, the story of one, and an operator's word on one that waits for it."""

from typing import Annotated, Any

import typer
from rich.console import Console

from coordinator import cli_output as out
from coordinator.operating import desk, story
from coordinator.operating.ledger import STATES, Row, open_ledger
from coordinator.protocol.model import Outcome

app = typer.Typer(no_args_is_help=True, help="Transactions in the journal: list them, read one's story, resolve one.")

Gid = Annotated[str, typer.Argument(metavar="GID", help="The transaction's id, as in unan:01J…", show_default=False)]
_COLUMNS = ("gid", "name", "recipe", "state", "age_s", "owner", "owner_lives", "owed", "alerts")


@app.command("list")
def list_(
    state: Annotated[
        str,
        typer.Option(
            envvar="COORDINATOR_STATE", help=f"One of: {', '.join(STATES)}.", autocompletion=lambda: list(STATES)
        ),
    ] = "unfinished",
    name: Annotated[str, typer.Option(envvar="COORDINATOR_NAME", help="Only transactions of this name.")] = "",
    limit: Annotated[int, typer.Option(envvar="COORDINATOR_LIMIT", min=1, help="At most so many.")] = 50,
    journal: out.JournalOption = "",
    output: out.OutputOption = out.Output.TABLE,
) -> None:
    """List transactions: by default those of which something is still owed, the oldest first.

    Example:

        coordinator transactions list --state parked
    """
    if state not in STATES:
        raise typer.BadParameter(f"{state!r} is none of {', '.join(STATES)}", param_hint="--state")
    url = out.journal_url(journal)

    async def look() -> list[Row]:
        async with open_ledger(url) as ledger:
            return await ledger.transactions(state, name=name, limit=limit)

    rows = [row | {"state": story.state(row), "owed": story.owed_now(row)} for row in out.run(look)]
    out.show(rows, _COLUMNS, output, nothing=f"no transaction is {state}" if state != "all" else "the journal is empty")


@app.command()
def show(gid: Gid, journal: out.JournalOption = "", output: out.OutputOption = out.Output.TABLE) -> None:
    """Tell one transaction as a story: what was decided when and by whom, what is owed, what was tried and answered.

    Example:

        coordinator transactions show unan:01JD3Q9V2K8RZ6W0X5C7T4M1NB
    """
    url = out.journal_url(journal)

    async def look() -> Row:
        async with open_ledger(url) as ledger:
            return await ledger.transaction(gid)

    row = out.run(look)
    lines = story.tell(row)
    if output is out.Output.JSON:
        told: list[dict[str, Any]] = [{"at": line.at, "what": line.what} for line in lines]
        typer.echo(out.as_json(row | {"state": story.state(row), "owed": story.owed_now(row), "story": told}))
        return
    console = Console(highlight=False, soft_wrap=True)
    for line in lines:
        at = line.at.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] if line.at else ""
        console.print(f"{at:<23}  {line.what}", markup=False)


@app.command()
def resolve(
    gid: Gid,
    outcome: Annotated[Outcome, typer.Argument(help="What is to happen.", show_default=False)],
    reason: out.ReasonOption = "",
    by: out.ByOption = "",
    yes: out.YesOption = False,
    wait_s: Annotated[
        float, typer.Option("--wait", envvar="COORDINATOR_WAIT", help="For how many seconds to watch it carried out.")
    ] = 15.0,
    journal: out.JournalOption = "",
) -> None:
    """Decide a parked transaction; who decided and why is recorded. A running coordinator carries it out.

    Example:

        coordinator transactions resolve unan:01JD3Q9V2K8RZ6W0X5C7T4M1NB commit --reason "ops-123: broker is back"
    """
    url, why, who = out.journal_url(journal), out.reasoned(reason), out.operator(by)
    show(gid, journal=url, output=out.Output.TABLE)
    out.confirm(f"{outcome} {gid}?", yes=yes)
    out.run(lambda: desk.resolve(url, gid, outcome, by=who, reason=why))
    out.err.print(f"{gid}: {outcome} is decided", markup=False, highlight=False)
    watch_until_done(url, gid, wait_s)


def watch_until_done(url: str, gid: str, wait_s: float) -> None:
    """Wait until a coordinator has carried the decision out, and say so; or that none has yet."""
    done = out.run(lambda: desk.wait_until_done(url, gid, within_s=wait_s))
    if done:
        out.err.print("it has been carried out", highlight=False)
    else:
        out.err.print(
            "it is not carried out yet: a running coordinator that has its participants does so within seconds, and "
            "one that is started later does too",
            highlight=False,
            soft_wrap=True,
        )
