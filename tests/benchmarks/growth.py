"""How cost grows with messages, databases, brokers and concurrency: measured, drawn, and written into the page.

python -m tests.benchmarks.growth           measures (four minutes), keeps it in .bench/growth.json, and draws
python -m tests.benchmarks.growth --draw    draws what was kept: docs/plots/*.svg, and the table of the page
"""

import argparse
import asyncio
import json
import logging
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import uvloop
from aiokafka import AIOKafkaProducer

from coordinator import Coordinator
from participants import Kafka, Postgres
from tests.benchmarks.measure import drive, there_and_back
from tests.benchmarks.plots import Point, chart
from tests.benchmarks.readback import Wrong, read, until, value_of
from tests.benchmarks.report import LATEST, PAGE, ROOT, between_markers, cell, machine, versions, write
from tests.benchmarks.stage import Progress, Settings, Stage, servers

KEPT = LATEST.with_name("growth.json")
PLOTS = ROOT / "docs" / "plots"
INSERT = "INSERT INTO rows (body) VALUES ($1)"
AIOKAFKA = "aiokafka, Kafka only"
DATABASES = BROKERS = 4
COMMIT_RECORD, TWO_PHASE, LAST_RESOURCE, OUTBOX = "commit-record", "two-phase", "last-resource", "outbox"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What one transaction consists of, and how many run at once."""

    concurrency: int = 8
    messages: int = 1
    databases: int = 1
    brokers: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One dimension that grows, and the sides that are watched while it does."""

    name: str
    x_label: str
    shapes: dict[int, Shape]
    sides: Sequence[str]
    plots: dict[str, str]
    """Measures to draw, and what their axis says."""


RATE, P50, CPU = "transactions a second", "milliseconds, p50", "client CPU, µs a transaction"
CURVES = (
    Curve(
        name="concurrency",
        x_label="transactions at once",
        shapes={n: Shape(concurrency=n) for n in (1, 2, 4, 8, 16, 32, 64, 128)},
        sides=(AIOKAFKA, COMMIT_RECORD, TWO_PHASE, LAST_RESOURCE, OUTBOX),
        plots={"rate": RATE, "p50_ms": P50},
    ),
    Curve(
        name="messages",
        x_label="500-byte messages in each transaction, 8 transactions at once",
        shapes={n: Shape(messages=n) for n in (1, 2, 5, 10, 20, 50, 100)},
        sides=(AIOKAFKA, COMMIT_RECORD, OUTBOX),
        plots={"p50_ms": P50, "cpu_us": CPU},
    ),
    Curve(
        name="databases",
        x_label="databases in each transaction (one row in each, one message), 8 at once",
        shapes={n: Shape(databases=n) for n in range(1, DATABASES + 1)},
        sides=(TWO_PHASE, LAST_RESOURCE),
        plots={"p50_ms": P50, "cpu_us": CPU},
    ),
    Curve(
        name="brokers",
        x_label="Kafka branches in each transaction (one message in each, one row), 8 at once",
        shapes={n: Shape(brokers=n) for n in range(1, BROKERS + 1)},
        sides=(COMMIT_RECORD, TWO_PHASE),
        plots={"p50_ms": P50, "cpu_us": CPU},
    ),
)


@dataclass(slots=True)
class Field:
    """What transactions are made with, and how many rows and messages there ought to be."""

    coordinator: Coordinator
    producers: Sequence[AIOKafkaProducer]
    rows: Counter[int]
    messages: Counter[str]

    def work(self, side: str, shape: Shape) -> Callable[[int], Awaitable[None]]:
        """One transaction of *side* in *shape*."""
        value = value_of(0)

        async def theirs(worker: int) -> None:
            producer = self.producers[worker]
            async with producer.transaction():
                sent = [await producer.send("aiokafka", value) for _ in range(shape.messages)]
                await asyncio.gather(*sent)
            self.messages["aiokafka"] += shape.messages

        async def ours(_worker: int) -> None:
            async with self.coordinator.transaction("growth", recipe=side) as transaction:
                for number in range(shape.databases):
                    connection = await transaction.enlist(f"db{number}")
                    await connection.execute(INSERT, side)
                for number in range(shape.brokers):
                    for _ in range(shape.messages):
                        await transaction.publish(f"events{number}", topic=side, value=value)
            self.rows.update(range(shape.databases))
            self.messages[side] += shape.messages * shape.brokers

        return theirs if side == AIOKAFKA else ours


async def measure(stage: Stage, curves: Sequence[Curve]) -> None:
    """Every point of every curve, there and back."""
    urls = [await stage.postgres.create_database(f"growth_{n}") for n in range(DATABASES)]
    for topic in ("aiokafka", COMMIT_RECORD, TWO_PHASE, LAST_RESOURCE, OUTBOX):
        await stage.kafka.create_topic(topic, partitions=4)
    async with AsyncExitStack() as stack:
        pools = [await stack.enter_async_context(asyncpg.create_pool(url, min_size=1, max_size=1)) for url in urls]
        for pool in pools:
            await pool.execute("CREATE TABLE rows (body text)")
        widest = max(shape.concurrency for curve in curves for shape in curve.shapes.values())
        producers = [
            AIOKafkaProducer(bootstrap_servers=stage.kafka.bootstrap, transactional_id=f"aiokafka-{n}")
            for n in range(widest)
        ]
        for producer in producers:
            await stack.enter_async_context(producer)
        participants: dict[str, Any] = {f"db{n}": Postgres(url, pool=24 if n else 140) for n, url in enumerate(urls)}
        participants |= {f"events{n}": Kafka(stage.kafka.bootstrap) for n in range(BROKERS)}
        coordinator = await stack.enter_async_context(Coordinator(journal=urls[0], participants=participants))
        field = Field(coordinator, producers, Counter(), Counter())
        await _rounds(stage, field, curves)
        await _verify(stage, field, pools)


async def _rounds(stage: Stage, field: Field, curves: Sequence[Curve]) -> None:
    points = {
        f"{curve.name}/{side}/{x}": (side, shape)
        for curve in curves
        for x, shape in curve.shapes.items()
        for side in curve.sides
    }
    stage.progress.steps = stage.settings.rounds * len(points)
    stage.progress.say("warming up")
    for side, shape in points.values():
        await drive(field.work(side, shape), concurrency=shape.concurrency, seconds=stage.settings.warm_s / len(points))
    for number in range(stage.settings.rounds):
        for name in there_and_back(list(points), number):
            side, shape = points[name]
            measured = await drive(
                field.work(side, shape), concurrency=shape.concurrency, seconds=stage.settings.seconds
            )
            stage.book.note(name, measured)
            stage.progress.step(f"{name:32s} {measured['rate']:8.0f}/s  p50 {measured['p50_ms']:6.2f} ms")
            await asyncio.sleep(0.1)


async def _verify(stage: Stage, field: Field, pools: Sequence["asyncpg.Pool[asyncpg.Record]"]) -> None:
    async def empty() -> bool:
        return bool(await pools[0].fetchval("SELECT NOT EXISTS (SELECT FROM unanimity.outbox)"))

    await until(empty, "an empty outbox", every_s=0.1)
    for number, pool in enumerate(pools):
        rows = await pool.fetchval("SELECT count(*) FROM rows")
        if rows != field.rows[number]:
            raise Wrong(
                f"database {number}: {field.rows[number]} transactions were committed, and {rows} rows are there"
            )
    for topic, count in field.messages.items():
        seen = await read(stage.kafka.bootstrap, topic, count)
        if seen.count != count:
            raise Wrong(f"{topic}: {count} messages were committed, and {seen.count} are there")


async def run(settings: Settings) -> dict[str, Any]:
    """Measure all curves on servers of their own."""
    async with servers() as (postgres, kafka):
        stage = Stage(postgres, kafka, settings, progress=Progress())
        await measure(stage, CURVES)
        return {
            "points": stage.book.summary(),
            "versions": versions(await stage.ask_postgres_version()),
            "machine": machine(),
            "rounds": settings.rounds,
            "date": datetime.now(tz=UTC).isoformat(timespec="seconds"),
        }


def points_of(data: dict[str, Any], curve: Curve, side: str, measure_: str) -> list[Point]:
    """One line of a chart."""
    summaries = [(x, data["points"][f"{curve.name}/{side}/{x}"][measure_]) for x in curve.shapes]
    return [(x, measured["median"], measured["min"], measured["max"]) for x, measured in summaries]


def drawings(data: dict[str, Any]) -> dict[str, str]:
    """All charts, by the name of their file."""
    return {
        f"{curve.name}-{measure_.split('_')[0]}.svg": chart(
            f"Growth with {curve.name}",
            curve.x_label,
            label,
            {side: points_of(data, curve, side, measure_) for side in curve.sides},
        )
        for curve in CURVES
        for measure_, label in curve.plots.items()
    }


def markdown(data: dict[str, Any]) -> str:
    """The charts, and the figures that they are drawn from."""
    on = data["machine"]
    introduction = (
        f"`python -m tests.benchmarks.growth`, {data['date'][:10]}: {data['rounds']} interleaved rounds, medians;"
        f" whiskers and brackets are the least and the greatest round. {on['cores']} cores that clients and servers"
        f" share; the load average at the end was {on['load_average'][0]:g}."
    )
    lines = [introduction]
    for curve in CURVES:
        lines += ["", f"### Growth with {curve.name}", ""]
        files = [f"{curve.name}-{measure_.split('_')[0]}.svg" for measure_ in curve.plots]
        lines += [
            f"![{label} by {curve.x_label}](plots/{file})"
            for file, label in zip(files, curve.plots.values(), strict=True)
        ]
        lines += ["", f"| {curve.name} | side | a second | p50 ms | client CPU µs each |", "|--:|---|--:|--:|--:|"]
        for x in curve.shapes:
            for side in curve.sides:
                measures = data["points"][f"{curve.name}/{side}/{x}"]
                cells = " | ".join(cell(measures[measure_]) for measure_ in ("rate", "p50_ms", "cpu_us"))
                lines.append(f"| {x} | {side} | {cells} |")
    return "\n".join(lines)


def draw(data: dict[str, Any]) -> None:
    """Write the charts and the page's table."""
    PLOTS.mkdir(exist_ok=True)
    for name, svg in drawings(data).items():
        (PLOTS / name).write_text(svg)
    PAGE.write_text(between_markers(PAGE.read_text(), "growth", markdown(data)))


def main() -> None:
    """Measure and draw, or draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draw", action="store_true", help="draw what was kept")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.7)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    if not options.draw:
        settings = Settings(rounds=options.rounds, seconds=options.seconds, warm_s=8.0)
        write(uvloop.run(run(settings)), KEPT)
    if not Path(KEPT).exists():
        sys.exit(f"there is no {KEPT}: run it without --draw first")
    draw(json.loads(KEPT.read_text()))


if __name__ == "__main__":
    main()
