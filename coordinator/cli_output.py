"""What all operators' commands share: how they print, how they fail, and where they find the journal.

Data goes to stdout, as a table for people or JSON for programs; everything else goes to stderr. Exit codes: 0 it was
done, 1 it was refused, 2 the command was used wrongly, 3 a server did not answer and asking again can help, 4 nobody
knows yet whether it was done.
"""

import asyncio
import getpass
import json
import os
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from coordinator.errors import CoordinatorError, InDoubt, Unavailable
from coordinator.settings import ParticipantSettings, Settings, load

Result = TypeVar("Result")
err = Console(stderr=True)

REFUSED, UNAVAILABLE, UNKNOWN = 1, 3, 4
_WIDE = 1000


class Output(StrEnum):
    """How data is printed."""

    TABLE = "table"
    JSON = "json"


OutputOption = Annotated[
    Output, typer.Option("--output", "-o", envvar="COORDINATOR_OUTPUT", help="A table for people, JSON for programs.")
]
JournalOption = Annotated[
    str,
    typer.Option(
        "--journal",
        envvar=["COORDINATOR_JOURNAL", "COORDINATOR_POSTGRES_URL"],
        help="The URL of the database that holds the journal; else `journal` in coordinator.toml.",
        show_envvar=True,
    ),
]
ParticipantsOption = Annotated[
    list[str],
    typer.Option(
        "--participant",
        metavar="NAME=URL",
        help="db=postgresql://… or events=kafka://host:port; repeat it. Else `participants` in coordinator.toml, or "
        "COORDINATOR_PARTICIPANTS as JSON.",
    ),
]
ReasonOption = Annotated[
    str, typer.Option("--reason", envvar="COORDINATOR_REASON", help="Why; it is recorded with your name.")
]
ByOption = Annotated[
    str, typer.Option("--by", envvar="COORDINATOR_BY", help="Who decides; by default the user of this machine.")
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", envvar="COORDINATOR_YES", help="Do not ask before doing it.")]


def run(work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """Run *work*; an error of ours is said in one sentence, with an exit code for scripts."""
    try:
        return asyncio.run(work())
    except CoordinatorError as failure:
        err.print(str(failure), style="red", markup=False, highlight=False, soft_wrap=True)
        code = UNAVAILABLE if isinstance(failure, Unavailable) else UNKNOWN if isinstance(failure, InDoubt) else REFUSED
        raise typer.Exit(code) from None


def settings() -> Settings:
    """The settings of this directory and environment."""
    try:
        return load()
    except CoordinatorError as failure:
        err.print(str(failure), style="red", markup=False, soft_wrap=True)
        raise typer.Exit(REFUSED) from None


def journal_url(given: str) -> str:
    """The journal's URL, from the option, its variables, or the settings."""
    if given:
        return given
    configured = settings().journal
    if configured is None:
        raise typer.BadParameter("give --journal, or set COORDINATOR_JOURNAL", param_hint="--journal")
    return configured.get_secret_value()


def participants(given: Sequence[str]) -> dict[str, ParticipantSettings]:
    """The participants by name, from the option or the settings."""
    if not given:
        return settings().participants
    pairs = [pair.partition("=") for pair in given]
    if any(not separator or not url for _, separator, url in pairs):
        raise typer.BadParameter("write NAME=URL, as in db=postgresql://localhost/app", param_hint="--participant")
    return {name: ParticipantSettings.model_validate(url) for name, _, url in pairs}


def warn_of_no_participants(given: Mapping[str, ParticipantSettings]) -> None:
    """Say that only the journal was looked at, where nobody was there to be asked: else it would look like peace."""
    if not given:
        err.print(
            "no participant was asked: give --participant, or participants in coordinator.toml",
            style="yellow",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def show(rows: Sequence[Mapping[str, Any]], columns: Iterable[str], output: Output, *, nothing: str = "none") -> None:
    """Print *rows*: as a table of *columns*, or all of them as a JSON array."""
    if output is Output.JSON:
        typer.echo(as_json(rows))
        return
    if not rows:
        err.print(nothing)
        return
    console, names = page(), [*columns]
    cells = [[Text(words(row[name])) for name in names] for row in rows]
    table = Table(header_style="bold")
    for name in names:
        table.add_column(_heading(name), overflow="fold")
    for row_cells in cells:
        table.add_row(*row_cells)
    if console.measure(table, options=console.options.update(width=_WIDE)).maximum <= console.width:
        console.print(table)
        return
    for row_cells in cells:  # One below the other, where beside each other every cell would be folded.
        record = Table.grid(padding=(0, 2))
        for name, cell in zip(names, row_cells, strict=True):
            record.add_row(Text(_heading(name), style="bold"), cell)
        console.print(record)
        console.print()


def _heading(column: str) -> str:
    return column.replace("_", " ")


def page() -> Console:
    """Where tables are printed: as wide as they need where nobody looks (a pipe, a file), so that no line is folded."""
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _WIDE
    return console


def as_json(data: object) -> str:
    """JSON for programs; times are ISO 8601."""
    return json.dumps(data, indent=2, default=_plain)


def as_line(data: object) -> str:
    """The same on one line."""
    return json.dumps(data, default=_plain)


def words(value: object) -> str:
    """A value in a table's cell."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.1f}"
        case datetime():
            return value.strftime("%Y-%m-%d %H:%M:%S")
        case bytes():
            return value.decode("utf-8", "backslashreplace")
        case list():
            return ", ".join(words(item) for item in value)
    return str(value)


def reasoned(reason: str) -> str:
    """*reason*, which no change by an operator goes without."""
    if not reason.strip():
        raise typer.BadParameter("say why: it is recorded", param_hint="--reason")
    return reason.strip()


def operator(by: str) -> str:
    """Who decides: as given, else who is logged in."""
    try:
        return by or os.environ.get("SUDO_USER") or getpass.getuser()
    except (OSError, KeyError):
        raise typer.BadParameter("say who decides", param_hint="--by") from None


def confirm(question: str, *, yes: bool) -> None:
    """Ask before doing; without a terminal to ask on, only --yes will do."""
    if yes:
        return
    if not typer.confirm(question, err=True):
        err.print("nothing was done")
        raise typer.Exit(REFUSED)


def _plain(value: object) -> object:
    match value:
        case datetime():
            return value.isoformat()
        case bytes():
            return value.decode("utf-8", "backslashreplace")
    return str(value)
