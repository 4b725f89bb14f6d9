"""One of several processes that run sagas on one log, to be killed: it begins its share, and goes on with any other's.

python -m tests.acceptance.saga_child SHARE OF TOTAL

Effects are rows, written with the barrier's row in one statement: what is doubled would be counted twice.
"""

import asyncio
import contextlib
import logging
import os
import random
import sys

import asyncpg

from coordinator import Coordinator, InDoubt, Refused, Settings, Unavailable
from coordinator.errors import Replaced
from coordinator.sagas import Attempts, Saga, StepContext, await_signal, sleep, step

SETTINGS = Settings(lease_s=1.0, recovery_s=0.1)
PACE_S = 0.02
OFTEN = Attempts(at_most=50, backoff_s=0.02, backoff_max_s=0.5)
TABLES = """
CREATE TABLE entered (gid text, step text, direction text, PRIMARY KEY (gid, step, direction));
CREATE TABLE effects (at bigserial, gid text, step text, direction text);
CREATE TABLE calls (gid text, step text, process integer);
"""
ACT = """
WITH entered AS (INSERT INTO entered VALUES ($1, $2, 'action') ON CONFLICT DO NOTHING RETURNING 1)
INSERT INTO effects (gid, step, direction) SELECT $1, $2, 'action' FROM entered
"""
UNDO = """
WITH origin AS (INSERT INTO entered VALUES ($1, $2, 'action') ON CONFLICT DO NOTHING RETURNING 1),
own AS (INSERT INTO entered VALUES ($1, $2, 'compensation') ON CONFLICT DO NOTHING RETURNING 1)
INSERT INTO effects (gid, step, direction)
SELECT $1, $2, 'compensation' FROM own WHERE NOT EXISTS (SELECT FROM origin)
"""


def kind_of(number: int) -> str:
    """Which saga the *number*-th is: three in ten are refused, one is patient, three have steps not to be repeated."""
    return ("straight", "careful", "five", "forked", "careful", "refused", "five", "careful", "refused", "patient")[
        number % 10
    ]


def sagas_of(pool: asyncpg.Pool) -> dict[str, Saga]:
    """The definitions, whose steps write their effects by *pool*."""

    def written(name: str, *, undoable: bool = True, refuses: bool = False, **options: object):
        async def act(context: StepContext) -> str:
            if options["on_unknown"] == "compensate":  # First: whoever is killed while it sleeps has been called.
                await pool.execute("INSERT INTO calls VALUES ($1, $2, $3)", context.gid, context.step, os.getpid())
            await asyncio.sleep(random.uniform(0, 0.025))
            if refuses:
                raise Refused("no")
            await pool.execute(ACT, context.gid, context.step)
            await asyncio.sleep(random.uniform(0, 0.025))  # Whoever is killed now has done it, and nobody knows.
            return name

        async def undo(context: StepContext) -> None:
            await asyncio.sleep(random.uniform(0, 0.02))
            await pool.execute(UNDO, context.gid, context.step)

        options.setdefault("on_unknown", "retry")
        return step(act, name=name, compensate=undo if undoable else None, retry=OFTEN, undo_retry=OFTEN, **options)

    def last(**options: object):
        return written("ship", undoable=False, **options)

    return {
        "straight": Saga("straight", written("book"), written("pay"), last(pivot=True)),
        "careful": Saga(
            "careful", written("book", on_unknown="compensate"), written("pay", on_unknown="compensate"),
            last(pivot=True),
        ),
        "refused": Saga("refused", written("book"), written("pay"), last(pivot=True, refuses=True)),
        "five": Saga(
            "five", written("book"), written("left", after="book"), written("right", after="book"),
            last(after=("left", "right"), pivot=True), written("thank", undoable=False),
        ),
        "forked": Saga(
            "forked", written("book"), written("left", after="book", refuses=True), written("right", after="book"),
            last(after=("left", "right")),
        ),
        "patient": Saga("patient", written("book"), sleep("nap", 0.5), await_signal("go"), written("pay"), last()),
    }  # fmt: skip


async def begin(coordinator: Coordinator, saga: Saga, number: int) -> None:
    """Begin it, or find it, and give a patient one its signal."""
    while True:
        try:
            handle = await coordinator.start(saga, key=str(number))
            if saga.name == "patient":
                with contextlib.suppress(Refused):
                    await handle.signal("go", number)
        except (Unavailable, InDoubt, Replaced, OSError):
            await asyncio.sleep(0.05)
        else:
            return


async def main(share: int, of: int, total: int) -> None:
    """Until it is killed."""
    logging.disable(logging.CRITICAL)
    url = os.environ["COORDINATOR_POSTGRES_URL"]
    async with asyncpg.create_pool(url, min_size=1, max_size=4) as pool:
        sagas = sagas_of(pool)
        async with Coordinator(
            journal=url, sagas=sagas.values(), settings=SETTINGS, drain_on_sigterm=True
        ) as coordinator:
            begun = {row["key"] for row in await pool.fetch("SELECT key FROM unanimity.sagas")}
            print(coordinator.sagas.engine.ownership.lease.owner, flush=True)
            for number in range(share, total, of):
                saga = sagas[kind_of(number)]
                if str(number) in begun and saga.name != "patient":
                    continue
                await begin(coordinator, saga, number)
                await asyncio.sleep(PACE_S)
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:4])))
