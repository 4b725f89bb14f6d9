"""The command's exit status is the verdict, and what an earlier soak observed can be judged again."""

import json
from dataclasses import replace

import pytest

from tests.soak import __main__ as command
from tests.soak.__main__ import BROKEN, CLEAN, VACUOUS, VIOLATED, main
from tests.soak.evidence import Injury
from tests.soak.soak import NotGoing
from tests.soak.test_checker import CLEAN as HISTORY
from tests.soak.test_checker import FACTS, observed, transaction

INJURIES = [Injury(kind="worker killed", target="w1", began_s=0.5, ended_s=1)]
WHOLE = [*HISTORY, transaction(7, recipe="last-resource"), transaction(8, recipe="two-phase")]


@pytest.mark.parametrize(
    ("observations", "status", "says"),
    [
        (observed(*WHOLE, injuries=INJURIES), CLEAN, "every promise was kept"),
        (observed(*WHOLE), VACUOUS, "VACUOUS: nothing was disturbed"),
        (replace(observed(*WHOLE, injuries=INJURIES), rows=[]), VIOLATED, "unan:8:0, unan:8:1 without a row"),
    ],
)
def test_the_exit_status_is_the_verdict(tmp_path, capsys, observations, status, says):
    """0 clean, 1 violated, 2 it proved too little; the page is kept beside the observations."""
    observations.save(tmp_path / "observations.json")
    (tmp_path / "facts.json").write_text(json.dumps(FACTS))
    assert main(["--judge", str(tmp_path / "observations.json")]) == status
    assert says in capsys.readouterr().out
    assert says in (tmp_path / "report.txt").read_text()


def test_the_help_teaches(capsys):
    """What is done, what is checked, and what the exit status means."""
    with pytest.raises(SystemExit):
        main(["--help"])
    page = capsys.readouterr().out
    assert all(word in page for word in ("--minutes", "--seed", "--workers", "--brokers", "exit status: 0", "witness"))


def test_what_was_observed_is_kept_judged_and_told(tmp_path, monkeypatch, capsys):
    """All of the command but the servers: those have a test of their own, of two minutes."""
    asked = []

    async def soak(options, directory, tell):
        asked.append(options)
        (directory / "workers").mkdir()
        tell("disturbing")
        return observed(*WHOLE, injuries=INJURIES), FACTS

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "_soak", soak)
    assert main(["--minutes", "2", "--seed", "7"]) == CLEAN
    assert [(options.minutes, options.seed, options.workers, options.brokers) for options in asked] == [(2, 7, 3, 3)]
    assert "every promise was kept" in capsys.readouterr().out
    kept = tmp_path / ".dev" / "soak-7"
    assert {path.name for path in kept.iterdir()} == {"observations.json", "facts.json", "report.txt"}
    assert main(["--judge", str(kept / "observations.json")]) == CLEAN


def test_what_could_not_be_judged_is_no_success(tmp_path, monkeypatch, capsys):
    """A worker that never began proves nothing."""

    async def soak(options, directory, tell):
        raise NotGoing("w1 did not commit before the first injury")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "_soak", soak)
    assert main(["--seed", "7"]) == BROKEN
    assert "could not be judged" in capsys.readouterr().err
