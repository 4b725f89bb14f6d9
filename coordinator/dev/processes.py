"""Server processes: each is known by its pid *and* its start time, so that a recycled pid is never signalled."""

import asyncio
import contextlib
import ctypes
import os
import pwd
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from coordinator.errors import Unavailable

_PR_SET_PDEATHSIG = 1
_PORT_MIN = 10_000
_FROZEN_WITHIN_S = 10.0
_handed_out: set[int] = set()


@dataclass(frozen=True, slots=True)
class Process:
    """A running server process and all its children; *ends_on* is the signal on which it ends cleanly."""

    pid: int
    started: float
    ends_on: int = signal.SIGTERM

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        *,
        log: Path,
        user: str | None = None,
        environment: Mapping[str, str] | None = None,
        dies_with_us: bool = True,
        ends_on: signal.Signals = signal.SIGTERM,
    ) -> "Process":
        """Start *command* with its output in *log*, as *user* if one is given.

        *dies_with_us*: the kernel kills it when the thread that called this ends, however it ends.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            child = subprocess.Popen(  # noqa: S603 - our own servers, with arguments that we made.
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(environment or os.environ),
                user=user,
                group=pwd.getpwnam(user).pw_gid if user else None,
                extra_groups=[] if user else None,
                start_new_session=True,
                preexec_fn=die_with_parent if dies_with_us else None,
            )
        return cls(child.pid, psutil.Process(child.pid).create_time(), ends_on)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Process":
        """The process that `state` described."""
        return cls(int(state["pid"]), float(state["started"]), int(state["ends_on"]))

    def state(self) -> dict[str, Any]:
        """This process as JSON-able data."""
        return asdict(self)

    @property
    def alive(self) -> bool:
        """Whether this very process still runs, or any thread of it that may hold its sockets open."""
        process = self._process()
        try:
            return process is not None and (process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1)
        except psutil.NoSuchProcess:
            return False

    def send(self, number: int, *, children: bool = False) -> None:
        """Send a signal to it, and to its children if asked. A process that is gone is left alone."""
        process = self._process()
        if process is None:
            return
        targets = [process, *(process.children(recursive=True) if children else [])]
        for target in targets:
            try:
                target.send_signal(number)
            except psutil.NoSuchProcess:
                continue

    def freeze(self, *, children: bool = False) -> None:
        """Stop it where it is, and return when it stands still.

        A signal only begins that: on a busy machine the other threads go on until one has had its turn and taken it.
        """
        process = self._process()
        if process is None:
            return
        _freeze([process])
        if children:
            _freeze(process.children(recursive=True))  # Whose parent begins no other any more.

    async def stop(self, *, within_s: float = 20.0) -> None:
        """Ask it to end, and kill it when it has not within *within_s*. Idempotent."""
        self.send(signal.SIGCONT, children=True)
        self.send(self.ends_on)
        if not await self._gone(within_s):
            self.send(signal.SIGKILL, children=True)
            await self._gone(within_s)
        self._reap()

    async def kill(self) -> None:
        """End it and its children at once, as a power cut would."""
        self.send(signal.SIGKILL, children=True)
        await self._gone(20.0)
        self._reap()

    async def _gone(self, within_s: float) -> bool:
        return await eventually(lambda: not self.alive, within_s)

    def _reap(self) -> None:
        try:
            os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            return  # Somebody else's child: `dev down` ends what an earlier `dev up` began.

    def _process(self) -> psutil.Process | None:
        try:
            process = psutil.Process(self.pid)
        except psutil.NoSuchProcess:
            return None
        return process if abs(process.create_time() - self.started) < 1 else None


async def eventually(condition: Callable[[], bool], within_s: float) -> bool:
    """Whether *condition* became true within *within_s*."""
    until = asyncio.get_running_loop().time() + within_s
    while not condition():
        if asyncio.get_running_loop().time() > until:
            return False
        await asyncio.sleep(0.02)
    return True


def free_port() -> int:
    """A loopback port that is free now, never given out before by this process. Raises `Unavailable`.

    It lies below the ports that the system gives to outgoing connections: otherwise a server that is down for a while
    can lose its port to a client, even to one that keeps trying to reach it and in the end connects to itself.
    """
    for _ in range(1000):
        port = _PORT_MIN + secrets.randbelow(_outgoing_ports_start() - _PORT_MIN)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in _handed_out:
            _handed_out.add(port)
            return port
    raise Unavailable("no free port on the loopback interface")


def _outgoing_ports_start() -> int:
    try:
        start = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        start = 32_768  # Linux's own default, and below that of other systems.
    return start if start > _PORT_MIN + 1000 else 65_536


def failed_to_start(what: str, log: Path) -> Unavailable:
    """The error that quotes the last words of a server that did not come up."""
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:]) if log.exists() else "(no log)"
    return Unavailable(f"{what} did not start; the end of {log}:\n{tail}")


def _freeze(targets: Sequence[psutil.Process]) -> None:
    until_s = time.monotonic() + _FROZEN_WITHIN_S
    for target in targets:
        with contextlib.suppress(psutil.NoSuchProcess):
            target.send_signal(signal.SIGSTOP)
    for target in targets:
        with contextlib.suppress(psutil.NoSuchProcess):
            while target.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
                if time.monotonic() > until_s:
                    raise Unavailable(f"process {target.pid} does not stand still")
                time.sleep(0.001)  # Nobody tells us: the kernel tells a parent only, and these may be grandchildren.


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that forked it ends, however that ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
