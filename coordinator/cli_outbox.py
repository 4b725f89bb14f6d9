"""`coordinator outbox`: what waits to be delivered, who delivers it, and what was given up."""

from collections.abc import Iterable
from typing import Annotated, Any

import typer

from coordinator import cli_output as out
from coordinator.cli_schema import DatabaseOption
from coordinator.errors import Refused
from coordinator.operating import desk
from coordinator.operating.ledger import connected, open_ledger
from participants.outbox.dead_letters import DeadLetter, DeadLetters

app = typer.Typer(
    no_args_is_help=True, help="The outbox of a database: its backlog, its relays, and what was given up."
)

Ids = Annotated[
    list[int] | None, typer.Argument(help="Ids of messages that were given up, as `outbox status` shows them.")
]
AllOption = Annotated[bool, typer.Option("--all", envvar="COORDINATOR_ALL", help="All that were given up.")]
_LIMIT = 1000
"""How many are listed."""


@app.command()
def status(database: DatabaseOption = "", output: out.OutputOption = out.Output.TABLE) -> None:
    """Say how much waits, how old the oldest is, which relays deliver, and list what was given up, with the reason.

    Exits with 1 where something was given up. Example:

        coordinator outbox status --database postgresql://localhost/app
    """
    url = out.journal_url(database)

    async def look() -> dict[str, Any]:
        async with open_ledger(url, "outbox", "relay") as ledger, connected(url) as connection:
            dead = await DeadLetters(connection).list(_LIMIT)
            return {
                "backlog": await ledger.backlog(),
                "relays": await ledger.shards(),
                "dead": [_row(letter) for letter in dead],
            }

    found = out.run(look)
    if output is out.Output.JSON:
        typer.echo(out.as_json(found))
    else:
        out.show([found["backlog"]], ("waiting", "ready", "dead", "oldest_s"), output)
        out.show(found["relays"], ("relay", "shards", "lease_s"), output, nothing="no relay has ever run here")
        columns = ("id", "message_id", "participant", "topic", "key", "attempts", "last_error", "created_at")
        out.show(found["dead"], columns, output, nothing="nothing was given up")
    if found["backlog"]["dead"]:
        raise typer.Exit(out.REFUSED)


@app.command()
def retry(
    ids: Ids = None,
    every: AllOption = False,
    reason: out.ReasonOption = "",
    by: out.ByOption = "",
    database: DatabaseOption = "",
    journal: out.JournalOption = "",
) -> None:
    """Deliver messages after all that were given up, in their place. Example:

    coordinator outbox retry 4711 --reason "ops-125: the topic exists now"
    """
    letters = _Letters(ids or [], every=every, database=database, journal=journal)
    count = letters.change("retry", out.reasoned(reason), out.operator(by))
    out.err.print(f"{count} will be delivered")


@app.command()
def discard(
    ids: Ids = None,
    every: AllOption = False,
    reason: out.ReasonOption = "",
    by: out.ByOption = "",
    yes: out.YesOption = False,
    database: DatabaseOption = "",
    journal: out.JournalOption = "",
) -> None:
    """Never deliver messages that were given up: they are deleted, and cannot be had back. Example:

    coordinator outbox discard 4711 --reason "ops-126: the customer has left"
    """
    letters = _Letters(ids or [], every=every, database=database, journal=journal)
    why, who = out.reasoned(reason), out.operator(by)
    out.confirm(f"delete {'all' if every else len(ids or [])} for good?", yes=yes)
    count = letters.change("discard", why, who)
    out.err.print(f"{count} are gone")


class _Letters:
    """The messages that a command was asked to change; what it does is audited in the journal first."""

    def __init__(self, ids: list[int], *, every: bool, database: str, journal: str) -> None:
        if bool(ids) == every:
            raise typer.BadParameter("give ids, or --all", param_hint="IDS")
        self._ids, self._every = ids, every
        self._database, self._journal = out.journal_url(database), out.journal_url(journal)

    def change(self, what: str, reason: str, by: str) -> int:
        """Retry or discard them; how many there were."""
        return out.run(lambda: self._change(what, reason, by))

    async def _change(self, what: str, reason: str, by: str) -> int:
        async with connected(self._database, read_only=False) as connection:
            letters = DeadLetters(connection)
            dead = {letter.id: letter for letter in await letters.list(None)}
            unknown = [id_ for id_ in self._ids if id_ not in dead]
            if unknown:
                raise Refused(f"{unknown[0]} was not given up: `coordinator outbox status` lists what was")
            chosen = list(dead) if self._every else self._ids
            act = letters.retry if what == "retry" else letters.discard
            # Written first: an act without a trace must be impossible.
            details = _by_transaction(dead[id_] for id_ in chosen)
            await desk.note(self._journal, by=by, action=f"outbox {what}", reason=reason, details=details)
            return await act(*chosen)


def _by_transaction(letters: Iterable[DeadLetter]) -> dict[str, str]:
    """What is kept of them, by the transaction that published them (its id is what their ids begin with)."""
    told: dict[str, list[str]] = {}
    for letter in letters:
        what = f"{letter.message_id} to {letter.participant} {letter.topic}: {letter.last_error}"
        told.setdefault(letter.message_id.rpartition(":")[0], []).append(what)
    return {gid: "; ".join(each) for gid, each in told.items()}


def _row(letter: Any) -> dict[str, Any]:
    return {name: getattr(letter, name) for name in letter.__slots__}
