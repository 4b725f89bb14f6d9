"""Writes the generated parts of the documentation: what the code already says is not written a second time.

    python -m scripts.document            # rewrite the blocks
    python -m scripts.document --check    # exit with 1 where a block is out of date

A block stands between `<!-- generated: name -->` and `<!-- end -->`.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from coordinator.alerts import EXPLANATIONS, AlertKind
from coordinator.errors import IllegalTransition
from coordinator.faults.points import POINTS
from coordinator.protocol.events import Decided, Event, HeldForOperator, Intended, Settled, Voted
from coordinator.protocol.model import (
    Branch,
    BranchName,
    Ending,
    Gid,
    OnNo,
    Outcome,
    Recipe,
    Role,
    Status,
    Transaction,
    Vote,
)
from coordinator.protocol.two_phase import evolve
from coordinator.telemetry import names
from examples.social_post.promises import CUT, FROZEN, HEALTHY, KILLS, LOST, STOPPED, combinations, promised
from scripts.document_cli import describe_commands

DOCS = Path(__file__).resolve().parent.parent / "docs"
_BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_DB, _EVENTS = BranchName("db"), BranchName("events")


def main() -> int:
    """Rewrite or check every block of every page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = [page for page in sorted(DOCS.rglob("*.md")) if not _up_to_date(page, rewrite=not check)]
    for page in stale:
        sys.stderr.write(f"{page.relative_to(DOCS.parent)}: {'out of date' if check else 'rewritten'}\n")
    return 1 if check and stale else 0


def _up_to_date(page: Path, *, rewrite: bool) -> bool:
    before = page.read_text(encoding="utf-8")
    after = _BLOCK.sub(lambda match: f"{match[1]}\n{BLOCKS[match[2]]()}\n\n{match[3]}", before)
    if rewrite and after != before:
        page.write_text(after, encoding="utf-8")
    return after == before


def edges() -> Mapping[tuple[Status, Status], set[str]]:
    """Every transition that the machine really makes, found by trying every event in every state it can reach."""
    found: dict[tuple[Status, Status], set[str]] = {}
    waiting, seen = list(_beginnings()), set()
    while waiting:
        state = waiting.pop()
        if (key := repr(state)) in seen:
            continue
        seen.add(key)
        for event in _events():
            try:
                after = evolve(state, event)
            except IllegalTransition:
                continue
            waiting.append(after)
            if after.status is not state.status:
                found.setdefault((state.status, after.status), set()).add(_label(event))
    return found


def _beginnings() -> Iterable[Transaction]:
    shapes = [
        (Branch(name=_DB, role=Role.PREPARED), Branch(name=_EVENTS, role=Role.PREPARED)),
        (Branch(name=_DB, role=Role.DECIDER), Branch(name=_EVENTS, role=Role.PREPARED, backed=True)),
        *(
            (Branch(name=_DB, role=Role.PREPARED), Branch(name=_EVENTS, role=Role.LAST, on_no=meaning, backed=True))
            for meaning in OnNo
        ),
    ]
    for branches in shapes:
        yield Transaction(
            gid=Gid("g"), name="t", recipe=Recipe.TWO_PHASE, branches={branch.name: branch for branch in branches}
        )


def _events() -> Iterable[Event]:
    for branch in (_DB, _EVENTS):
        yield from (Voted(branch, vote) for vote in Vote)
        yield from (Settled(branch, ending) for ending in Ending)
    yield from (Intended(), HeldForOperator(), Decided(Outcome.COMMIT), Decided(Outcome.ABORT))


def _label(event: Event) -> str:
    match event:
        case Decided():
            return f"Decided({event.outcome})"
        case Settled():
            return "Settled"
        case _:
            return type(event).__name__


def draw_protocol() -> str:
    """The state diagram, as Mermaid draws it."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {Status.PREPARING}"]
    for (before, after), labels in sorted(edges().items()):
        lines.append(f"    {before} --> {after}: {', '.join(sorted(labels))}")
    lines += [f"    {status} --> [*]" for status in (Status.COMMITTED, Status.ABORTED)]
    return "\n".join([*lines, "```"])


def list_points() -> str:
    """Every fault point and what it is."""
    rows = [f"| `{point}` | {what} |" for point, what in POINTS.items()]
    return "\n".join(["| point | the effect that it wraps |", "|---|---|", *rows])


def tabulate_promises() -> str:
    """Condition by condition: what each policy promises under each recipe."""
    conditions = [HEALTHY, LOST, CUT, STOPPED, FROZEN]
    rows = [
        "| condition | policy | recipe | the caller sees | rows | messages, in the end |",
        "|---|---|---|---|--:|--:|",
    ]
    for condition in conditions:
        for policy, recipe in combinations():
            promise = promised(policy, recipe, condition)
            rows.append(
                f"| {condition} | {policy} | {recipe} | {promise.caller} | {promise.rows} | {promise.messages} |"
            )
    return "\n".join(rows)


def tabulate_kills() -> str:
    """Where a process is killed, and what is there in the end, whatever the policy."""
    rows = ["| recipe | killed at | rows | messages |", "|---|---|--:|--:|"]
    for recipe, points in KILLS.items():
        for point, decided in points.items():
            rows.append(f"| {recipe} | `{point}` | {int(decided)} | {int(decided)} |")
    return "\n".join(rows)


def tabulate_alerts() -> str:
    """Every kind of alert, what it means, and what is to be done."""
    rows = [f"| `{kind}` | {EXPLANATIONS[kind].means} | {EXPLANATIONS[kind].do} |" for kind in AlertKind]
    return "\n".join(["| alert | what it means | what to do |", "|---|---|---|", *rows])


def list_metrics() -> str:
    """Every metric, with its unit and its attributes."""
    rows = [
        f"| `{metric.name}` | {metric.kind} | {metric.unit} | {_names(metric.attributes)} | {metric.description} |"
        for metric in names.METRICS
    ]
    return "\n".join(["| metric | kind | unit | attributes | what it says |", "|---|---|---|---|---|", *rows])


def list_spans() -> str:
    """Every span and its attributes."""
    rows = [f"| `{span.name}` | {span.description} | {_names(span.attributes)} |" for span in names.SPANS]
    return "\n".join(["| span | what it is | attributes |", "|---|---|---|", *rows])


def list_attributes() -> str:
    """Every attribute of spans and metrics."""
    rows = [f"| `{attribute.name}` | {attribute.description} |" for attribute in names.ATTRIBUTES]
    return "\n".join(["| attribute | its values |", "|---|---|", *rows])


def _names(attributes: Iterable[names.Attribute]) -> str:
    return ", ".join(f"`{attribute.name}`" for attribute in attributes)


BLOCKS: Mapping[str, Callable[[], str]] = {
    "protocol": draw_protocol,
    "points": list_points,
    "promises": tabulate_promises,
    "kills": tabulate_kills,
    "metrics": list_metrics,
    "spans": list_spans,
    "attributes": list_attributes,
    "cli": describe_commands,
    "alerts": tabulate_alerts,
}

if __name__ == "__main__":
    sys.exit(main())
