"""Processes that tests kill, or that kill themselves: of one module each, and a few at a time."""

import asyncio
import json
import os
import signal
import sys
from contextlib import asynccontextmanager

from coordinator.dev.processes import die_with_parent


class Children:
    """As many at once as there are fork servers; see `forkserver.py`."""

    def __init__(self, servers: list[asyncio.subprocess.Process]) -> None:
        self._idle = asyncio.Queue[asyncio.subprocess.Process]()
        for server in servers:
            self._idle.put_nowait(server)

    async def run(self, *arguments: str, **environment: str) -> tuple[int, int]:
        """One process, to its end: its pid, and what it returned (-9: it was killed). Who is cancelled kills it."""
        server = await self._idle.get()
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            server.stdin.write(json.dumps({"arguments": arguments, "environment": environment}).encode() + b"\n")
            answer = json.loads(await server.stdout.readline())
        except BaseException:
            end(server)
            raise
        self._idle.put_nowait(server)
        return answer["pid"], answer["returncode"]


@asynccontextmanager
async def children_of(module: str, at_once: int, **environment: str):
    """Children that run the `main` of *module*; those that still run at the end are killed."""
    servers = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.acceptance.forkserver", module,
            env=os.environ | environment, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            preexec_fn=die_with_parent,
        )
        for _ in range(at_once)
    ]  # fmt: skip
    try:
        yield Children(servers)
    finally:
        for server in servers:
            end(server)
            await server.wait()


def end(server: asyncio.subprocess.Process) -> None:
    """Kill it; what it has forked dies with it."""
    if server.returncode is None:
        server.send_signal(signal.SIGKILL)
