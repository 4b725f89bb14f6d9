"""What telemetry costs: CPU per transaction on participants in memory, with its hooks absent, disabled and enabled.

    python -m tests.benchmarks.telemetry_cost

Absent: the hooks are cut out of the sources before they are compiled. Each round measures every variant once, each in a
process of its own, in a new order; the engine is all that runs, so this is the largest share that a hook can have.
"""

import ast
import asyncio
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
from pathlib import Path
from types import ModuleType

VARIANTS = ("absent", "disabled", "spans and metrics")
ROUNDS, WARM_UP, TRANSACTIONS = 9, 300, 4000
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


async def measure(variant: str) -> float:
    """Microseconds of CPU per transaction."""
    from coordinator import Coordinator
    from participants import MemoryBroker, MemoryDatabase

    broker = MemoryBroker()
    participants = {"db": MemoryDatabase(), "events": broker}
    async with Coordinator(
        journal="memory://cost", participants=participants, telemetry=_telemetry(variant)
    ) as running:
        began_s = 0.0
        for number in range(WARM_UP + TRANSACTIONS):
            if number == WARM_UP:
                began_s = time.process_time()
            async with running.transaction("t") as transaction:
                (await transaction.enlist("db")).insert("t", number)
                await transaction.publish("events", topic="t", value="x")
        spent_s = time.process_time() - began_s
    assert len(broker.topics.messages) == WARM_UP + TRANSACTIONS
    return spent_s / TRANSACTIONS * 1e6


def _telemetry(variant: str):
    if variant != "spans and metrics":
        return None
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.trace import TracerProvider

    from coordinator.telemetry import configured

    return configured(TracerProvider(), MeterProvider())


def main() -> None:
    """Measure every variant in turn, and say what it came to."""
    if len(sys.argv) > 1:
        variant, hooks = sys.argv[1], WithoutHooks()
        if variant == "absent":
            sys.meta_path.insert(0, hooks)
        spent_us = asyncio.run(measure(variant))
        sys.stdout.write(json.dumps({"us": spent_us, "cut": sum(hooks.cut.values())}))
        return
    spent: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    orders = itertools.cycle(itertools.permutations(VARIANTS))
    cut = 0
    for _ in range(random.randrange(6)):
        next(orders)
    for number in range(ROUNDS):
        for variant in next(orders):
            command = [sys.executable, "-m", "tests.benchmarks.telemetry_cost", variant]
            found = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
            spent[variant].append(found["us"])
            cut = max(cut, found["cut"])
        sys.stderr.write(f"round {number + 1} of {ROUNDS}\n")
    least = min(spent["absent"])
    sys.stdout.write(f"CPU per transaction on participants in memory ({TRANSACTIONS} a round, {cut} hooks cut out)\n")
    for variant, values in spent.items():
        sys.stdout.write(
            f"  {variant:18s} least {min(values):6.1f} us ({min(values) / least - 1:+7.2%})   "
            f"median {statistics.median(values):6.1f} us   most {max(values):6.1f} us\n"
        )


if __name__ == "__main__":
    main()
