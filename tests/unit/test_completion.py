"""Completion for shells: commands, options, and the words that an option or argument takes."""

import shlex

import pytest
from typer.testing import CliRunner

from coordinator.cli import app


def completed(line: str, shell: str) -> str:
    """What *shell* is offered for the last word of *line*, by the protocol of its own completion script."""
    words = shlex.split(line) + ([""] if line.endswith(" ") else [])
    asked = {
        "bash": {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)},
        "zsh": {"_TYPER_COMPLETE_ARGS": line},
        "fish": {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    environment = {"_COORDINATOR_COMPLETE": f"complete_{shell}", **asked}
    return CliRunner(env=environment).invoke(app, [], prog_name="coordinator").stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("coordinator in-d", ["in-doubt"]),
        ("coordinator in-doubt ", ["list", "commit", "abort"]),
        ("coordinator transactions resolve unan:1 ", ["commit", "abort"]),
        ("coordinator transactions list --state ", ["unfinished", "parked", "alerted"]),
        ("coordinator sagas list --state ", ["stranded"]),
        ("coordinator transactions list --output ", ["table", "json"]),
        ("coordinator schema apply ", ["journal", "outbox", "branches"]),
        ("coordinator outbox retry --re", ["--reason"]),
    ],
)
def test_what_can_be_said_next_is_offered(shell, line, offered):
    """In each of the shells, as their scripts ask for it."""
    said = completed(line, shell)
    assert all(word in said for word in offered), said


def test_nothing_is_offered_where_nothing_fits():
    """The comparison above can fail."""
    assert completed("coordinator in-doubt nothing-like-it", "bash").strip() == ""
