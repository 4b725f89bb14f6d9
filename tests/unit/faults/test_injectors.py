"""Faults are armed by name, strike in their cell, count, and are never armed in production."""

import pytest

from coordinator.errors import InvalidDefinition
from coordinator.faults.history import History, read
from coordinator.faults.injectors import ArmedFaults, Fault, parse
from coordinator.faults.points import Cell, boundary


async def run(fault: Fault, **labels: str):
    """Whether the effect happened, and what its caller saw."""
    happened = []

    async def effect():
        happened.append(True)
        return "answer"

    with ArmedFaults(faults=[fault]) as armed:
        try:
            seen = await boundary("pg.prepare", effect, **labels)
        except (OSError, TimeoutError) as error:
            seen = type(error)
        at_once = bool(happened)
        await armed.arrive()
    return at_once, bool(happened), seen


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (Cell.BEFORE, (False, False, ConnectionResetError)),
        (Cell.REPLY_LOST, (True, True, ConnectionResetError)),
        (Cell.AFTER, (True, True, ConnectionResetError)),
        (Cell.LATE, (False, True, TimeoutError)),
    ],
)
async def test_a_cell_says_where_in_the_effects_life_the_fault_strikes(cell, expected):
    """Never sent; done and not heard; done; done after it was given up."""
    assert await run(Fault(point="pg.prepare", cell=cell)) == expected


async def test_a_fault_strikes_as_often_as_it_was_told_and_only_where_its_labels_match():
    """Selectors and counts."""
    assert (await run(Fault(point="pg.prepare", labels={"branch": "db"}), branch="other"))[2] == "answer"
    assert (await run(Fault(point="pg.*", labels={"branch": "db"}), branch="db"))[2] is ConnectionResetError
    assert (await run(Fault(point="pg.prepare", times=0)))[2] == "answer"
    fault = Fault(point="kafka.produce")
    with ArmedFaults(faults=[fault]) as armed:
        assert armed.unfired() == [fault]


def test_the_grammar_is_read_whole():
    """Everything that a line can say."""
    fault = parse("pg.prepare:late{branch=db,gid=x} = 10%2*delay(500)")
    assert (fault.point, fault.cell, fault.action, fault.argument) == ("pg.prepare", Cell.LATE, "delay", "500")
    assert (fault.labels, fault.percent, fault.times) == ({"branch": "db", "gid": "x"}, 10, 2)
    assert parse("kafka.end.commit=crash").cell is Cell.BEFORE


@pytest.mark.parametrize(
    "line",
    ["nonsense", "pg.unknown=error", "pg.prepare:never=error", "pg.prepare=explode", "pg.prepare=error(Nothing)"],
)
def test_unknown_names_are_errors_when_they_are_armed(line):
    """A fault that never fires because it was misspelt proves nothing."""
    with pytest.raises(InvalidDefinition):
        parse(line)


def test_production_is_never_armed(monkeypatch):
    """Whatever the environment lists."""
    monkeypatch.setenv("COORDINATOR_ENVIRONMENT", "production")
    with pytest.raises(InvalidDefinition, match="production"):
        ArmedFaults(faults=[Fault(point="pg.prepare")]).__enter__()


def test_a_history_survives_a_cut_last_line(tmp_path):
    """Whole lines are read in the order of their times; what a kill cut off is left out."""
    path = tmp_path / "history.jsonl"
    with History(path, node="a") as history:
        history.write("post", "invoke", gid="g", author="x")
        history.write("post", "info", gid="g")
    path.write_text(path.read_text() + '{"t": 1, "no')
    lines = read(path)
    assert [line["phase"] for line in lines] == ["invoke", "info"]
    assert lines[0]["value"] == {"author": "x"}
