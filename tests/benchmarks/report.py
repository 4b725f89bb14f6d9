"""What a run says: a table for people, JSON for programs, and the part of docs/performance.md that is made from it.

python -m tests.benchmarks.report          the table of the last run
python -m tests.benchmarks.report --docs   writes it between the markers of docs/performance.md
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from coordinator.dev.downloads import KAFKA_VERSION
from tests.benchmarks.measure import Book, Ratio
from tests.benchmarks.ratios import MORE, RATIOS
from tests.benchmarks.stage import Settings

ROOT = Path(__file__).resolve().parent.parent.parent
LATEST = ROOT / ".bench" / "latest.json"
PAGE = ROOT / "docs" / "performance.md"
COMMAND = "make bench"
COLUMNS = {
    "rate": "a second",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "cpu_us": "client CPU µs",
    "kafka_us": "Kafka's",
    "postgres_us": "Postgres'",
}
"""What is shown of each side; the CPU times are for each transaction or row."""
LIBRARIES = ("aiokafka", "asyncpg", "dbos", "txoutbox", "unanimity", "uvloop")


def report(book: Book, settings: Settings, *, postgres: str, command: str = COMMAND) -> dict[str, Any]:
    """Everything about one run as JSON-able data; in `ratios`, what was left out is null."""
    return {
        "ratios": {ratio.name: _rounded(ratio.of(book)) for ratio in RATIOS},
        "targets": {ratio.name: _judged(ratio, book) for ratio in RATIOS},
        "more_ratios": {ratio.name: _judged(ratio, book) for ratio in MORE},
        "sides": book.summary(),
        "remarks": book.remarks,
        "settings": asdict(settings),
        "versions": versions(postgres),
        "machine": machine(),
        "date": datetime.now(tz=UTC).isoformat(timespec="seconds"),
        "command": command,
    }


def _judged(ratio: Ratio, book: Book) -> dict[str, Any]:
    rounds = ratio.by_round(book)
    return {
        "ratio": _rounded(ratio.of(book)),
        "rounds_min": _rounded(min(rounds)) if rounds else None,
        "rounds_max": _rounded(max(rounds)) if rounds else None,
        "at_least": ratio.at_least,
        "met": ratio.met(book),
        "meaning": ratio.meaning,
        "above": list(ratio.above),
        "below": list(ratio.below),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def versions(postgres: str) -> dict[str, str]:
    """Of everything that was measured."""
    libraries = {name: version(name) for name in LIBRARIES}
    servers = {"postgresql": postgres, "kafka": KAFKA_VERSION, "python": platform.python_version()}
    return {**libraries, **servers, "commit": _commit()}


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def machine() -> dict[str, Any]:
    """What it was measured on, and how busy that was when the report was written."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def _processor() -> str:
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found.group(1) if found else platform.machine()


def write(data: dict[str, Any], path: Path) -> None:
    """Whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(data, indent=2) + "\n")
    partial.replace(path)


def tell(data: dict[str, Any], console: Console) -> None:
    """Ratios first, then what they are made of."""
    table = Table(title="Ratios of medians", title_justify="left")
    for heading in ("ratio", "value", "rounds", "target", "", "what ÷ what"):
        table.add_column(heading, justify="right" if heading in ("value", "rounds", "target") else "left")
    for name, judged in {**data["targets"], **data["more_ratios"]}.items():
        if judged["ratio"] is None:
            continue
        verdict = {True: "[green]met[/]", False: "[red]missed[/]", None: ""}[judged["met"]]
        rounds = f"{judged['rounds_min']:.2f}..{judged['rounds_max']:.2f}"
        target = "" if judged["at_least"] is None else f"≥ {judged['at_least']:g}"
        table.add_row(name, f"[bold]{judged['ratio']:.2f}[/]", rounds, target, verdict, judged["meaning"])
    console.print(table)
    console.print(sides_table(data))
    for remark in data["remarks"]:
        console.print(f"* {remark}")


def sides_table(data: dict[str, Any]) -> Table:
    """Each side's medians, with minimum and maximum."""
    table = Table(title="Medians (minimum..maximum over the rounds)", title_justify="left")
    table.add_column("side")
    for heading in COLUMNS.values():
        table.add_column(heading, justify="right")
    for side, measures in data["sides"].items():
        table.add_row(side, *(cell(measures.get(measure)) for measure in COLUMNS))
    return table


def cell(measured: dict[str, Any] | None) -> str:
    """A median with its minimum and maximum, as precise as its size."""
    if measured is None:
        return ""
    digits = 0 if measured["median"] >= 100 else 1 if measured["median"] >= 10 else 2
    return "{:.{d}f} ({:.{d}f}..{:.{d}f})".format(measured["median"], measured["min"], measured["max"], d=digits)


def markdown(data: dict[str, Any]) -> str:
    """The same for docs/performance.md."""
    made, on, how = data["versions"], data["machine"], data["settings"]
    introduction = (
        f"`{data['command']}`, {data['date'][:10]}: {how['rounds']} interleaved rounds, medians; in brackets the least"
        f" and the greatest round. PostgreSQL {made['postgresql']} (`fsync` on), Apache Kafka {made['kafka']} (one"
        f" broker, `acks=all`), Python {made['python']}, aiokafka {made['aiokafka']}, asyncpg {made['asyncpg']},"
        f" txoutbox {made['txoutbox']}, dbos {made['dbos']}; {on['cores']} cores ({on['processor']}) that clients"
        f" and servers share; the load average at the end was {on['load_average'][0]:g}."
    )
    lines = [introduction, "", "| ratio | measured | rounds | target | |", "|---|--:|--:|--:|---|"]
    for name, judged in {**data["targets"], **data["more_ratios"]}.items():
        if judged["ratio"] is None:
            continue
        verdict = {True: "met", False: "**missed**", None: ""}[judged["met"]]
        target = "" if judged["at_least"] is None else f"{judged['at_least']:g}"
        rounds = f"{judged['rounds_min']:.2f}..{judged['rounds_max']:.2f}"
        lines.append(f"| `{name}`: {judged['meaning']} | **{judged['ratio']:.2f}** | {rounds} | {target} | {verdict} |")
    lines += ["", f"| side | {' | '.join(COLUMNS.values())} |", "|---|" + "--:|" * len(COLUMNS)]
    for side, measures in data["sides"].items():
        cells = " | ".join(cell(measures.get(measure)) for measure in COLUMNS)
        lines.append(f"| {side} | {cells} |")
    lines += ["", *(f"* {remark}" for remark in data["remarks"])]
    return "\n".join(lines)


def between_markers(page: str, name: str, body: str) -> str:
    """*page* with *body* between its markers of *name*. Raises where there are none."""
    pattern = rf"(<!-- measured: {name} -->\n).*?(<!-- end -->)"
    changed, count = re.subn(pattern, lambda found: f"{found[1]}\n{body}\n\n{found[2]}", page, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"the page has {count} places for {name}, not one")
    return changed


def main() -> None:
    """The table of the last run, or the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", action="store_true", help="write it between the markers of docs/performance.md")
    parser.add_argument("--file", type=Path, default=LATEST)
    arguments = parser.parse_args()
    if not arguments.file.exists():
        sys.exit(f"there is no {arguments.file}: run `make bench` first")
    data = json.loads(arguments.file.read_text())
    if arguments.docs:
        PAGE.write_text(between_markers(PAGE.read_text(), "ratios", markdown(data)))
    else:
        tell(data, Console(width=160))


if __name__ == "__main__":
    main()
