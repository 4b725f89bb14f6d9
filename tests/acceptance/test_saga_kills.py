"""A thousand sagas on three processes, one of which is killed again and again: each ends right, each effect is once."""

import asyncio
import json
import os
import random
import statistics
import sys
import time

import asyncpg

from tests.acceptance.saga_child import TABLES, kind_of

TOTAL, PROCESSES = 1_000, 3
WITHIN_S = 90.0

A, C = "action", "compensation"
UNDONE = {("book", A), ("book", C), ("pay", A), ("pay", C)}
THREE = {("book", A), ("pay", A), ("ship", A)}
ALLOWED = {
    "straight": [THREE],
    "careful": [THREE, UNDONE, {("book", A), ("book", C)}, set()],
    "patient": [THREE],
    "five": [{("book", A), ("left", A), ("right", A), ("ship", A), ("thank", A)}],
    "refused": [UNDONE],
    "forked": [{("book", A), ("book", C), ("right", A), ("right", C)}, {("book", A), ("book", C)}],
}
ENDED = "SELECT count(*) FROM unanimity.saga_events WHERE final"
LEFT = """
SELECT s.number FROM unanimity.sagas AS s WHERE s.owner = $1
AND NOT EXISTS (SELECT FROM unanimity.saga_events AS e WHERE e.number = s.number AND e.final)
"""
REPEATED = "SELECT gid, step FROM calls GROUP BY 1, 2 HAVING count(*) > 1"
EVENTS = """
SELECT s.gid, s.key, s.name, array_agg(e.event::text ORDER BY e.position) AS events
FROM unanimity.sagas AS s JOIN unanimity.saga_events AS e USING (number) GROUP BY s.number
"""
PLACES = {"book": 0, "left": 1, "right": 1, "pay": 1, "ship": 2, "thank": 3}
"""Which step comes after which, in all the sagas."""
UNKNOWN = "SELECT count(*) FROM unanimity.saga_events WHERE event ->> 't' = 'unknown'"
PROGRESS = "SELECT min(at) - $2 FROM unanimity.saga_events WHERE number = ANY($1::bigint[]) AND at > $2"


class Child:
    """One process, and the owner that it is."""

    def __init__(self, share, process, owner):
        self.share, self.process, self.owner = share, process, owner

    @classmethod
    async def begun(cls, url, share):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.acceptance.saga_child", str(share), str(PROCESSES), str(TOTAL),
            env={**os.environ, "COORDINATOR_POSTGRES_URL": url}, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        return cls(share, process, (await process.stdout.readline()).decode().strip())

    async def kill(self):
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


async def busy(pool, child):
    """Until it has sagas to leave behind, or a second has gone by: on a slow machine it is idle most of the time."""
    for _ in range(100):
        if await pool.fetch(LEFT, child.owner):
            return
        await asyncio.sleep(0.01)


async def killed_again_and_again(url, pool, children, chance):
    """Until all have ended: when each was killed, and what it left."""
    kills = []
    async with asyncio.timeout(WITHIN_S):
        while await pool.fetchval(ENDED) < TOTAL:
            await asyncio.sleep(chance.uniform(0.3, 1.2))
            victim = chance.choice([c for c in children if await pool.fetch(LEFT, c.owner)] or children)
            assert victim.process.returncode is None, "nobody dies but by our hand"
            await busy(pool, victim)
            await victim.kill()
            left = [row["number"] for row in await pool.fetch(LEFT, victim.owner)]
            kills.append((await pool.fetchval("SELECT clock_timestamp()"), left))
            children[children.index(victim)] = await Child.begun(url, victim.share)
    return kills


def right(events, happened):
    """Whether exactly that happened which is to be there of a saga that ended as its log says."""
    acted, undone = ({step for step, way in happened if way == each} for each in (A, C))
    done, unknown, refused = (
        {event["s"] for event in events if event["t"] == kind and event["s"] in PLACES}
        for kind in ("done", "unknown", "refused")
    )
    if not unknown | refused:
        return (acted, undone) == (done, set())  # It was completed.
    return acted == undone and done <= acted <= done | unknown


def in_order(happened):
    """Whether each step came after those that it comes after, and was undone after itself, and before those."""
    for way, direction in ((A, 1), (C, -1)):
        places = [direction * PLACES[step] for step, found in happened if found == way]
        if places != sorted(places):
            return False
    return all((step, A) in happened[:at] for at, (step, way) in enumerate(happened) if way == C)


async def wrong(pool):
    """Sagas whose effects are not those of their ending, once each and in order."""
    effects = {}
    for row in await pool.fetch("SELECT gid, step, direction FROM effects ORDER BY at"):
        effects.setdefault(row["gid"], []).append((row["step"], row["direction"]))
    found = []
    for row in await pool.fetch(EVENTS):
        happened = effects.pop(row["gid"], [])
        as_told = right([json.loads(event) for event in row["events"]], happened)
        once = len(happened) == len(set(happened)) and in_order(happened)
        if not as_told or not once or set(happened) not in ALLOWED[kind_of(int(row["key"]))]:
            found.append((row["name"], row["key"], row["events"], happened))
    return [*found, *effects.items()]


async def test_a_thousand_sagas_end_as_they_must_while_processes_are_killed(database):
    """And what a dead process left goes on soon."""
    seed = random.randrange(2**32)
    began_s, chance = time.monotonic(), random.Random(seed)
    print(f"\nseed {seed}")
    async with asyncpg.create_pool(database, min_size=1, max_size=2) as pool:
        await pool.execute(TABLES)
        children = list(await asyncio.gather(*(Child.begun(database, share) for share in range(PROCESSES))))
        try:
            kills = await killed_again_and_again(database, pool, children, chance)
        finally:
            for child in children:
                await child.kill()
        took_s = time.monotonic() - began_s
        assert await pool.fetchval("SELECT count(DISTINCT key) FROM unanimity.sagas") == TOTAL
        assert await wrong(pool) == []
        assert await pool.fetch(REPEATED) == [], "a step that is not to be repeated was, by a successor"
        undone = await pool.fetchval(UNKNOWN)
        waits = [await pool.fetchval(PROGRESS, left, at) for at, left in kills if left]
    seconds = sorted(wait.total_seconds() for wait in waits if wait is not None)
    assert len(kills) >= 5, "processes that are not killed prove nothing"
    assert len(seconds) >= 3, "kills that leave nothing behind prove nothing"
    assert undone, "no step in flight was ever lost: its policy was not tried"
    lost = sum(len(left) for _, left in kills)
    print(
        f"{TOTAL} sagas, {len(kills)} kills, {lost} sagas left by them, {undone} of them with a step to be undone,"
        f" {took_s:.0f} s;"
        f" from a kill to the first progress of what it left: median {statistics.median(seconds):.2f} s,"
        f" longest {seconds[-1]:.2f} s"
    )
