"""Armed faults: what a test (or a chaos run on a staging system) wants to happen at a point, and doing it.

    kafka.end.commit:reply_lost = error
    pg.prepare:late{branch=db}  = delay(500)
    journal.decide:after        = 2*crash
    *:before                    = 10%error(ConnectionResetError)

`point[:cell][{label=value,...}] = [p%][n*]action[(argument)]`. Actions: `error(Name)`, `delay(milliseconds)`, `hang`,
`crash` (the process ends at once, as by SIGKILL), `cancel`, `stop(milliseconds)` (the process is frozen as by SIGSTOP),
and in tests `call` with a function. Every firing is counted; arming an unknown point is an error. `unfired` lists the
armed faults that never struck: a test that expected them proved nothing.

It refuses to be armed where `COORDINATOR_ENVIRONMENT` says production.
"""

import asyncio
import fnmatch
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from coordinator.errors import InvalidDefinition
from coordinator.faults.points import POINTS, Cell, install

FAULTS_VARIABLE = "COORDINATOR_FAULTS"
ENVIRONMENT_VARIABLE = "COORDINATOR_ENVIRONMENT"

_ERRORS: Mapping[str, type[BaseException]] = {
    "ConnectionResetError": ConnectionResetError,
    "TimeoutError": TimeoutError,
    "CancelledError": asyncio.CancelledError,
}
_ACTIONS = frozenset({"error", "delay", "hang", "crash", "cancel", "stop", "call"})
_GRAMMAR = re.compile(
    r"^(?P<point>[a-z0-9_.*]+)(?::(?P<cell>[a-z_]+))?(?:\{(?P<labels>[^}]*)\})?\s*=\s*"
    r"(?:(?P<percent>\d+)%)?(?:(?P<times>\d+)\*)?(?P<action>[a-z]+)(?:\((?P<argument>[^)]*)\))?$"
)


@dataclass(slots=True, kw_only=True)
class Fault:
    """One armed fault. *times* bounds how often it fires; None is for ever."""

    point: str
    cell: Cell = Cell.BEFORE
    action: str = "error"
    argument: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    percent: int = 100
    times: int | None = None
    call: Callable[[], Awaitable[None]] | None = None
    fired: int = 0

    def __post_init__(self) -> None:
        if not fnmatch.filter(POINTS, self.point):
            raise InvalidDefinition(f"there is no fault point {self.point!r}; known are {', '.join(POINTS)}")
        if self.action not in _ACTIONS:
            raise InvalidDefinition(
                f"there is no fault action {self.action!r}; known are {', '.join(sorted(_ACTIONS))}"
            )
        if self.action == "error" and self.argument and self.argument not in _ERRORS:
            raise InvalidDefinition(f"error({self.argument}) is unknown; known are {', '.join(_ERRORS)}")

    def matches(self, point: str, labels: Mapping[str, str], chance: random.Random) -> bool:
        """Whether this fault strikes now."""
        return (
            fnmatch.fnmatchcase(point, self.point)
            and (self.times is None or self.fired < self.times)
            and all(labels.get(name) == value for name, value in self.labels.items())
            and (self.percent == 100 or chance.uniform(0, 100) < self.percent)
        )


def parse(text: str) -> Fault:
    """The fault that a line of the grammar above names. Raises `InvalidDefinition` with the line quoted."""
    match = _GRAMMAR.match(text.strip())
    if match is None:
        raise InvalidDefinition(f"{text!r} is no fault; write for example kafka.end.commit:reply_lost=error")
    try:
        cell = Cell(match["cell"] or "before")
    except ValueError:
        raise InvalidDefinition(f"{match['cell']!r} is no cell; there are {', '.join(Cell)}") from None
    pairs = [pair.partition("=") for pair in (match["labels"] or "").split(",") if pair]
    return Fault(
        point=match["point"],
        cell=cell,
        action=match["action"],
        argument=match["argument"] or "",
        labels={name.strip(): value.strip() for name, _, value in pairs},
        percent=int(match["percent"] or 100),
        times=int(match["times"]) if match["times"] else None,
    )


@dataclass(slots=True, kw_only=True)
class ArmedFaults:
    """The injector behind `points.boundary`: runs effects through the faults that match them."""

    faults: Sequence[Fault]
    chance: random.Random = field(default_factory=random.Random)
    on_fire: Callable[[str, Fault], None] = lambda point, fault: None
    _late: set[asyncio.Task[Any]] = field(default_factory=set)

    async def run(self, point: str, effect: Callable[[], Awaitable[Any]], labels: Mapping[str, str]) -> Any:
        """Run *effect* as the first fault says that matches *point* and *labels*."""
        fault = next((fault for fault in self.faults if fault.matches(point, labels, self.chance)), None)
        if fault is None:
            return await effect()
        fault.fired += 1
        self.on_fire(f"{point}:{fault.cell}", fault)
        match fault.cell:
            case Cell.BEFORE:
                await _strike(fault)
                return await effect()
            case Cell.REPLY_LOST | Cell.AFTER:
                result = await effect()
                await _strike(fault)
                return result
            case Cell.LATE:
                self._run_later(effect, fault)
                raise TimeoutError(f"injected: {point} was given up, and is carried out later")

    def _run_later(self, effect: Callable[[], Awaitable[Any]], fault: Fault) -> None:
        async def later() -> None:
            await asyncio.sleep(float(fault.argument or 50) / 1000)
            try:
                await effect()
            finally:
                if fault.action == "crash":
                    _crash()

        task = asyncio.create_task(later(), name=f"late {fault.point}")
        self._late.add(task)
        task.add_done_callback(self._arrived)

    def _arrived(self, task: asyncio.Task[Any]) -> None:
        self._late.discard(task)
        if not task.cancelled():
            task.exception()  # A late request may find its connection gone: that is one of its endings.

    async def arrive(self) -> None:
        """Wait until every late effect has been carried out or has failed."""
        while self._late:
            await asyncio.wait(self._late)

    def unfired(self) -> list[Fault]:
        """Faults that never struck: a test that expected them proved nothing."""
        return [fault for fault in self.faults if not fault.fired]

    def __enter__(self) -> "ArmedFaults":
        """Arm this process."""
        if os.environ.get(ENVIRONMENT_VARIABLE, "").lower() == "production":
            raise InvalidDefinition(f"faults are never armed in production ({ENVIRONMENT_VARIABLE} says so)")
        install(self)
        return self

    def __exit__(self, *_: object) -> None:
        """Disarm it."""
        install(None)


def arm_from_environment() -> ArmedFaults | None:
    """Arm what `COORDINATOR_FAULTS` lists, separated by semicolons; None where it is empty."""
    lines = [line for line in os.environ.get(FAULTS_VARIABLE, "").split(";") if line.strip()]
    if not lines:
        return None
    armed = ArmedFaults(faults=[parse(line) for line in lines])
    armed.__enter__()
    sys.stderr.write(f"FAULTS ARMED: {'; '.join(lines)}\n")
    return armed


async def _strike(fault: Fault) -> None:
    match fault.action:
        case "error":
            raise _ERRORS[fault.argument or "ConnectionResetError"](f"injected at {fault.point}:{fault.cell}")
        case "cancel":
            raise asyncio.CancelledError
        case "delay":
            await asyncio.sleep(float(fault.argument or 100) / 1000)
        case "hang":
            await asyncio.Event().wait()
        case "stop":
            _stop(float(fault.argument or 1000) / 1000)
        case "call" if fault.call is not None:
            await fault.call()
        case "crash":
            _crash()


def _crash() -> NoReturn:
    """End this process at once: no handler, no flush, no goodbye."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
    raise AssertionError("unreachable")


def _stop(seconds: float) -> None:
    """Freeze this process for *seconds*, all its threads and its event loop, as a long pause of a machine does."""
    pid = os.getpid()
    subprocess.Popen(["/bin/sh", "-c", f"sleep {seconds}; kill -CONT {pid}"])  # noqa: S603 - our own numbers only.
    os.kill(pid, signal.SIGSTOP)
