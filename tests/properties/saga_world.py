"""A world for sagas in memory: the production engine, one process after another on one log, and faults anywhere.

Time is the event loop's own, and passes only when nobody can run: a timeout of a second takes no second. A process is
killed by an exception that no code may catch, or held while another one takes over from it.
"""

import asyncio
import contextlib
import logging
import random
import selectors
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import UTC, datetime
from typing import Any

from coordinator.engine.ownership import Ownership
from coordinator.engine.watchdog import Watchdog
from coordinator.errors import Compensated, CoordinatorError, Parked, Refused
from coordinator.faults.points import install
from coordinator.journal.memory import MemoryAlerts, MemoryJournal, MemoryOwners, MemoryWorld
from coordinator.journal.memory_sagas import MemorySagas
from coordinator.protocol.saga import Phase
from coordinator.sagas.client import SagaHandle, SagaVerbs, assemble
from coordinator.settings import load
from tests.properties.saga_oracle import Verdict
from tests.properties.saga_participant import PROCESS, Participant, saga_of
from tests.properties.saga_plans import Plan, Strike

LEASE_S, BEGAN_S = 10.0, 1_700_000_000
TURNS_MAX = 10_000
"""So often the loop turns at one moment before it is said that somebody goes round in circles."""
WRITES = frozenset({"saga.start", "saga.append", "saga.suspend"})
TAKES = frozenset({"saga.awake", "saga.adopt"})


class Died(BaseException):
    """This process was killed: nothing catches this, as nothing catches SIGKILL."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to whatever is due next."""

    def __init__(self) -> None:
        super().__init__(_Jumping(self))
        self.now_s = 0.0

    def time(self) -> float:
        return self.now_s


class _Jumping(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop, self._turns = loop, 0

    def select(self, timeout: float | None = None) -> Any:
        ready, self._turns = super().select(0), self._turns + 1
        if self._turns > TURNS_MAX:
            self._turns = 0
            raise AssertionError("somebody is always busy, and time stands still")
        if not ready and timeout:
            self._loop.now_s, self._turns = self._loop.now_s + timeout, 0
        assert ready or timeout is not None, "everybody waits for ever"
        return ready


def now_s() -> float:
    return asyncio.get_running_loop().time()


class LoopClock:
    """The clock of the running loop."""

    def monotonic_s(self) -> float:
        return now_s()

    def now(self) -> datetime:
        return datetime.fromtimestamp(BEGAN_S + self.monotonic_s(), tz=UTC)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Process:
    """One process: an owner, its engine, and the loop that looks after what waits or was left."""

    def __init__(self, world: "SagaWorld", name: str) -> None:
        self.world, self.name = world, name
        journal, clock = MemoryJournal(world.memory), LoopClock()
        owners = MemoryOwners(journal, owner_id=name, lease_s=LEASE_S)
        self.ownership = Ownership(owners=owners, clock=clock, watchdog=Watchdog(clock=clock))
        alerts = MemoryAlerts(world.memory)
        log, settings = MemorySagas(journal), load(prefix="test")
        self.sagas, _ = assemble(SagaVerbs(), log, self.ownership, alerts, clock, settings, [world.saga], prefix="test")
        self.sagas.chance = self.sagas.engine.calls.chance = random.Random(7)
        self.task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Become an owner, and look from time to time."""
        await self.ownership.register()
        await self.sagas.engine.listening.ask_the_time()
        self.look()

    def look(self) -> None:
        """Begin to look."""
        self.task = asyncio.create_task(self._look())

    async def _look(self) -> None:
        while self.name not in self.world.dead:
            with contextlib.suppress(CoordinatorError, OSError):
                await self.round()
            await asyncio.sleep(0.5)

    async def round(self) -> None:
        """One round, as the periodic loops make them."""
        await self.ownership.renew()
        await self.ownership.owners.take_over(self.ownership.lease)
        await self.sagas.recovery.look()

    def kill(self) -> None:
        """Drop everything that it does."""
        engine = self.sagas.engine
        flying = [task for run in engine.running.values() for task in run.flying.values()]
        current = asyncio.current_task()
        for task in (*engine.tasks.values(), *flying, self.task):
            if task is not None and task is not current:
                task.cancel()


class SagaWorld:
    """One saga, on a log that outlives its processes."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.participant = Participant(plan)
        self.saga = saga_of(plan, self.participant)
        self.memory = MemoryWorld(now_s=now_s, wall_s=lambda: BEGAN_S + now_s())
        self.processes: dict[str, Process] = {}
        self.dead: set[str] = set()
        self.strikes = {strike.at: strike for strike in plan.strikes}
        self.writes, self.struck = 0, 0
        self.called_off = self.plan.cancel_at_s is None
        self.called_off_parked: int | None = None
        self.called_off_running: int | None = None
        self.skipped: frozenset[int] = frozenset()
        self._kept: set[asyncio.Task[Any]] = set()

    async def run(self, point: str, effect: Callable[[], Awaitable[Any]], labels: Mapping[str, str]) -> Any:
        """Every boundary of every process: strikes at the writes of the log."""
        name = PROCESS.get()
        if name in self.dead:
            raise Died
        if point not in WRITES and point not in TAKES:
            return await effect()
        if point in TAKES and not self._would_take(point):
            return await effect()
        strike = self.strikes.pop(self.writes, None)
        self.writes += 1
        if strike is not None and strike.cell == "before":
            await self._strike(strike, name, effect)
        result = await effect()
        if strike is not None and strike.cell == "after":
            await self._strike(strike, name, effect)
        return result

    def _would_take(self, point: str) -> bool:
        """Whether a look finds anything: most find nothing, and write nothing."""
        now_s = asyncio.get_running_loop().time()
        for stored in self.memory.sagas.values():
            owner = self.memory.owners.get(stored.owner)
            dead = owner is not None and owner.taken_by is not None and not stored.ended
            due = stored.owner == "" and stored.wake_at_s is not None and stored.wake_at_s <= now_s
            if dead if point == "saga.adopt" else due:
                return True
        return False

    async def _strike(self, strike: Strike, name: str, effect: Callable[[], Awaitable[Any]]) -> None:
        self.struck += 1
        match strike.action:
            case "crash":
                self._kill(name)
                self._keep(self._spawn())
                raise Died
            case "lost":
                raise ConnectionResetError("injected")
            case "late":
                self._keep(self._later(effect))
                raise TimeoutError("injected")
            case "stop":
                self._keep(self._replace(self.processes[name]))
            case "takeover" | "reborn":
                process = self.processes[name]
                assert process.task is not None
                process.task.cancel()  # It stands still.
                self._expire(process)
                await asyncio.wait({self._keep(self._spawn())})
                await asyncio.sleep(6.0)
                if strike.action == "reborn":
                    await process.ownership.renew()
                    process.look()

    async def _replace(self, process: Process) -> None:
        """Stop it in an orderly way, with its successor beside it, as a deployment does."""
        assert process.task is not None
        process.task.cancel()
        await asyncio.wait({self._keep(self._spawn())})
        renewing = self._keep(self._renewed(process))  # The lease is held while it stops.
        await process.sagas.engine.drain(12.0)
        await process.sagas.engine.stop()
        renewing.cancel()
        await process.ownership.resign()
        self.dead.add(process.name)

    async def _renewed(self, process: Process) -> None:
        while True:
            await process.ownership.renew()
            await asyncio.sleep(1.0)

    async def _later(self, effect: Callable[[], Awaitable[Any]]) -> None:
        await asyncio.sleep(2.0)
        with contextlib.suppress(CoordinatorError, AssertionError):
            await effect()

    def _kill(self, name: str) -> None:
        self.dead.add(name)
        self._expire(self.processes[name])
        self.processes[name].kill()

    def _expire(self, process: Process) -> None:
        lease = process.ownership._lease
        if lease is not None and lease.owner in self.memory.owners:
            self.memory.owners[lease.owner].lease_until_s = float("-inf")

    def _keep(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        task = asyncio.create_task(work)
        self._kept.add(task)
        return task

    async def _spawn(self) -> None:
        """Another process, which looks at once."""
        name = "ABCDEFGHIJ"[len(self.processes)]
        PROCESS.set(name)
        process = self.processes[name] = Process(self, name)
        await process.start()

    @property
    def live(self) -> Process:
        """The youngest process."""
        return [process for name, process in self.processes.items() if name not in self.dead][-1]

    async def main(self) -> Verdict:
        """Begin the saga, and let everything happen to it."""
        install(self)
        try:
            await self._keep(self._spawn())
            client = self._keep(self._client())
            if self.plan.cancel_at_s is not None:
                self._keep(self._call_off(self.plan.cancel_at_s))
            for index, step in enumerate(self.plan.steps):
                if step.told_at_s is not None:
                    self._keep(self._tell(f"s{index}", step.told_at_s))
            phase = await self._settled()
            await asyncio.sleep(30.0)  # What is late arrives, and who stood still goes on.
            after = await self._phase()
            told = client.result() if client.done() else ""
            return Verdict(
                ending=phase if phase == after else f"{phase}, and then {after}",
                told=told,
                seen=self.participant.seen,
                alerts=len(self.memory.alerts.keys() - self.memory.resolved),
                called_off_parked=self.called_off_parked,
                called_off_running=self.called_off_running,
                skipped=self.skipped,
                drives=1 + sum(process.sagas.recovery.recovered for process in self.processes.values()),
                strikes=self.struck,
                writes=self.writes,
            )
        finally:
            install(None)
            for process in self.processes.values():
                process.kill()
            for task in self._kept:
                task.cancel()
            await asyncio.gather(*self._kept, return_exceptions=True)

    async def _client(self) -> str:
        """Whoever began it, and waits; where its process dies, it asks another one by the same key."""
        while True:
            if not self._alive():
                await asyncio.sleep(0.5)
                continue
            process = self.live
            asked = self._keep(self._ask(process))
            while not asked.done() and process.name not in self.dead:
                await asyncio.wait({asked}, timeout=0.5)
            if process.name not in self.dead and asked.result():
                return asked.result()
            asked.cancel()

    async def _ask(self, process: Process) -> str:
        PROCESS.set(process.name)
        try:
            await process.sagas.run(self.saga, key="k")
        except Compensated:
            return "compensated"
        except Parked:
            return "parked"
        except (CoordinatorError, OSError, Died):
            await asyncio.sleep(0.5)
            return ""
        return "completed"

    async def _call_off(self, at_s: float) -> None:
        await self._begun(at_s)
        parked, seen = await self._phase() == "parked", len(self.participant.seen)
        with contextlib.suppress(Refused):
            await (await self._handle()).cancel("called off")
            self.called_off_parked, self.called_off_running = (seen, None) if parked else (None, seen)
        await asyncio.sleep(2.0)
        self.called_off = True

    async def _tell(self, name: str, at_s: float) -> None:
        await self._begun(at_s)
        with contextlib.suppress(Refused):  # It may have ended.
            await (await self._handle()).signal(name)

    async def _begun(self, at_s: float) -> None:
        """Wait until then, and until there is a saga, and somebody to speak to it by."""
        await asyncio.sleep(at_s)
        while not self.memory.sagas or not self._alive():  # noqa: ASYNC110 - time is virtual, and this is simple.
            await asyncio.sleep(0.5)

    def _alive(self) -> bool:
        return bool(self.processes.keys() - self.dead)

    async def _handle(self) -> SagaHandle:
        PROCESS.set(self.live.name)
        return await self.live.sagas.attach(self.saga, "k")

    async def _settled(self) -> str:
        """Its phase, once it has ended or waits for an operator, or nothing has come of it for long."""
        word = self.plan.operator
        for _ in range(120):
            await asyncio.sleep(1.0)
            phase = await self._phase()
            if phase in ("completed", "compensated"):
                return phase
            if phase == "parked" and self.called_off:
                if not word:
                    return phase
                await self._say(word)
                word = ""
                await asyncio.sleep(2.0)
        return f"{phase} still"

    async def _say(self, word: str) -> None:
        handle = await self._handle()
        if word == "resume":
            await handle.resume("once more")
            return
        state = await self.live.sagas.state(handle.gid, self.saga)
        assert state is not None
        assert state.parked is not None
        _, step = state.parked
        await handle.skip(step, "done by hand")
        self.skipped = frozenset({int(step.removeprefix("s"))})

    async def _phase(self) -> str:
        if not self.memory.sagas or not self._alive():
            return "unknown"
        outcome = await (await self._handle()).outcome()
        stored = next(iter(self.memory.sagas.values()))
        return outcome.phase.value if outcome.phase is not Phase.PARKED or stored.owner == "" else "parking"


def verdict(plan: Plan) -> Verdict:
    """One run in a world of its own."""
    logging.disable(logging.CRITICAL)  # Every failure that is meant is logged, thousands of times.
    try:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            return runner.run(SagaWorld(plan).main())
    finally:
        logging.disable(logging.NOTSET)
