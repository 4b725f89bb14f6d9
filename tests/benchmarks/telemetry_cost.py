"""What telemetry costs: CPU per transaction on participants in memory, with its hooks absent, disabled and enabled.

    python -m tests.benchmarks.telemetry_cost

Absent: the hooks are cut out of the sources before they are compiled. Each round measures every variant once, each in a
process of its own, in a new order; the engine is all that runs, so this is the largest share that a hook can have.
Steps are bytecodes of the modules that a transaction goes through: they do not depend on who else uses the machine.
"""

import ast
import asyncio
import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import itertools
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

VARIANTS = ("absent", "disabled", "spans and metrics")
ROUNDS, WARM_UP, TRANSACTIONS, COUNTED = 9, 300, 4000, 50
ROOT = Path(__file__).resolve().parent.parent.parent
ON_THE_WAY = tuple(
    f"coordinator/{name}.py"
    for name in ("client", *(f"engine/{n}" for n in ("service", "work", "driver", "performer", "run")))
)
HOOKED = ("coordinator.engine.", "coordinator.journal.", "participants.outbox.")
HOOKS = ("following", "telemetry", "flushed", "raised")


class Absent(ast.NodeTransformer):
    """Cuts out every hook: what is done only where `following`, `telemetry`, `flushed` or `raised` is not None."""

    def __init__(self) -> None:
        self.cut = 0

    def visit_If(self, node: ast.If) -> ast.AST:
        self.generic_visit(node)
        if not _asks(node.test):
            return node
        self.cut += 1
        return ast.copy_location(ast.Pass(), node)

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        self.generic_visit(node)
        if not _asks(node.test):
            return node
        self.cut += 1
        return node.body


def _asks(test: ast.AST) -> bool:
    """Whether it compares a hook with None."""
    if isinstance(test, ast.BoolOp):
        return any(_asks(value) for value in test.values)
    return (
        isinstance(test, ast.Compare)
        and isinstance(test.left, ast.Attribute)
        and test.left.attr.lstrip("_") in HOOKS
        and isinstance(test.ops[0], ast.Is | ast.IsNot)
    )


class WithoutHooks(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports the engine's modules with their hooks cut out."""

    def __init__(self) -> None:
        self.cut: dict[str, int] = {}

    def find_spec(self, name, path, target=None):
        if not name.startswith(HOOKED):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.origin is None:
            return None
        return importlib.util.spec_from_loader(name, self, origin=spec.origin)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__file__ = str(module.__spec__.origin)
        tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
        absent = Absent()
        code = compile(ast.fix_missing_locations(absent.visit(tree)), module.__file__, "exec")
        self.cut[module.__name__] = absent.cut
        exec(code, module.__dict__)


async def measure(variant: str) -> dict[str, float]:
    """Microseconds of CPU, and steps of the interpreter (bytecodes), per transaction."""
    from coordinator import Coordinator
    from participants import MemoryBroker, MemoryDatabase

    participants = {"db": MemoryDatabase(), "events": MemoryBroker()}
    telemetry = _telemetry(variant)
    async with Coordinator(journal="memory://cost", participants=participants, telemetry=telemetry) as running:

        async def run(transactions: int) -> None:
            for number in range(transactions):
                async with running.transaction("t") as transaction:
                    (await transaction.enlist("db")).insert("t", number)
                    await transaction.publish("events", topic="t", value="x")

        await run(WARM_UP)
        began_s = time.process_time()
        await run(TRANSACTIONS)
        spent_s = time.process_time() - began_s
        counts = []
        for _ in range(COUNTED):
            with steps_counted() as steps:
                await asyncio.create_task(run(1))  # A new task, so that all of its frames are watched.
            counts.append(steps[0])
    return {"us": spent_s / TRANSACTIONS * 1e6, "steps": statistics.median(counts)}


@contextlib.contextmanager
def steps_counted() -> Iterator[list[int]]:
    """Count every bytecode of every frame that begins inside, in the modules on a transaction's way."""
    steps = [0]

    def step(frame, event, _):
        if not frame.f_code.co_filename.endswith(ON_THE_WAY):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            steps[0] += 1
        return step

    sys.settrace(step)
    try:
        yield steps
    finally:
        sys.settrace(None)


def _telemetry(variant: str):
    if variant != "spans and metrics":
        return None
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.trace import TracerProvider

    from coordinator.telemetry import configured

    return configured(TracerProvider(), MeterProvider())


def measured(variant: str) -> dict[str, float]:
    """What one variant takes, in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.telemetry_cost", variant]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Measure every variant in turn, and say what it came to."""
    if len(sys.argv) > 1:
        variant, hooks = sys.argv[1], WithoutHooks()
        if variant == "absent":
            sys.meta_path.insert(0, hooks)
        sys.stdout.write(json.dumps({**asyncio.run(measure(variant)), "cut": sum(hooks.cut.values())}))
        return
    orders = list(itertools.permutations(VARIANTS))
    rounds = []
    for number in range(ROUNDS):
        rounds.append({variant: measured(variant) for variant in random.choice(orders)})
        sys.stderr.write(f"round {number + 1} of {ROUNDS}\n")
    cut = rounds[0]["absent"]["cut"]
    sys.stdout.write(f"Per transaction on participants in memory; {cut} hooks are cut out where they are absent\n")
    for variant in VARIANTS:
        steps = statistics.median(found[variant]["steps"] for found in rounds)
        more = steps / statistics.median(found["absent"]["steps"] for found in rounds) - 1
        spent_us = statistics.median(found[variant]["us"] for found in rounds)
        ratios = sorted(found[variant]["us"] / found["absent"]["us"] for found in rounds)
        sys.stdout.write(
            f"  {variant:18s} {steps:8.0f} steps ({more:+7.2%})   {spent_us:5.0f} us of CPU "
            f"({statistics.median(ratios) - 1:+7.1%}; rounds {ratios[0] - 1:+.1%} to {ratios[-1] - 1:+.1%})\n"
        )


if __name__ == "__main__":
    main()
