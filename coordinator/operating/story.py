"""One transaction as a story: what was decided when, by whom, what is owed, what was tried and answered.

Pure: rows of the journal in, lines out. What is still owed is asked of the protocol itself.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from coordinator.engine.run import resume
from coordinator.gids import issued_at
from coordinator.journal.rows import record_of
from coordinator.ports import Record
from coordinator.protocol.model import Ending, Gid, Recipe
from coordinator.protocol.two_phase import owed

_RECORDED = {
    "commit": "the decision to commit",
    "abort": "the decision to abort",
    "intent": "the intent",
    "parked": "that it waits for an operator",
}


_OPPOSITE = {"commit": Ending.ABORTED, "abort": Ending.COMMITTED}


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that happened, and when; without a time: what is so now."""

    at: datetime | None
    what: str


def tell(row: Mapping[str, Any]) -> list[Line]:
    """The story of what `Ledger.transaction` returned, in the order of time, and then what is so now."""
    past = sorted(_past(row), key=lambda line: line.at.timestamp() if line.at else 0.0)
    return [*past, *(Line(None, what) for what in _present(row))]


def state(row: Mapping[str, Any]) -> str:
    """Where a transaction is, in a word or two. *row*: with `standing`, `done` (or `done_at`) and `alerts`."""
    done = row["done"] if "done" in row else row["done_at"] is not None
    torn = ", ".join(f"{branch} {ending}" for branch, ending in otherwise(row).items())
    words = {
        ("commit", False): "committing",
        ("commit", True): "committed",
        ("abort", False): "aborting",
        ("abort", True): "aborted",
        ("intent", False): "in doubt: the last resource is asked",
        ("parked", False): "parked: waits for an operator",
    }
    said = words.get((row["standing"], done), str(row["standing"]))
    return f"{said}, but {torn}" if torn else said


def otherwise(row: Mapping[str, Any]) -> dict[str, str]:
    """The branches of a decided transaction that ended otherwise, or nobody knows how: it is never told as clean."""
    wrong = {Ending.HAZARD, Ending.LOST, _OPPOSITE.get(row["standing"])}
    return {branch: ending for branch, ending in (row["endings"] or {}).items() if ending in wrong}


def owed_now(row: Mapping[str, Any]) -> list[str]:
    """What is still owed, as the engine would do it, in words."""
    if row.get("done_at") is not None or row.get("done"):
        return []
    return [_words(action) for action in owed(resume(recorded(row)).transaction)]


def recorded(row: Mapping[str, Any]) -> Record:
    """The record that a row of the ledger holds, as the engine would load it."""
    unlisted = {"name": "", "recipe": Recipe.TWO_PHASE, "idempotency_key": None, "outbox": None}
    return record_of(unlisted | {"adoptions": 0, "reigns": 1} | dict(row) | {"branches": json.dumps(row["branches"])})


def _past(row: Mapping[str, Any]) -> Iterator[Line]:
    key = f", key {row['idempotency_key']!r}" if row["idempotency_key"] else ""
    yield Line(issued_at(Gid(row["gid"])), f"{row['name']} began, by recipe {row['recipe']}{key}")
    votes = "; ".join(_vote(branch) for branch in row["branches"]) or "no branches"
    by = f"by {row['decided_by'] or _owner(row)}{_because(row)}"
    if row["concluded_at"] is None:
        yield Line(row["created_at"], f"{_RECORDED[row['standing']]} was recorded {by}: {votes}")
    else:
        yield Line(row["created_at"], f"it was recorded as an intent, or as parked: {votes}")
        yield Line(row["concluded_at"], f"it was concluded, {row['standing']}, {by}")
    if row["adopted_at"] is not None:
        yield Line(row["adopted_at"], f"it was adopted by {_owner(row)}")
    for attempt in row["attempts"]:
        yield Line(attempt["first_at"], f"{attempt['action']} of {attempt['branch']} was not answered at first")
        if attempt["tried"] > 1:
            told = f"{attempt['action']} of {attempt['branch']} had been tried {attempt['tried']} times or more"
            yield Line(attempt["last_at"], f"{told}; the last answer was: {attempt['answer']}")
        else:
            yield Line(attempt["last_at"], f"the answer was: {attempt['answer']}")
    for alert in row["alerts"]:
        yield Line(alert["raised_at"], f"ALERT {alert['kind']}: {alert['detail']}")
    for entry in row["audit"]:
        about = f" ({entry['detail']})" if entry["detail"] else ""
        yield Line(entry["at"], f"{entry['actor']} said {entry['action']}{about}: {entry['reason']}")
    if row["done_at"] is not None:
        endings = ", ".join(f"{branch} {ending}" for branch, ending in (row["endings"] or {}).items())
        yield Line(row["done_at"], f"nothing was owed any more{': ' + endings if endings else ''}")


def _present(row: Mapping[str, Any]) -> Iterator[str]:
    yield f"now: {state(row)}"
    if row["standing"] == "parked" and row["done_at"] is None:
        held = row["hold_s"]
        yield (
            "it is held until an operator decides: `coordinator transactions resolve`"
            if held is None
            else f"it is rolled back in {held:.0f} s unless an operator decides before"
        )
    for action in owed_now(row):
        yield f"owed: {action}"
    for waiting in row["messages"]:
        rest = f", {waiting['dead']} given up ({waiting['last_error']})" if waiting["dead"] else ""
        yield f"the outbox holds {waiting['messages']} messages for {waiting['participant']}{rest}"
    for alert in row["alerts"]:
        if alert["resolved_at"] is None:
            yield f"the alert {alert['kind']} is open"


def _owner(row: Mapping[str, Any]) -> str:
    return f"{row['owner']} (term {row['term']})"


def _because(row: Mapping[str, Any]) -> str:
    return f", because {row['reason']}" if row["reason"] else ""


def _vote(branch: Mapping[str, Any]) -> str:
    evidence = ", ".join(f"{name} {value}" for name, value in branch["evidence"].items() if value is not None)
    voted = f"voted {branch['vote']}" if branch["vote"] else f"is {branch['role']}"
    return f"{branch['name']} {voted}{f' ({evidence})' if evidence else ''}"


def _words(action: object) -> str:
    branch = getattr(action, "branch", None)
    return f"{type(action).__name__.lower()} {branch}" if branch else type(action).__name__.lower()
