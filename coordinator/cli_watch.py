"""`coordinator watch`: a live view of what is going on."""

import asyncio
import contextlib
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from coordinator import cli_output as out
from coordinator.errors import Unavailable
from coordinator.operating.ledger import Row, open_ledger

_ROWS = (
    ("commits a second", "commits_per_s"),
    ("roll-backs a second, of those recorded", "aborts_per_s"),
    ("being finished", "finishing"),
    ("in doubt: the last resource is asked", "intents"),
    ("parked: an operator decides", "parked"),
    ("age of the oldest of these, s", "oldest_s"),
    ("open alerts", "alerts"),
    ("outbox: ready to be delivered", "outbox_ready"),
    ("outbox: age of the oldest ready, s", "outbox_oldest_s"),
    ("outbox: waiting for an outcome", "outbox_waiting"),
    ("outbox: given up", "outbox_dead"),
    ("transactional ids", "ids"),
)
_OWNERS = ("owner", "term", "lease_s", "unfinished", "ids", "taken_by")


def watch(
    every_s: Annotated[
        float, typer.Option("--every", envvar="COORDINATOR_EVERY", min=0.1, help="Seconds between two looks.")
    ] = 1.0,
    looks: Annotated[
        int, typer.Option("--looks", envvar="COORDINATOR_LOOKS", min=0, help="End after so many; 0 is never.")
    ] = 0,
    journal: out.JournalOption = "",
    output: out.OutputOption = out.Output.TABLE,
) -> None:
    """Watch rates, what is in doubt, the outbox's lag, and the owners. With --output json: one line for each look.

    Example:

        coordinator watch --every 2
    """
    url = out.journal_url(journal)
    with contextlib.suppress(KeyboardInterrupt):
        out.run(lambda: _watch(url, every_s, looks, output))


async def _watch(url: str, every_s: float, looks: int, output: out.Output) -> None:
    console = Console()
    live = Live(console=console, auto_refresh=False) if output is out.Output.TABLE else None
    with live or contextlib.nullcontext():
        number = 0
        while True:
            seen = await _look(url)
            if live is None:
                typer.echo(out.as_line(seen))
            else:
                live.update(_view(seen), refresh=True)
            number += 1
            if number == looks:
                return
            await asyncio.sleep(every_s)


async def _look(url: str) -> dict[str, Any]:
    """One look. A database that is away for a moment is part of what is to be seen, not the end of watching."""
    try:
        async with open_ledger(url) as ledger:
            return {"pulse": await ledger.pulse(), "owners": await ledger.owners(), "problem": None}
    except Unavailable as failure:
        return {"pulse": None, "owners": [], "problem": str(failure)}


def _view(seen: dict[str, Any]) -> Group:
    if seen["pulse"] is None:
        return Group(Text(seen["problem"], style="red"))
    return Group(_pulse(seen["pulse"]), _owners(seen["owners"]))


def _pulse(pulse: Row) -> Table:
    table = Table(show_header=False, box=None)
    table.add_column()
    table.add_column(justify="right")
    for label, name in _ROWS:
        bad = name in ("parked", "alerts", "outbox_dead") and pulse[name]
        table.add_row(label, Text(out.words(pulse[name]), style="red" if bad else ""))
    return table


def _owners(owners: list[Row]) -> Table:
    table = Table(header_style="bold", title="owners", title_justify="left")
    for column in _OWNERS:
        table.add_column(column.replace("_", " "))
    for owner in owners:
        dead = owner["lease_s"] is None or owner["lease_s"] <= 0
        cells = (Text("ended" if dead and name == "lease_s" else out.words(owner[name])) for name in _OWNERS)
        table.add_row(*cells, style="dim" if dead else "")
    return table
