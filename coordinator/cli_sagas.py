"""`coordinator sagas`: which there are, the story of one, and an operator's word to it."""

from typing import Annotated, Any

import typer
from rich.console import Console

from coordinator import cli_output as out
from coordinator.engine.saga_signals import CANCEL, RESUME, RETRY, SKIP, WORDS
from coordinator.errors import Refused
from coordinator.operating import sagas
from coordinator.operating.ledger import Row, open_ledger

app = typer.Typer(no_args_is_help=True, help="Sagas: list them, read one's story, cancel, retry, resume, skip.")

Gid = Annotated[str, typer.Argument(metavar="GID", help="The saga's id, as in unan:01J…", show_default=False)]
_MOVES_WITHIN_S = 5.0
_SAID = "it is said; a running coordinator that has its definition hears it"
_TURNED = "it has turned back: what is being called settles first, and what was done is undone"
_STILL_TO_TURN = (
    f"{_SAID}. What is being called settles first; where that is its pivot, and it is done, the saga only goes "
    "forward: `coordinator sagas show` tells"
)
_COLUMNS = ("gid", "name", "key", "state", "steps", "age_s")


@app.command("list")
def list_(
    state: Annotated[
        str,
        typer.Option(
            envvar="COORDINATOR_STATE",
            help=f"One of: {', '.join(sagas.STATES)}.",
            autocompletion=lambda: list(sagas.STATES),
        ),
    ] = "unfinished",
    name: Annotated[str, typer.Option(envvar="COORDINATOR_NAME", help="Only sagas of this name.")] = "",
    limit: Annotated[int, typer.Option(envvar="COORDINATOR_LIMIT", min=1, help="At most so many.")] = 50,
    journal: out.JournalOption = "",
    output: out.OutputOption = out.Output.TABLE,
) -> None:
    """List sagas: by default those that have not ended. Stranded are those whose definition no live process has.

    Example:

        coordinator sagas list --state parked
    """
    if state not in sagas.STATES:
        raise typer.BadParameter(f"{state!r} is none of {', '.join(sagas.STATES)}", param_hint="--state")
    url = out.journal_url(journal)

    async def look() -> list[Row]:
        async with open_ledger(url, "journal", "sagas") as ledger:
            return list(await sagas.found(ledger, state, name=name, limit=limit))

    out.show(out.run(look), _COLUMNS, output, nothing=f"no saga is {state}" if state != "all" else "there are none")


@app.command()
def show(gid: Gid, journal: out.JournalOption = "", output: out.OutputOption = out.Output.TABLE) -> None:
    """Tell one saga as a story: what happened to each step and when, what it waits for, and who said what to it.

    Example:

        coordinator sagas show unan:01JD3Q9V2K8RZ6W0X5C7T4M1NB
    """
    row = _row(out.journal_url(journal), gid)
    lines = sagas.tell(row)
    if output is out.Output.JSON:
        told: list[dict[str, Any]] = [{"at": line.at, "what": line.what} for line in lines]
        typer.echo(out.as_json(row | {"state": sagas.state(row), "story": told}))
        return
    console = Console(highlight=False, soft_wrap=True)
    for line in lines:
        at = line.at.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] if line.at else ""
        console.print(f"{at:<23}  {line.what}", markup=False)


@app.command()
def cancel(
    gid: Gid,
    reason: out.ReasonOption = "",
    by: out.ByOption = "",
    yes: out.YesOption = False,
    journal: out.JournalOption = "",
) -> None:
    """Have a saga undone, unless its pivot is done. A step that is being called settles first; a parked one turns back.

    Example:

        coordinator sagas cancel unan:01JD3Q9V2K8RZ6W0X5C7T4M1NB --reason "the customer called"
    """
    _steer(gid, CANCEL, reason, by, yes, journal)


@app.command()
def retry(
    gid: Gid,
    reason: out.ReasonOption = "",
    by: out.ByOption = "",
    yes: out.YesOption = False,
    journal: out.JournalOption = "",
) -> None:
    """Have a saga try again now, instead of when the pause after its last failure is over. (Of a parked one: `resume`.)

    Example:

        coordinator sagas retry unan:01JD3Q9V2K8RZ6W0X5C7T4M1NB --reason "ops-124: the bank is back"
    """
    _steer(gid, RETRY, reason, by, yes, journal)


@app.command()
def resume(
    gid: Gid,
    reason: out.ReasonOption = "",
    by: out.ByOption = "",
    yes: out.YesOption = False,
    journal: out.JournalOption = "",
) -> None:
    """Let a parked saga try again what it is parked at, with all its attempts.

    Example:

        coordinator sagas resume unan:01JD3Q9V2K8RZ6W0X5C7T4M1NB --reason "ops-125: the bank is back"
    """
    _steer(gid, RESUME, reason, by, yes, journal)


@app.command()
def skip(
    gid: Gid,
    step: Annotated[str, typer.Argument(help="The step at which it is parked.", show_default=False)],
    reason: out.ReasonOption = "",
    by: out.ByOption = "",
    yes: out.YesOption = False,
    journal: out.JournalOption = "",
) -> None:
    """Take on yourself the step (or its compensation) at which a saga is parked: it goes on as if that were done.

    Example:

        coordinator sagas skip unan:01JD3Q9V2K8RZ6W0X5C7T4M1NB charge --reason "ops-126: refunded by hand"
    """
    _steer(gid, SKIP, reason, by, yes, journal, step=step)


def _steer(gid: str, signal: str, reason: str, by: str, yes: bool, journal: str, *, step: str = "") -> None:
    url, why, who = out.journal_url(journal), out.reasoned(reason), out.operator(by)
    row = _row(url, gid)
    out.err.print(f"{gid}: {sagas.state(row)}", markup=False, highlight=False, soft_wrap=True)

    async def say() -> None:
        sagas.refuse_vain(row, signal, step)
        out.confirm(f"{WORDS[signal]} {gid} {step}".rstrip() + "?", yes=yes)
        await sagas.steer(url, gid, signal, by=who, reason=why, step=step)
        parked = sagas.parked_at(row)
        if signal == CANCEL and parked and not await sagas.moved(url, row, within_s=_MOVES_WITHIN_S):
            raise Refused(f"nothing has come of it: {sagas.no_way_back(parked)}", gid=gid)
        if signal == CANCEL and not parked:
            turned = await sagas.called_off(url, gid, within_s=_MOVES_WITHIN_S)
            out.err.print(_TURNED if turned else _STILL_TO_TURN, highlight=False, soft_wrap=True)
        else:
            out.err.print(_SAID, highlight=False, soft_wrap=True)

    out.run(say)


def _row(url: str, gid: str) -> Row:
    async def look() -> Row:
        async with open_ledger(url, "journal", "sagas") as ledger:
            return await ledger.saga(gid)

    return out.run(look)
