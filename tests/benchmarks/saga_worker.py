"""A process that runs sagas for `sagas.py`, told what to do by its standard input: a line, and a line of JSON back.

    go CONCURRENCY SECONDS     three-step sagas in a closed loop: their rate, latencies, and CPU time for each
    sleep COUNT SECONDS        so many sagas that sleep: memory before and after, CPU time in so many seconds of rest
    leave COUNT                so many sagas whose second step never ends: this process then waits to be killed
    finish COUNT               finish what was left: when the first one went on, and how many a second ended

Both sides are driven by the same loop, their steps do the same nothing, and every saga's result is checked.
"""

import asyncio
import gc
import json
import logging
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import psutil
import uvloop

from coordinator import Coordinator, Settings
from coordinator.sagas import Saga, sleep, step
from tests.benchmarks.measure import drive
from tests.benchmarks.readback import Wrong

Answer = dict[str, float]
Order = Callable[..., Awaitable[Answer]]
STARTING = 256
"""How many sagas are being started at once, where it is their number and not their rate that is asked for."""
WITHIN_S = 120.0
DBOS: dict[str, dict[str, Any]] = {
    "dbos_defaults": {},
    "dbos_tuned": {"sys_db_pool_size": 64, "use_listen_notify": False},
    "dbos_threads": {"sys_db_pool_size": 64, "use_listen_notify": False, "max_executor_threads": 256},
}
"""What DBOS is told beside its database. "dbos_threads" runs its synchronous workflows, the others its async ones."""


async def first(request: int) -> int:
    """Nothing."""
    return request + 1


async def second(first: int) -> int:
    """Nothing."""
    return first + 1


async def third(second: int) -> int:
    """Nothing."""
    return second + 1


THREE = Saga("bench-three", step(first), step(second), step(third))


@asynccontextmanager
async def ours(url: str) -> AsyncIterator[dict[str, Order]]:
    """Our sagas."""
    async with Coordinator(journal=url, sagas=[THREE]) as coordinator:
        numbers = count()

        async def one(_: int) -> None:
            number = next(numbers)
            outcome = await coordinator.run(THREE, number)
            expect(outcome.outputs["third"], number + 3)

        yield {"go": closed_loop(one)}


@asynccontextmanager
async def theirs(variant: str, url: str) -> AsyncIterator[dict[str, Order]]:
    """DBOS, as its documentation has it: a workflow of three steps, called and awaited."""
    import dbos

    config = dbos.DBOSConfig(name="bench", system_database_url=url, log_level="ERROR", **DBOS[variant])
    dbos.DBOS(config=config)

    @dbos.DBOS.step()
    async def add(number: int) -> int:
        return number + 1

    @dbos.DBOS.workflow()
    async def workflow(number: int) -> int:
        return await add(await add(await add(number)))

    @dbos.DBOS.step()
    def add_in_thread(number: int) -> int:
        return number + 1

    @dbos.DBOS.workflow()
    def workflow_in_thread(number: int) -> int:
        return add_in_thread(add_in_thread(add_in_thread(number)))

    numbers, loop = count(), asyncio.get_running_loop()
    with ThreadPoolExecutor(STARTING) as threads:

        async def one(_: int) -> None:
            number = next(numbers)
            if variant == "dbos_threads":
                result = await loop.run_in_executor(threads, workflow_in_thread, number)
            else:
                result = await workflow(number)
            expect(result, number + 3)

        dbos.DBOS.launch()
        yield {"go": closed_loop(one)}
        dbos.DBOS.destroy()


def closed_loop(one: Callable[[int], Awaitable[None]]) -> Order:
    """What "go" does with one saga."""

    async def go(concurrency: str, seconds: str) -> Answer:
        return await drive(one, concurrency=int(concurrency), seconds=float(seconds))

    return go


@asynccontextmanager
async def many(url: str, lease_s: str) -> AsyncIterator[dict[str, Order]]:
    """Thousands of our sagas: asleep, left behind, and found again."""
    reached, ended, never = list[float](), list[float](), asyncio.Event()
    leaving = False

    async def wait(first: int) -> int:
        reached.append(time.monotonic())
        if leaving:
            await never.wait()
        return first + 1

    async def end(wait: int) -> int:
        ended.append(time.monotonic())
        return wait + 1

    asleep = Saga("bench-asleep", step(first), sleep("rest", 24 * 3600.0), step(second, after="rest"))
    # Its steps are idempotent, so that whoever goes on with it calls them again: any other policy would undo it.
    left = Saga("bench-left", step(first), step(wait, timeout_s=3600.0, on_unknown="retry"), step(end))

    settings = Settings(lease_s=float(lease_s))
    async with Coordinator(journal=url, sagas=[asleep, left], settings=settings) as coordinator:
        engine = coordinator.sagas.engine

        async def start(saga: Saga, number: int) -> None:
            numbers = iter(range(number))

            async def starter() -> None:
                for each in numbers:
                    await coordinator.start(saga, each)

            await asyncio.gather(*(starter() for _ in range(STARTING)))

        async def sleepers(number: str, seconds: str) -> Answer:
            await start(asleep, STARTING)
            await until(lambda: not engine.running)
            before = memory_mb()
            await start(asleep, int(number))
            await until(lambda: not engine.running)
            after, cpu_s = memory_mb(), time.process_time()
            await asyncio.sleep(float(seconds))
            return {"memory_mb": after - before, "cpu_s": time.process_time() - cpu_s}

        async def leave(number: str) -> Answer:
            nonlocal leaving
            leaving = True
            await start(left, int(number))
            await until(lambda: len(reached) == int(number))
            return {}

        async def finish(number: str) -> Answer:
            began = time.monotonic()
            await until(lambda: len(ended) >= int(number) and not engine.running)
            expect(len(ended), int(number))
            return {"first_s": reached[0] - began, "rate": int(number) / (time.monotonic() - reached[0])}

        yield {"sleep": sleepers, "leave": leave, "finish": finish}


async def until(true: Callable[[], bool]) -> None:
    """Wait for it, and say so where it does not come."""
    async with asyncio.timeout(WITHIN_S):
        while not true():  # noqa: ASYNC110 - a look costs less than an event for each saga would.
            await asyncio.sleep(0.01)


def memory_mb() -> float:
    """What this process has in memory, without what is only not collected yet."""
    gc.collect()
    return psutil.Process().memory_info().rss / 2**20


def expect(found: Any, due: int) -> None:
    """The result of a saga."""
    if found != due:
        raise Wrong(f"a saga came to {found}, and not to {due}")


async def main(kind: str, url: str, *arguments: str) -> None:
    """Be ready, and do as told until standard input ends."""
    logging.basicConfig(level=logging.ERROR)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    made = theirs(kind, url) if kind in DBOS else {"saga": ours, "many": many}[kind](url, *arguments)
    async with made as orders:
        say({})
        while line := await lines.readline():
            order, *words = line.decode().split()
            say(await orders[order](*words))


def say(answer: Answer) -> None:
    """One line."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    run = asyncio.run if sys.argv[1] == "dbos_defaults" else uvloop.run
    run(main(*sys.argv[1:]))
