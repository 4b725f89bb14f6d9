"""`coordinator alerts`: what an operator has to see to."""

from typing import Annotated

import typer

from coordinator import cli_output as out
from coordinator.operating import desk
from coordinator.operating.ledger import Row, open_ledger

app = typer.Typer(no_args_is_help=True, help="Alerts: what an operator has to see to, one per transaction and kind.")


@app.command("list")
def list_(
    every: Annotated[
        bool,
        typer.Option("--all", envvar="COORDINATOR_ALL", help="Those too that were resolved, with who did so and how."),
    ] = False,
    journal: out.JournalOption = "",
    output: out.OutputOption = out.Output.TABLE,
) -> None:
    """List the alerts that are open. Exits with 1 where there are any. Example:

    coordinator alerts list
    """
    url = out.journal_url(journal)

    async def look() -> list[Row]:
        async with open_ledger(url) as ledger:
            return await ledger.alerts(resolved=every)

    rows = out.run(look)
    columns = ("gid", "kind", "detail", "raised_at") + ("resolved_by", "resolution") * every
    out.show(rows, columns, output, nothing="there was never an alert" if every else "no alert is open")
    if any(row["resolved_at"] is None for row in rows):
        raise typer.Exit(out.REFUSED)


@app.command()
def resolve(
    gid: Annotated[str, typer.Argument(metavar="GID", help="The transaction's id.", show_default=False)],
    kind: Annotated[str, typer.Argument(help="The alert's kind, as `alerts list` shows it.", show_default=False)],
    reason: out.ReasonOption = "",
    by: out.ByOption = "",
    journal: out.JournalOption = "",
) -> None:
    """Say that an alert has been seen to, and how; it is kept with your name. Example:

    coordinator alerts resolve unan:01JD3Q9V2K8RZ6W0X5C7T4M1NB heuristic --reason "ops-127: refunded by hand"
    """
    url, why, who = out.journal_url(journal), out.reasoned(reason), out.operator(by)
    out.run(lambda: desk.resolve_alert(url, gid, kind, by=who, reason=why))
    out.err.print(f"{kind} of {gid} is resolved", markup=False, highlight=False)
