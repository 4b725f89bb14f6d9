"""A saga whose step kills its process is set aside after a few deaths, and the others go on."""

import asyncio

import asyncpg

from coordinator import Coordinator, Settings, limits
from coordinator.sagas import Saga, sleep
from tests.acceptance.children import children_of
from tests.acceptance.saga_poison_child import OTHERS, sagas_of

DESK = Saga("desk", sleep("nap", 0))
"""What a process has that drives none of the others."""
ENDED = "SELECT count(*) FROM unanimity.saga_events WHERE final"
STUCK = """
SELECT count(*) FROM unanimity.saga_events JOIN unanimity.sagas USING (number)
WHERE event ->> 't' = 'stuck' AND owner = ''
"""
COUNTED = "SELECT adoptions FROM unanimity.sagas WHERE name = 'poison'"


def processes(url):
    """They follow each other."""
    return children_of("tests.acceptance.saga_poison_child", 1, COORDINATOR_POSTGRES_URL=url)


async def deaths_until_it_lives(children, pool):
    """Successors, one after the other, until one has lived to see one saga parked and all others ended: who died."""
    died, child = 0, asyncio.create_task(children.run("begin"))
    async with asyncio.timeout(150):
        while True:
            if not child.done() and await pool.fetchval(ENDED) == 2 * OTHERS and await pool.fetchval(STUCK):
                child.cancel()  # It is killed.
                await asyncio.wait({child})
                return died
            if child.done():
                assert child.result()[1] == 9, "nobody dies but of that step"
                died, child = died + 1, asyncio.create_task(children.run("serve"))
            await asyncio.sleep(0.05)


async def test_a_saga_that_kills_whoever_drives_it_is_parked_and_no_other_one(database):
    """Its number of deaths is counted while nothing comes of it; an operator who resumes it begins anew."""
    sagas = sagas_of(cured=True)
    async with asyncpg.create_pool(database, min_size=1, max_size=2) as pool:
        async with Coordinator(journal=database, sagas=[DESK]):
            pass  # It makes the tables.
        async with processes(database) as children:
            died = await deaths_until_it_lives(children, pool)
        assert died == limits.ADOPTIONS_MAX + 1
        alerts = await pool.fetch("SELECT kind, detail FROM unanimity.alerts")
        assert [alert["kind"] for alert in alerts] == ["parked-saga"]
        assert "kill: 6 processes in a row were lost with it" in alerts[0]["detail"]
        async with Coordinator(journal=database, sagas=[DESK]) as desk:
            handle = await desk.attach(sagas["poison"], "it")
            await handle.resume("let it try once more")
        async with processes(database) as children, asyncio.timeout(60):
            for _ in range(2):  # Nobody has cured it: it kills as before, but its count begins anew.
                _, returned = await children.run("serve")
                assert returned == 9
        assert await pool.fetchval(COUNTED) == 1
        async with Coordinator(journal=database, sagas=sagas.values(), settings=Settings(lease_s=1.0)) as cured:
            async with asyncio.timeout(60):
                assert (await cured.sagas.ended(handle.gid, sagas["poison"])).completed
