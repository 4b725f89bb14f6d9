"""Everything that is promised about speed, side by side in one run.

    make bench                                                    all of it, about fifteen minutes
    make bench ARGUMENTS=--quick                                  does it work? about two minutes, on too few figures
    make bench ARGUMENTS="--only kafka_only --rounds 3"           one part

Interleaved rounds on a PostgreSQL and a Kafka of its own; every message is read back, counted, and its order checked.
Ends with 1 where a count or an order is wrong. A missed target is shown, and is no failure.
"""

import argparse
import dataclasses
import logging
import sys
from pathlib import Path

import uvloop
from rich.console import Console

from tests.benchmarks import drain, latency, ratios, sagas, transactions
from tests.benchmarks.measure import Book
from tests.benchmarks.readback import Wrong
from tests.benchmarks.report import LATEST, report, tell, write
from tests.benchmarks.stage import QUICK, Progress, Settings, Stage, servers

PARTS = ("transactions", "kafka_only", "drain", "latency", "sagas")


def parts_of(only: str | None) -> tuple[str, ...]:
    """Which parts to run: all (of which `kafka_only` is a share of `transactions`), or the one that was asked for."""
    return (only,) if only else ("transactions", "drain", "latency", "sagas")


def steps(parts: tuple[str, ...], settings: Settings, concurrency: tuple[int, ...]) -> int:
    """How many lines of progress there will be."""
    of = {
        "transactions": transactions.steps(settings.rounds, concurrency=concurrency),
        "kafka_only": transactions.steps(settings.rounds, concurrency=concurrency, postgres_too=False),
        "drain": drain.steps(settings.rounds),
        "latency": latency.steps(settings.rounds),
        "sagas": sagas.steps(settings.rounds),
    }
    return sum(of[part] for part in parts)


async def run(parts: tuple[str, ...], settings: Settings, book: Book, concurrency: tuple[int, ...]) -> None:
    """Measure *parts* on servers of their own, into *book*."""
    progress = Progress(steps(parts, settings, concurrency))
    progress.say("starting PostgreSQL and Kafka")
    async with servers() as (postgres, kafka):
        stage = Stage(postgres, kafka, settings, book, progress)
        book.postgres_version = await stage.ask_postgres_version()
        await measure(stage, parts, concurrency)


async def measure(stage: Stage, parts: tuple[str, ...], concurrency: tuple[int, ...] = ratios.CONCURRENCY) -> None:
    """Measure *parts* on the servers that are there."""
    if "transactions" in parts or "kafka_only" in parts:
        await transactions.compare(stage, concurrency=concurrency, postgres_too="transactions" in parts)
    if "drain" in parts:
        await drain.compare(stage)
    if "latency" in parts:
        await latency.compare(stage)
    if "sagas" in parts:
        await sagas.compare(stage)


def main() -> int:
    """Run, tell, and keep what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke run: its figures mean nothing")
    parser.add_argument("--only", choices=PARTS, help="one part; what it measured is kept in .bench/partial.json")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="how long each side of the transactions is driven in each round")
    parser.add_argument("--rows", type=int, help="the backlog of the relays")
    parser.add_argument("--concurrency", type=int, nargs="*", default=list(ratios.CONCURRENCY))
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    given = {
        name: getattr(options, name) for name in ("rounds", "seconds", "rows") if getattr(options, name) is not None
    }
    settings = dataclasses.replace(QUICK if options.quick else Settings(), **given)
    book, good = Book(), False
    try:
        uvloop.run(run(parts_of(options.only), settings, book, tuple(options.concurrency)))
        good = True
    except Wrong as wrong:
        Console(stderr=True).print(f"[red]wrong:[/] {wrong}")
    finally:  # A run that failed keeps what it has measured, but not as the latest.
        whole = good and not options.quick and not options.only and tuple(options.concurrency) == ratios.CONCURRENCY
        keep(book, settings, LATEST if whole else LATEST.with_name("quick.json" if options.quick else "partial.json"))
    return 0 if good else 1


def keep(book: Book, settings: Settings, path: Path) -> None:
    """Tell what was measured, and write it."""
    command = " ".join(["make bench", *(['ARGUMENTS="' + " ".join(sys.argv[1:]) + '"'] if sys.argv[1:] else [])])
    data = report(book, settings, postgres=book.postgres_version, command=command)
    write(data, path)
    tell(data, Console(width=160))
    Console(stderr=True).print(f"kept in {path}")


if __name__ == "__main__":
    sys.exit(main())
