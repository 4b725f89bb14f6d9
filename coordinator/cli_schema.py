"""`coordinator schema`: the tables of journal, outbox, branches, inbox and relay."""

from dataclasses import asdict
from typing import Annotated

import typer

from coordinator import cli_output as out
from coordinator import schema
from coordinator.operating.ledger import connected

app = typer.Typer(
    no_args_is_help=True, help="The tables in your databases: how far they are, and bringing them up to date."
)

DatabaseOption = Annotated[
    str,
    typer.Option(
        "--database",
        envvar=["COORDINATOR_DATABASE", "COORDINATOR_JOURNAL", "COORDINATOR_POSTGRES_URL"],
        help="The URL of the database; else `journal` in coordinator.toml.",
    ),
]
Components = Annotated[
    list[str] | None,
    typer.Argument(
        help=f"Which tables: {', '.join(schema.COMPONENTS)}. By default all.",
        show_default=False,
        autocompletion=lambda: list(schema.COMPONENTS),
    ),
]


@app.command()
def status(
    components: Components = None, database: DatabaseOption = "", output: out.OutputOption = out.Output.TABLE
) -> None:
    """Say how far the tables are. Exits with 1 where something is to be applied, or where this code is too old.

    Without names, tables that nothing here has used yet are optional: of branches, inbox, relay, barrier and locks.

    Example:

        coordinator schema status --database postgresql://localhost/app
    """
    url, names = out.journal_url(database), _known(components)

    async def look() -> list[schema.Version]:
        async with connected(url) as connection:
            return await schema.versions(connection, *names)

    found = out.run(look)
    needed = names or schema.OF_A_JOURNAL
    optional = [version for version in found if not version.present and version.component not in needed]
    rows = [{**asdict(version), "state": "optional" if version in optional else version.state} for version in found]
    out.show(rows, ("component", "present", "known", "state"), output)
    if any(version.present != version.known for version in found if version not in optional):
        raise typer.Exit(out.REFUSED)


@app.command()
def apply(components: Components = None, database: DatabaseOption = "") -> None:
    """Bring the tables up to date: one process at a time does it, under an advisory lock, in one transaction.

    Run it as the role that owns the schema, before services of the new version start. A schema that is newer than this
    code is refused. Example:

        coordinator schema apply --database postgresql://owner@localhost/app
    """
    url, names = out.journal_url(database), _known(components)

    async def bring_up() -> list[str]:
        async with connected(url, read_only=False) as connection:
            return await schema.apply(connection, *names)

    taken = out.run(bring_up)
    for step in taken:
        typer.echo(f"applied {step}")
    if not taken:
        out.err.print("everything is up to date")


def _known(components: list[str] | None) -> list[str]:
    unknown = [name for name in components or [] if name not in schema.COMPONENTS]
    if unknown:
        known = ", ".join(schema.COMPONENTS)
        raise typer.BadParameter(f"{unknown[0]!r} is none of {known}", param_hint="COMPONENTS")
    return components or []
