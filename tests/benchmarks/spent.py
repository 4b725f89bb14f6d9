"""Where the client's CPU time goes in each recipe: shares of a profile, by whose code it is.

    python -m tests.benchmarks.spent [--docs]

The profiler's clock is the CPU time of this process, so that a busy machine does not show; what is written in C counts
for whoever calls it. What the loop and the kernel do between the functions is the rest. --docs writes it into the page.
"""

import argparse
import asyncio
import cProfile
import logging
import time
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import uvloop

from coordinator import Coordinator
from participants import Kafka, Postgres
from tests.benchmarks.growth import Field, Shape
from tests.benchmarks.report import PAGE, ROOT, between_markers
from tests.benchmarks.stage import servers

RECIPES = ("commit-record", "two-phase", "last-resource", "outbox")
CONCURRENCY, TRANSACTIONS = 32, 1600
OWNERS = {
    "the block": ("coordinator/client.py", "coordinator/engine/work.py", "coordinator/engine/service.py"),
    "protocol": ("coordinator/protocol/", "dataclasses.py"),
    "engine": ("coordinator/engine/",),
    "journal": ("coordinator/journal/", "coordinator/outbox_rows.py", "/json/"),
    "Postgres branch": ("participants/postgres/",),
    "Kafka branch": ("participants/kafka/",),
    "relay": ("participants/outbox/",),
    "asyncpg": ("/asyncpg/",),
    "aiokafka": ("/aiokafka/",),
    "asyncio": ("/asyncio/",),
}
OTHERS = "others"
Function = tuple[str, int, str]
Callers = Mapping[Function, tuple[int, int, float, float]]


def owner_of(file: str) -> str:
    """Whose code *file* is; the first that claims it."""
    name = file.removeprefix(f"{ROOT}/") if "/site-packages/" not in file else file
    for owner, parts in OWNERS.items():
        if any(part in name for part in parts):
            return owner
    return OTHERS


def shares(stats: Mapping[Function, tuple[int, int, float, float, Callers]]) -> Counter[str]:
    """Seconds by owner; a function without a file is C, and counts for its callers."""
    spent: Counter[str] = Counter()
    for (file, _, _), (_, _, own_s, _, callers) in stats.items():
        if file != "~" or not callers:
            spent[owner_of(file)] += own_s
            continue
        for (caller, _, _), (_, _, part_s, _) in callers.items():
            spent[owner_of(caller)] += part_s
    return spent


async def profiled(field: Field, recipe: str) -> tuple[float, Counter[str]]:
    """CPU microseconds per transaction as they are, and seconds by owner as the profiler sees them."""
    work = field.work(recipe, Shape())

    async def batch() -> float:
        async def worker(number: int) -> None:
            for _ in range(TRANSACTIONS // CONCURRENCY):
                await work(number)

        began = time.process_time()
        await asyncio.gather(*(worker(number) for number in range(CONCURRENCY)))
        return time.process_time() - began

    await batch()
    unobserved_s = min([await batch() for _ in range(2)])
    profile = cProfile.Profile(time.process_time)
    profile.enable()
    observed_s = await batch()
    profile.disable()
    profile.create_stats()
    spent = shares(profile.stats)  # type: ignore[attr-defined]  # It is there once the statistics are made.
    spent["loop, kernel"] = max(0.0, observed_s - spent.total())
    return 1e6 * unobserved_s / TRANSACTIONS, spent


async def measure() -> dict[str, tuple[float, Counter[str]]]:
    """Every recipe, on servers of their own."""
    async with servers() as (postgres, kafka):
        for recipe in RECIPES:
            await kafka.create_topic(recipe, partitions=4)
        connection = await asyncpg.connect(postgres.url)
        await connection.execute("CREATE TABLE rows (body text)")
        await connection.close()
        participants = {"db0": Postgres(postgres.url), "events0": Kafka(kafka.bootstrap)}
        async with Coordinator(journal=postgres.url, participants=participants) as coordinator:
            field = Field(coordinator, [], Counter(), Counter())
            return {recipe: await profiled(field, recipe) for recipe in RECIPES}


def markdown(measured: Mapping[str, tuple[float, Counter[str]]]) -> str:
    """One column for each recipe."""
    owners = [*OWNERS, OTHERS, "loop, kernel"]
    lines = [
        f"`python -m tests.benchmarks.spent`, {datetime.now(tz=UTC):%Y-%m-%d}: {CONCURRENCY} transactions at once.",
        "",
        f"| client CPU | {' | '.join(measured)} |",
        "|---|" + "--:|" * len(measured),
        "| µs for each transaction | " + " | ".join(f"{cpu_us:.0f}" for cpu_us, _ in measured.values()) + " |",
    ]
    for owner in owners:
        parts = [spent[owner] / (spent.total() or 1) for _, spent in measured.values()]
        lines.append(f"| {owner} | " + " | ".join(f"{part:.0%}" for part in parts) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure, and print or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", action="store_true", help="write it between the markers of docs/performance.md")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    table = markdown(uvloop.run(measure()))
    print(table)
    if options.docs:
        Path(PAGE).write_text(between_markers(PAGE.read_text(), "profile", table))


if __name__ == "__main__":
    main()
