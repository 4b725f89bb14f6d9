"""The command `coordinator`: data on stdout, everything else on stderr."""

import typer

from coordinator import cli_dev, cli_doctor

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Postgres and Kafka commit together, or neither does: tools to develop with it, and to operate it.",
)
app.add_typer(cli_dev.app, name="dev")
app.command(name="doctor")(cli_doctor.doctor)


def main() -> None:
    """The entry point of the console script."""
    app()
