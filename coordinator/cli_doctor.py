"""`coordinator doctor`: what would break a promise, and what to do about it."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from coordinator import cli_output as out
from coordinator import doctor as examination
from coordinator.doctor_ours import examine_settings
from coordinator.doctor_sagas import examine_sagas
from coordinator.doctor_topics import examine_topics
from coordinator.errors import Misconfigured, Unavailable
from coordinator.operating.parties import bootstrap_of
from coordinator.settings import ParticipantSettings


def doctor(
    postgres: Annotated[
        str, typer.Option(envvar="COORDINATOR_POSTGRES_URL", help="The database that holds journal or branches.")
    ] = "",
    kafka: Annotated[str, typer.Option(envvar="COORDINATOR_KAFKA_BOOTSTRAP", help="host:port,host:port")] = "",
    topic: Annotated[
        list[str] | None,
        typer.Option(envvar="COORDINATOR_TOPIC", help="Look at the settings of this topic too; repeat it."),
    ] = None,
    output: out.OutputOption = out.Output.TABLE,
) -> None:
    """Look at every setting that a promise rests on, and at what the servers can do.

    Without either option it looks at the participants of coordinator.toml (or COORDINATOR_PARTICIPANTS), with what lets
    us in there. Exits with 0 when all is well, 1 when there are notes, 2 when a promise would be broken. Example:

        coordinator doctor --postgres postgresql://localhost/app --kafka localhost:9092 --topic posts
    """
    given = [("postgres", postgres)] * bool(postgres) + [("kafka", f"kafka://{kafka}")] * bool(kafka)
    parties = out.participants([f"{name}={url}" for name, url in given])
    if not parties:
        raise typer.BadParameter("give --postgres, --kafka, or both", param_hint="--postgres/--kafka")
    findings = asyncio.run(_examine(parties, topic or [])) + examine_settings(out.settings())
    if output is out.Output.JSON:
        typer.echo(out.as_json([asdict(finding) for finding in findings]))
    else:
        table = Table(header_style="bold")
        for column in ("server", "what", "found", "", "remedy"):
            table.add_column(column, overflow="fold")
        colours = {"ok": "green", "note": "yellow", "broken": "red"}
        for finding in findings:
            verdict = Text(finding.verdict, style=colours[finding.verdict])
            table.add_row(
                *(Text(cell) for cell in (finding.server, finding.what, finding.found)), verdict, finding.remedy
            )
        out.page().print(table)
    raise typer.Exit(examination.worst(findings))


async def _sagas(url: str) -> list[examination.Finding]:
    try:
        return await examine_sagas(url)
    except (Unavailable, Misconfigured):
        return []  # What keeps us out stands among the findings already.


async def _examine(parties: Mapping[str, ParticipantSettings], topics: Sequence[str]) -> list[examination.Finding]:
    findings = []
    for name, party in parties.items():
        url = party.url.get_secret_value()
        options = {option: value.get_secret_value() for option, value in party.options.items()}
        if url.startswith("kafka://"):
            found = await examination.examine_kafka(bootstrap_of(url), options)
            if topics and examination.worst(found) < 2:
                found += await examine_topics(bootstrap_of(url), topics, options)
        else:
            found = await examination.examine_postgres(url)
            found += await _sagas(url)
        findings += [replace(finding, server=name) for finding in found]
    return findings
