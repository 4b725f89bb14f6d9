"""A saga whose step kills its process is set aside after a few deaths, and the others go on."""

import asyncio
import os
import sys

import asyncpg

from coordinator import Coordinator, Settings, limits
from coordinator.sagas import Saga, sleep
from tests.acceptance.saga_poison_child import OTHERS, sagas_of

DESK = Saga("desk", sleep("nap", 0))
"""What a process has that drives none of the others."""
ENDED = "SELECT count(*) FROM unanimity.saga_events WHERE final"
STUCK = """
SELECT count(*) FROM unanimity.saga_events JOIN unanimity.sagas USING (number)
WHERE event ->> 't' = 'stuck' AND owner = ''
"""
COUNTED = "SELECT adoptions FROM unanimity.sagas WHERE name = 'poison'"


async def begun(url, what):
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.acceptance.saga_poison_child", what,
        env={**os.environ, "COORDINATOR_POSTGRES_URL": url},
    )  # fmt: skip


async def deaths_until_it_lives(url, pool):
    """Successors, one after the other, until one has lived to see one saga parked and all others ended: who died."""
    died, child = 0, await begun(url, "begin")
    async with asyncio.timeout(150):
        while True:
            if child.returncode is None and await pool.fetchval(ENDED) == 2 * OTHERS and await pool.fetchval(STUCK):
                return died, child
            if child.returncode is not None:
                assert child.returncode == 9, "nobody dies but of that step"
                died, child = died + 1, await begun(url, "serve")
            await asyncio.sleep(0.05)


async def test_a_saga_that_kills_whoever_drives_it_is_parked_and_no_other_one(database):
    """Its number of deaths is counted while nothing comes of it; an operator who resumes it begins anew."""
    sagas = sagas_of(cured=True)
    async with asyncpg.create_pool(database, min_size=1, max_size=2) as pool:
        async with Coordinator(journal=database, sagas=[DESK]):
            pass  # It makes the tables.
        died, child = await deaths_until_it_lives(database, pool)
        child.kill()
        await child.wait()
        assert died == limits.ADOPTIONS_MAX + 1
        alerts = await pool.fetch("SELECT kind, detail FROM unanimity.alerts")
        assert [alert["kind"] for alert in alerts] == ["parked-saga"]
        assert "kill: 6 processes in a row were lost with it" in alerts[0]["detail"]
        async with Coordinator(journal=database, sagas=[DESK]) as desk:
            handle = await desk.attach(sagas["poison"], "it")
            await handle.resume("let it try once more")
        async with asyncio.timeout(60):  # Nobody has cured it: it kills as before, but its count begins anew.
            for _ in range(2):
                assert await (await begun(database, "serve")).wait() == 9
        assert await pool.fetchval(COUNTED) == 1
        async with Coordinator(journal=database, sagas=sagas.values(), settings=Settings(lease_s=1.0)) as cured:
            async with asyncio.timeout(60):
                assert (await cured.sagas.ended(handle.gid, sagas["poison"])).completed
