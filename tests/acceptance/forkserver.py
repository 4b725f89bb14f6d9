"""Processes of one module, started quickly: it is imported once, and each line on stdin forks one that runs its main.

python -m tests.acceptance.forkserver MODULE

A line is JSON: the arguments, and what the environment has beside this one's. The process' pid and what it returned are
written to stdout. Forking is safe here because this process never runs an event loop or a thread.
"""

import asyncio
import importlib
import json
import os
import sys

from coordinator.dev.processes import die_with_parent


def main(name: str) -> None:
    """Fork a process per line, and wait for its end, until stdin ends."""
    module = importlib.import_module(name)
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            die_with_parent()
            os.environ.update(order["environment"])
            asyncio.run(module.main(*order["arguments"]))
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        print(json.dumps({"pid": pid, "returncode": os.waitstatus_to_exitcode(status)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
