"""Three-step sagas beside DBOS's, durable at each step; thousands asleep, and thousands that a killed process left.

Every side has a process of its own, on databases of one PostgreSQL. DBOS is measured as it comes and as it is fastest:
in each round and at each concurrency the best of its variants is what ours is held against.
"""

import asyncio
import json
import statistics
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from tests.benchmarks import ratios
from tests.benchmarks.drain import end
from tests.benchmarks.measure import there_and_back
from tests.benchmarks.readback import Wrong
from tests.benchmarks.saga_worker import DBOS, WITHIN_S
from tests.benchmarks.stage import Stage

SIDES = (ratios.SAGA, *DBOS)
ASLEEP, LEFT = "sagas_asleep", "sagas_left"


def steps(rounds: int) -> int:
    """How many lines of progress there will be."""
    return rounds * len(ratios.SAGA_CONCURRENCY) + 2


async def compare(stage: Stage) -> None:
    """Every round, the same sagas on each side; then, once, the thousands."""
    async with AsyncExitStack() as stack:
        urls = [await stage.postgres.create_database(f"sagas_{side}") for side in SIDES]
        begun = await asyncio.gather(
            *(stack.enter_async_context(worker(side, url)) for side, url in zip(SIDES, urls, strict=True))
        )
        workers = dict(zip(SIDES, begun, strict=True))
        for each in workers.values():
            await told(each, f"go 64 {stage.settings.warm_side_s}")
        for number in range(stage.settings.rounds):
            for concurrency in ratios.SAGA_CONCURRENCY:
                await one_round(stage, workers, number, concurrency)
    stage.book.say(
        "saga_vs_dbos: ours beside the fastest, in each round, of DBOS's variants: "
        + "; ".join(
            f"{side} ({'synchronous' if 'threads' in side else 'async'}, {told_as(DBOS[side])})" for side in DBOS
        )
    )
    await sleepers(stage)
    await leftovers(stage)


async def one_round(
    stage: Stage, workers: dict[str, asyncio.subprocess.Process], number: int, concurrency: int
) -> None:
    """Each side in turn; the best of DBOS's is noted as DBOS's."""
    measured = {}
    for side in there_and_back(SIDES, number):
        measured[side] = await told(workers[side], f"go {concurrency} {stage.settings.seconds}")
        stage.book.note(f"{side}.c{concurrency}", measured[side])
    best = max(DBOS, key=lambda side: measured[side]["rate"])
    stage.book.note(f"{ratios.DBOS}.c{concurrency}", measured[best])
    rate, theirs = measured[ratios.SAGA]["rate"], measured[best]["rate"]
    stage.progress.step(f"sagas at {concurrency}: {rate:,.0f} a second; {best} {theirs:,.0f}")


async def sleepers(stage: Stage) -> None:
    """What sagas cost that wait for tomorrow."""
    count, seconds = stage.settings.sagas, 5 * stage.settings.seconds
    url = await stage.postgres.create_database("sagas_asleep")
    async with worker("many", url, stage.settings.lease_s) as process:
        cost = await told(process, f"sleep {count} {seconds}")
    stage.book.note(ASLEEP, cost)
    said = f"{count:,} sagas asleep: {cost['memory_mb']:.1f} MB, and {cost['cpu_s']:.2f} s of CPU in {seconds:g} s"
    stage.book.say(f"{said} (to be below 50 MB, and no load)")
    stage.progress.step(said)


async def leftovers(stage: Stage) -> None:
    """A process is killed in the middle of many sagas, and another one finishes them; some times over."""
    count, lease_s = stage.settings.sagas, stage.settings.lease_s
    for death in range(stage.settings.deaths):
        url = await stage.postgres.create_database(f"sagas_left_{death}")
        async with worker("many", url, lease_s) as first:
            await told(first, f"leave {count}")
            async with worker("many", url, lease_s) as successor:
                first.kill()
                await first.wait()
                stage.book.note(LEFT, await told(successor, f"finish {count}"))
    after_s, rates = stage.book.median(LEFT, "first_s"), sorted(stage.book.sides[LEFT]["rate"])
    said = (
        f"{count:,} sagas of a killed process went on after {after_s:.1f} s, {statistics.median(rates):,.0f} a second "
        f"({rates[0]:,.0f}..{rates[-1]:,.0f})"
    )
    stage.book.say(f"{said} to their ends (at least 2,000; the lease is {lease_s:g} s)")
    stage.progress.step(said)


@asynccontextmanager
async def worker(kind: str, url: str, *arguments: object) -> AsyncIterator[asyncio.subprocess.Process]:
    """A worker that is ready, on the database *url*; gone afterwards."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.benchmarks.saga_worker",
        kind,
        url,
        *map(str, arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        await answer(process)
        yield process
    finally:
        if process.returncode is None:
            await end(process)


async def told(process: asyncio.subprocess.Process, order: str) -> dict[str, float]:
    """What it answers to an order."""
    assert process.stdin is not None
    process.stdin.write(order.encode() + b"\n")
    return await answer(process)


async def answer(process: asyncio.subprocess.Process) -> dict[str, float]:
    """The next line that it says."""
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), WITHIN_S + 60)
    if not line:
        raise Wrong("a process that ran sagas ended early: see what it wrote above")
    answered: dict[str, float] = json.loads(line)
    return answered


def told_as(settings: dict[str, object]) -> str:
    """Settings in words."""
    return ", ".join(f"{name}={value}" for name, value in settings.items()) or "its defaults"
