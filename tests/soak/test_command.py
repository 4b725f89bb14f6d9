"""The command's exit status is the verdict, and what an earlier soak observed can be judged again."""

import json
from dataclasses import replace

import pytest

from tests.soak.__main__ import CLEAN, VACUOUS, VIOLATED, main
from tests.soak.evidence import Injury
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
