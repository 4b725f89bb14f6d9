"""`coordinator dev`: real servers to develop and test against."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from coordinator.errors import CoordinatorError

if TYPE_CHECKING:
    from coordinator.dev.stack import Stack

app = typer.Typer(
    no_args_is_help=True,
    help="A real PostgreSQL and a real Apache Kafka on free loopback ports, to develop and test against.",
)
_err = Console(stderr=True)

Directory = Annotated[
    Path, typer.Option("--directory", envvar="COORDINATOR_DEV_DIR", help="Where the servers keep their data.")
]


@app.command()
def up(
    brokers: Annotated[int, typer.Option(envvar="COORDINATOR_DEV_BROKERS", help="One broker, or three.")] = 1,
    two_phase: Annotated[
        bool,
        typer.Option("--two-phase", envvar="COORDINATOR_DEV_TWO_PHASE", help="Brokers that can be prepared (KIP-939)."),
    ] = False,
    export: Annotated[
        bool, typer.Option("--export", envvar="COORDINATOR_DEV_EXPORT", help="Print lines for a shell to evaluate.")
    ] = False,
    directory: Directory = Path(".dev"),
) -> None:
    """Start the servers, or find them running.

    Uses COORDINATOR_POSTGRES_URL and COORDINATOR_KAFKA_BOOTSTRAP if they are set, else a Docker engine that answers,
    else this machine. Example:

        eval "$(coordinator dev up --export)"
    """
    from coordinator.dev import stack

    if brokers not in (1, 3):
        raise typer.BadParameter("one broker, or three", param_hint="--brokers")
    try:
        running = asyncio.run(stack.up(directory.absolute(), brokers=brokers, two_phase=two_phase))
    except CoordinatorError as failure:
        _err.print(str(failure), style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    if export:
        typer.echo(running.exports())
    else:
        _show(running)


@app.command()
def status(directory: Directory = Path(".dev")) -> None:
    """Say what runs, and where. Exits with 1 when nothing does."""
    from coordinator.dev import stack

    running = stack.load(directory.absolute())
    if running is None or not running.alive:
        _err.print("nothing runs here; start it with `coordinator dev up`")
        raise typer.Exit(1)
    _show(running)


@app.command()
def kill(
    server: Annotated[str, typer.Argument(help="postgres, or kafka (all of its brokers).")],
    directory: Directory = Path(".dev"),
) -> None:
    """Kill a server, to see what happens then. `up` brings it back, with its data and on its port."""
    from coordinator.dev import stack

    if server not in ("postgres", "kafka"):
        raise typer.BadParameter("postgres, or kafka", param_hint="SERVER")
    try:
        asyncio.run(stack.kill(directory.absolute(), server))
    except CoordinatorError as failure:
        _err.print(str(failure), style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None


@app.command()
def down(
    purge: Annotated[
        bool, typer.Option("--purge", envvar="COORDINATOR_DEV_PURGE", help="Delete the data too.")
    ] = False,
    directory: Directory = Path(".dev"),
) -> None:
    """Stop what `up` started, and nothing else."""
    from coordinator.dev import stack

    ended = asyncio.run(stack.down(directory.absolute(), purge=purge))
    _err.print("stopped" if ended else "nothing was running here")


def _show(running: "Stack") -> None:
    kind = "Kafka"
    if running.source != "environment":
        brokers = "1 broker" if running.brokers == 1 else f"{running.brokers} brokers"
        kind = f"Kafka ({brokers}{', two-phase' if running.two_phase else ''})"
    for server, where in (("PostgreSQL", running.postgres), (kind, running.kafka)):
        typer.echo(f"{server:<30} {where}  from {running.source}")
