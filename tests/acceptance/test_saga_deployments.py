"""Processes are replaced one after the other, as a deployment does, while sagas run: none is undone for that."""

import asyncio
import os
import signal
import sys

import asyncpg

from tests.acceptance.saga_child import TABLES
from tests.acceptance.test_saga_kills import ENDED, REPEATED, THREE, UNKNOWN, wrong

TOTAL, PROCESSES, REPLACED_AT_LEAST = 400, 2, 6
CAREFUL = """
SELECT s.gid, array_agg(e.step || ' ' || e.direction ORDER BY e.step) AS did
FROM unanimity.sagas AS s JOIN effects AS e USING (gid) WHERE s.name = 'careful' GROUP BY 1
"""


async def begun(url, share):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.acceptance.saga_child", str(share), str(PROCESSES), str(TOTAL),
        env={**os.environ, "COORDINATOR_POSTGRES_URL": url}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    await process.stdout.readline()  # It is an owner.
    return process


async def test_a_deployment_undoes_no_saga_whose_steps_are_short(database):
    """Not even those whose steps are neither idempotent nor to be asked about."""
    replaced, processes = 0, []
    async with asyncpg.create_pool(database, min_size=1, max_size=2) as pool:
        await pool.execute(TABLES)
        try:
            processes += [await begun(database, share) for share in range(PROCESSES)]
            async with asyncio.timeout(120):
                while await pool.fetchval(ENDED) < TOTAL:
                    await asyncio.sleep(0.5)
                    share = replaced % PROCESSES
                    processes[share].send_signal(signal.SIGTERM)
                    assert await processes[share].wait() == 0, "it ends in an orderly way"
                    processes[share], replaced = await begun(database, share), replaced + 1
        finally:
            for process in processes:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        assert replaced >= REPLACED_AT_LEAST, "processes that are not replaced prove nothing"
        assert await wrong(pool) == []
        assert await pool.fetchval(UNKNOWN) == 0
        assert await pool.fetch(REPEATED) == []
        careful = await pool.fetch(CAREFUL)
    assert len(careful) == TOTAL * 3 // 10
    assert {tuple(row["did"]) for row in careful} == {tuple(sorted(f"{step} {direction}" for step, direction in THREE))}
