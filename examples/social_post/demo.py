"""The social-post write path, end to end on real servers, while things break. Run it with `make demo`.

Every cell (policy, recipe, condition) is checked against what the policy promises (`promises.py`): what the caller
saw, how often the post is in Postgres, and how often a `read_committed` consumer sees it. One cell that differs, or
anything left over at the end, and the exit code is 1.
"""

import asyncio
import logging
import os
import shutil
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from coordinator import Coordinator, CoordinatorError, Parked
from coordinator.dev.downloads import cache_directory
from coordinator.dev.kafka import LocalKafka
from coordinator.dev.postgres import LocalPostgres
from coordinator.faults.injectors import ArmedFaults, Fault
from coordinator.faults.points import Cell
from examples.social_post.observer import Observer, until
from examples.social_post.promises import (
    CUT,
    FROZEN,
    HEALTHY,
    KILL_POLICIES,
    KILLS,
    LOST,
    POLICIES,
    SETTINGS,
    STOPPED,
    Promise,
    combinations,
    promised,
)
from examples.social_post.service import TABLES, TOPIC, coordinator_of, create_post

RECOVERED_WITHIN_S = 30.0
WORKERS_AT_ONCE = 3
_COMMIT_POINTS = {"commit-record": "pg.commit_record", "two-phase": "pg.commit_prepared"}


@dataclass(slots=True, kw_only=True)
class Row:
    """One cell: what was promised, and what was seen."""

    policy: str
    recipe: str
    condition: str
    caller: str
    rows: int = 0
    messages: int = 0
    recovered_by: str = ""
    recovered_s: float | None = None
    why: str = ""

    @property
    def author(self) -> str:
        """Who wrote this cell's one post."""
        return f"{self.policy}/{self.recipe}/{self.condition}"

    @property
    def kept(self) -> bool:
        """Whether it is what was promised."""
        return Promise(self.caller, self.rows, self.messages) == promised(self.policy, self.recipe, self.condition)


class Demo:
    """The servers, the surviving process, and what was seen."""

    def __init__(self, postgres: LocalPostgres, kafka: LocalKafka, coordinator: Coordinator, seen: Observer) -> None:
        self.postgres, self.kafka, self.coordinator, self.seen = postgres, kafka, coordinator, seen
        self.table: list[Row] = []

    async def run(self) -> None:
        """All conditions, one after the other."""
        await self.in_this_process(HEALTHY)
        await self.in_this_process(LOST, faults=[_at_commit(point, Cell.REPLY_LOST) for point in _commit_points()])
        await self.one_by_one(CUT)
        await self.with_broker(STOPPED, hurt=self.kafka.stop, heal=self.kafka.start)
        await self.with_broker(FROZEN, hurt=_called(self.kafka.freeze), heal=_called(self.kafka.thaw))
        await self.killed()

    async def in_this_process(self, condition: str, faults: list[Fault] | None = None) -> None:
        """Every policy and recipe at once, in the process that survives."""
        say(condition)
        with ArmedFaults(faults=faults or []):
            rows = await asyncio.gather(*(self.write(p, r, condition) for p, r in combinations()))
        await asyncio.gather(*(self.settle(row, "-" if condition == HEALTHY else "its own process") for row in rows))

    async def one_by_one(self, condition: str) -> None:
        """Cut every connection to the database just when this one commits."""
        say(condition)
        for policy, recipe in combinations():
            point = _COMMIT_POINTS.get(recipe, "pg.commit_prepared")
            fault = Fault(point=point, action="call", call=self.seen.cut, times=1)
            with ArmedFaults(faults=[fault]):
                row = await self.write(policy, recipe, condition)
            await self.settle(row, "its own process")

    async def with_broker(
        self, condition: str, *, hurt: Callable[[], Awaitable[None]], heal: Callable[[], Awaitable[None]]
    ) -> None:
        """Take the broker away, write, look, bring it back, and wait until every promise is kept."""
        say(condition)
        await hurt()
        rows = await asyncio.gather(*(self.write(p, r, condition) for p, r in combinations()))
        early = [row for row in rows if self.seen.messages[row.author]]
        assert not early, f"seen on a broker that was away: {early}"
        await heal()
        for row in rows:
            if row.caller == Parked.__name__:
                gid = row.recovered_by
                await self.coordinator.resolve(gid, "commit", reason="the broker is back")
        by = {"deferred": "relay", "Parked": "operator, relay", "Unavailable": "-"}
        await asyncio.gather(*(self.settle(row, by.get(row.caller, "?")) for row in rows))

    async def killed(self) -> None:
        """Kill a process of its own at each point; the surviving one finishes what it left."""
        cells = [(p, r, point) for r, points in KILLS.items() for point in points for p in KILL_POLICIES]
        say(f"a process killed at each of {len(cells)} points")
        at_once = asyncio.Semaphore(WORKERS_AT_ONCE)

        async def one(policy: str, recipe: str, point: str) -> None:
            async with at_once:
                row, pid = await self.write_and_die(policy, recipe, point)
            await self.settle(row, "survivor", pid=pid)

        await asyncio.gather(*(one(*cell) for cell in cells))

    async def write(self, policy: str, recipe: str, condition: str) -> Row:
        """Write this cell's post; what its caller sees."""
        row = Row(policy=policy, recipe=recipe, condition=condition, caller="")
        try:
            transaction = await create_post(
                self.coordinator, author=row.author, body="hello", policy=POLICIES[policy], recipe=recipe
            )
        except Parked as parked:
            row.caller, row.recovered_by = "Parked", parked.gid or ""
        except CoordinatorError as failure:
            names = [kind.__name__ for kind in type(failure).__mro__]
            row.caller = "Unavailable" if "Unavailable" in names else names[0]
            row.why = str(failure)
        else:
            assert transaction.outcome is not None
            row.caller = "deferred" if transaction.outcome.deferred else "committed"
        return row

    async def write_and_die(self, policy: str, recipe: str, point: str) -> tuple[Row, int]:
        """Write this cell's post in a process that is killed at *point*."""
        row = Row(policy=policy, recipe=recipe, condition=f"killed at {point}", caller="killed")
        environment = {
            **os.environ,
            "COORDINATOR_FAULTS": f"{point}=crash",
            "COORDINATOR_POSTGRES_URL": self.postgres.url,
            "COORDINATOR_KAFKA_BOOTSTRAP": self.kafka.bootstrap,
        }
        arguments = ["-m", "examples.social_post.worker", row.author, recipe, policy]
        worker = await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            env=environment,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, errors = await worker.communicate()
        if worker.returncode != -9:
            row.caller = f"exit {worker.returncode}: {errors.decode(errors='replace').strip()[-300:]}"
        return row, worker.pid

    async def settle(self, row: Row, by: str, *, pid: int | None = None) -> None:
        """Wait until the cell is what was promised and nothing of it is in doubt; then look once more."""
        promise = promised(row.policy, row.recipe, row.condition)

        async def whole() -> bool:
            row.rows = await self.seen.rows(row.author)
            row.messages = self.seen.messages[row.author]
            there = (row.rows, row.messages) == (promise.rows, promise.messages)
            return there and (pid is None or await self.seen.settled(pid))

        row.recovered_s = await until(whole, RECOVERED_WITHIN_S)
        row.recovered_by = by
        self.table.append(row)

    async def recount(self) -> None:
        """Look at every cell once more, when everything is over: nothing came late, and nothing twice."""
        for row in self.table:
            row.rows, row.messages = await self.seen.rows(row.author), self.seen.messages[row.author]


def say(text: str) -> None:
    """Progress, on stderr."""
    sys.stderr.write(f"  … {text}\n")


def report(rows: list[Row], leftovers: dict[str, int], seconds: float) -> bool:
    """Print the table; whether every promise was kept."""
    table = Table(title="What each policy promises, and what was seen", header_style="bold")
    for column in ("policy", "recipe", "condition", "caller saw", "rows", "messages", "recovered by", "after", ""):
        table.add_column(column, justify="right" if column in ("rows", "messages", "after") else "left")
    for row in sorted(rows, key=lambda r: (r.condition, r.recipe, r.policy)):
        after = "never" if row.recovered_s is None else f"{row.recovered_s:.1f} s"
        good = row.kept and row.recovered_s is not None
        mark = (
            "[green]kept[/]" if good else f"[red]BROKEN: {promised(row.policy, row.recipe, row.condition)} {row.why}[/]"
        )
        cells = (row.policy, row.recipe, row.condition, row.caller, str(row.rows), str(row.messages), row.recovered_by)
        table.add_row(*cells, after, mark)
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    broken = [row for row in rows if not row.kept or row.recovered_s is None]
    left = {what: count for what, count in leftovers.items() if count}
    console.print(f"{len(rows)} cells in {seconds:.0f} s, {len(broken)} broken; left over: {left or 'nothing'}")
    return not broken and not left


async def play(directory: Path) -> tuple[list[Row], dict[str, int]]:
    """Start servers of its own and run everything: the cells, and what was left over."""
    shutil.rmtree(directory, ignore_errors=True)
    postgres = LocalPostgres(directory / "postgres", cache=cache_directory())
    kafka = LocalKafka(directory=directory / "kafka", cache=cache_directory(), two_phase=True)
    say("starting PostgreSQL and Apache Kafka")
    try:
        await asyncio.gather(postgres.start(), kafka.start())
        await kafka.create_topic(TOPIC)
        async with Observer(postgres.url, kafka.bootstrap) as seen:
            await seen.execute(TABLES)
            async with coordinator_of(postgres.url, kafka.bootstrap, SETTINGS) as coordinator:
                demo = Demo(postgres, kafka, coordinator, seen)
                await demo.run()
                left = await seen.settled_within(10.0)
                await demo.recount()
                return demo.table, left
    finally:
        kafka.thaw()
        await asyncio.gather(postgres.kill(), kafka.kill())


async def main(directory: Path) -> int:
    """Run everything, print the table, and say whether every promise was kept."""
    began_s = time.monotonic()
    logging.basicConfig(level=os.environ.get("DEMO_LOG", "CRITICAL"))
    rows, leftovers = await play(directory)
    return 0 if report(rows, leftovers, time.monotonic() - began_s) else 1


def _commit_points() -> list[str]:
    return sorted(set(_COMMIT_POINTS.values()))


def _at_commit(point: str, cell: Cell) -> Fault:
    return Fault(point=point, cell=cell, action="error", times=len(combinations()))


def _called(function: Callable[[], None]) -> Callable[[], Awaitable[None]]:
    async def call() -> None:
        function()

    return call


if __name__ == "__main__":
    sys.exit(uvloop.run(main(Path(".dev/demo").absolute())))
