"""`coordinator dev`: data on stdout, everything else on stderr, and help that teaches."""

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from coordinator import cli_dev
from coordinator.cli import app
from coordinator.dev import stack
from coordinator.errors import Misconfigured

RUNNING = stack.Stack(postgres="postgresql://postgres@127.0.0.1:5/postgres", kafka="127.0.0.1:6", source="local")


def run(*arguments, directory="."):
    # Wide and colourless, so that nothing is folded or painted.
    environment = {"COORDINATOR_DEV_DIR": str(directory), "COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"}
    return CliRunner(env=environment).invoke(app, ["dev", *arguments])


@pytest.fixture
def up(monkeypatch):
    """Whatever `up` should answer."""

    def answer(what):
        async def asked(directory, *, brokers, two_phase):
            if isinstance(what, Exception):
                raise what
            return what

        monkeypatch.setattr(stack, "up", asked)

    return answer


@pytest.mark.parametrize("command", ["up", "status", "down"])
def test_every_flag_has_an_environment_variable_that_help_shows(command):
    shown = run(command, "--help").stdout
    flags = [flag for flag in get_command(cli_dev.app).commands[command].params if flag.name != "help"]
    assert flags
    for flag in flags:
        assert flag.envvar.startswith("COORDINATOR_DEV_")
        assert flag.envvar in shown


def test_help_teaches_with_an_example():
    assert 'eval "$(coordinator dev up --export)"' in run("up", "--help").stdout


def test_export_prints_lines_for_a_shell_and_nothing_else(up):
    up(RUNNING)
    assert run("up", "--export").stdout.splitlines() == [
        "export COORDINATOR_POSTGRES_URL=postgresql://postgres@127.0.0.1:5/postgres",
        "export COORDINATOR_KAFKA_BOOTSTRAP=127.0.0.1:6",
    ]


def test_up_prints_where_the_servers_are_unbroken(up):
    up(RUNNING)
    shown = run("up").stdout
    assert RUNNING.postgres in shown
    assert RUNNING.kafka in shown


def test_a_failure_is_said_whole_on_stderr(up):
    """Brackets in it are text, not markup."""
    up(Misconfigured("pip install 'unanimity[dev-servers]'"))
    result = run("up")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "unanimity[dev-servers]" in result.stderr


def test_two_brokers_are_refused():
    assert run("up", "--brokers", "2").exit_code == 2


def test_nothing_runs_in_an_empty_directory(tmp_path):
    """`status` fails, so that scripts can ask; `down` does not, so that they can always clean up."""
    status, down = run("status", directory=tmp_path), run("down", directory=tmp_path)
    assert (status.exit_code, status.stdout) == (1, "")
    assert (down.exit_code, down.stdout) == (0, "")
