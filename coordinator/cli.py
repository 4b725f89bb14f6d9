"""The command `coordinator`: data on stdout, everything else on stderr."""

import typer

from coordinator import (
    cli_alerts,
    cli_dev,
    cli_doctor,
    cli_in_doubt,
    cli_outbox,
    cli_pool,
    cli_sagas,
    cli_schema,
    cli_transactions,
    cli_watch,
)

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Postgres and Kafka commit together, or neither does: tools to develop with it, and to operate it.",
)
app.add_typer(cli_dev.app, name="dev")
app.add_typer(cli_schema.app, name="schema")
app.command(name="doctor")(cli_doctor.doctor)
app.add_typer(cli_transactions.app, name="transactions")
app.add_typer(cli_sagas.app, name="sagas")
app.add_typer(cli_in_doubt.app, name="in-doubt")
app.add_typer(cli_alerts.app, name="alerts")
app.add_typer(cli_outbox.app, name="outbox")
app.command(name="pool")(cli_pool.pool)
app.command(name="watch")(cli_watch.watch)


def main() -> None:
    """The entry point of the console script."""
    app()
