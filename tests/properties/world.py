"""A small world in memory: several processes on one journal, one or two databases and a broker, and faults anywhere.

Everything is the production code but the participants and the clock. A process is killed by an exception that no code
may catch; a takeover happens while its victim is held at a boundary, and goes on afterwards, as a paused process does.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from coordinator.client import Client
from coordinator.engine.breakers import Breakers
from coordinator.engine.driver import Driver
from coordinator.engine.failover import Failover
from coordinator.engine.finisher import Finisher
from coordinator.engine.ownership import Ownership
from coordinator.engine.performer import Performer
from coordinator.engine.recovery import Recovery
from coordinator.engine.run import Registered
from coordinator.engine.service import TransactionEngine
from coordinator.engine.sweep import PresumeAbort, Sweep
from coordinator.engine.watchdog import Watchdog
from coordinator.errors import CoordinatorError, InDoubt
from coordinator.faults.points import install
from coordinator.journal.memory import (
    MemoryAlerts,
    MemoryJournal,
    MemoryOwners,
    MemoryTransactionalIds,
    MemoryWorld,
)
from coordinator.ports import Ability
from coordinator.protocol.model import BranchName
from coordinator.protocol.policy import FailurePolicy, Rollback
from participants.memory.broker import MemoryBroker, MemoryTopics
from participants.memory.database import MemoryDatabase, MemoryStore

LEASE_S = 10.0
_process: ContextVar[str] = ContextVar("process", default="")


class Died(BaseException):
    """This process was killed: nothing catches this, as nothing catches SIGKILL."""


@dataclass
class VirtualClock:
    """Time that passes only when somebody waits for it."""

    now_s: float = 0.0

    def monotonic_s(self) -> float:
        return self.now_s

    def now(self) -> datetime:
        return datetime.fromtimestamp(1_700_000_000 + self.now_s, tz=UTC)

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        await asyncio.sleep(0)


class NoRelays:
    """Relays that never come by themselves: the world delivers when it is quiet."""

    def wake(self, poll_every_s: float) -> None:
        return None


@dataclass(frozen=True)
class Strike:
    """What happens to process A at its *at*-th boundary: *cell* is before or after the effect."""

    at: int
    cell: str
    action: str  # crash | stop | takeover | reborn | sweep | lost | time_out


@dataclass
class Case:
    """What the transaction does, on what."""

    databases: int = 1
    messages: int = 1
    prepares: bool = False
    recipe: str | None = None
    policy: FailurePolicy = field(default_factory=Rollback)
    refuses: bool = False


@dataclass
class Verdict:
    """What came of it."""

    answer: str
    rows: list[int]
    messages: int
    left: Mapping[str, int]
    strikes: int
    boundaries: list[str]

    def problems(self, case: Case) -> list[str]:
        """Every promise that was broken, in words."""
        found = []
        if len(set(self.rows)) > 1:
            found.append(f"torn between databases: {self.rows}")
        wrote = bool(self.rows) and self.rows[0] == 1
        if self.rows and case.messages and self.messages != (case.messages if wrote else 0):
            found.append(f"torn: {self.rows} rows, {self.messages} messages")
        done = wrote or (not self.rows and self.messages == case.messages)
        if self.answer == "committed" and not done:
            found.append("the caller was told committed, and it is not")
        if self.answer == "aborted" and (wrote or self.messages):
            found.append("the caller was told aborted, and it is not")
        found += [f"left over: {what}" for what, count in self.left.items() if count]
        return found


class Injector:
    """Counts the boundaries of process A and strikes where it is told."""

    def __init__(self, world: "World", strikes: tuple[Strike, ...]) -> None:
        self.world, self.strikes = world, {strike.at: strike for strike in strikes}
        self.seen: list[str] = []
        self.struck = 0

    async def run(self, point: str, effect: Callable[[], Awaitable[Any]], labels: Mapping[str, str]) -> Any:
        name = _process.get()
        if name in self.world.dead:
            raise Died
        if name != "A":
            return await effect()
        number = len(self.seen)
        self.seen.append(point)
        strike = self.strikes.get(number)
        if strike is None:
            return await effect()
        self.struck += 1
        if strike.cell == "before":
            await self._strike(strike)
            return await effect()
        result = await effect()
        await self._strike(strike)
        return result

    async def _strike(self, strike: Strike) -> None:
        match strike.action:
            case "crash":
                self.world.dead.add("A")
                raise Died
            case "stop":
                # In a task of its own: stopping cancels whoever is being driven, which may be who came here.
                await asyncio.wait({self.world.stop("A")})
            case "takeover":
                await self.world.takeover()
            case "reborn":
                await self.world.takeover()
                await self.world.processes["A"].ownership.renew()
            case "sweep":
                await self.world.sweep()
            case "lost":
                raise ConnectionResetError("injected")
            case "time_out":
                self.world.broker("A").time_out()


class World:
    """Shared memory, and processes on it."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.clock = VirtualClock()
        self.memory = MemoryWorld(now_s=self.clock.monotonic_s)
        self.stores = [MemoryStore() for _ in range(case.databases)]
        self.topics = MemoryTopics()
        self.dead: set[str] = set()
        self.processes: dict[str, Process] = {}
        self._successors = 0
        self._stops: set[asyncio.Task[None]] = set()

    async def process(self, name: str) -> "Process":
        """A new process that is an owner."""
        process = Process(self, name)
        self.processes[name] = process
        await process.start()
        return process

    def broker(self, name: str) -> MemoryBroker:
        return self.processes[name].broker

    def stop(self, name: str) -> "asyncio.Task[None]":
        """The process is told to stop and has no time left: it lets everything go and resigns. Others come at once."""
        task = asyncio.create_task(self.processes[name].stop())
        self._stops.add(task)
        return task

    async def takeover(self) -> None:
        """A's lease runs out while it is held; another process takes over and finishes what it finds."""
        self.clock.now_s += LEASE_S * 2
        await self.successor()

    async def sweep(self) -> None:
        """A is held for longer than anybody may take to decide, but keeps its lease; another process sweeps."""
        for owner in self.memory.owners.values():
            owner.lease_until_s = float("inf")
        try:
            await self.successor()
        finally:
            for owner in self.memory.owners.values():
                owner.lease_until_s = self.clock.now_s + LEASE_S

    async def successor(self) -> None:
        """A new process that recovers, look after look, as long as a sweep needs."""
        self._successors += 1
        name = f"B{self._successors}"
        token = _process.set(name)
        try:
            process = await self.process(name)
            for _ in range(6):
                await process.recover()
                self.clock.now_s += 12.0
        finally:
            _process.reset(token)

    async def run(self, strikes: tuple[Strike, ...]) -> Verdict:
        """Run the case in process A with *strikes*, then recover until it is quiet, and look."""
        injector = Injector(self, strikes)
        install(injector)
        try:
            answer = await asyncio.create_task(self._in_a())
            self.clock.now_s += LEASE_S * 3
            await self.successor()
            await self.successor()
        finally:
            install(None)
        self._deliver()
        return self._verdict(answer, injector)

    async def _in_a(self) -> str:
        _process.set("A")
        a = await self.process("A")
        answer = await self._transaction(a)
        if self._stops:
            await asyncio.wait(self._stops)
        if "A" not in self.dead:
            try:
                await a.settle()
            except Died:
                answer = "died"
        return answer

    async def _transaction(self, a: "Process") -> str:
        try:
            block = a.client.transaction("t", policy=self.case.policy, recipe=self.case.recipe)
            async with block as transaction:
                for number in range(self.case.databases):
                    (await transaction.enlist(f"db{number}")).insert("t", str(number))
                for number in range(self.case.messages):
                    await transaction.publish("events", topic="t", value=str(number))
        except Died:
            return "died"
        except InDoubt:
            return "in doubt"
        except CoordinatorError:
            return "aborted"
        except BaseExceptionGroup as group:
            if group.subgroup(Died) is None:
                raise
            return "died"
        return "committed"

    def _deliver(self) -> None:
        """What a relay would do in the end: rows that are ready become messages."""
        for outbox in [self.memory.outbox, *(store.outbox for store in self.stores)]:
            self.topics.messages.extend(row.message for row in outbox if not row.waiting)
            outbox[:] = [row for row in outbox if row.waiting]

    def _verdict(self, answer: str, injector: Injector) -> Verdict:
        waiting = len(self.memory.outbox) + sum(len(store.outbox) for store in self.stores)
        unfinished = [row for row in self.memory.rows.values() if not row.done]
        return Verdict(
            answer=answer,
            rows=[len(store.tables["t"]) for store in self.stores],
            messages=len(self.topics.messages),
            left={
                "prepared": sum(len(store.prepared) for store in self.stores),
                "open": len(self.topics.open),
                "waiting": waiting,
                "unfinished": len([row for row in unfinished if row.record.standing != "parked"]),
            },
            strikes=injector.struck,
            boundaries=injector.seen,
        )


class Process:
    """One process: the production engine on participants in memory."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.journal = MemoryJournal(world.memory)
        clock = world.clock
        watchdog = Watchdog(clock=clock)
        owners = MemoryOwners(self.journal, owner_id=name, lease_s=LEASE_S)
        self.ownership = Ownership(owners=owners, clock=clock, watchdog=watchdog)
        ids = MemoryTransactionalIds(self.journal, prefix="test")
        self.broker = MemoryBroker(world.topics, prepares=world.case.prepares)
        self.broker.name, self.broker.ids = BranchName("events"), ids
        self.broker.refuses = world.case.refuses
        publishes = {Ability.PUBLISH} | ({Ability.PREPARE} if world.case.prepares else set())
        participants = {self.broker.name: Registered(participant=self.broker, abilities=frozenset(publishes))}
        for number, store in enumerate(world.stores):
            alone = world.case.databases == 1
            database = MemoryDatabase(store, holds_journal=alone)
            database.name, database.world = BranchName(f"db{number}"), world.memory
            database.prefix, database.now_s = "test", clock.monotonic_s
            abilities = {Ability.PREPARE, Ability.HOLDS_OUTBOX} | ({Ability.HOLDS_JOURNAL} if alone else set())
            participants[database.name] = Registered(participant=database, abilities=frozenset(abilities))
        alerts = MemoryAlerts(world.memory)
        chance = random.Random(7)
        performer = Performer(
            participants=participants,
            journal=self.journal,
            alerts=alerts,
            clock=clock,
            breakers=Breakers(clock),
            chance=chance,
        )
        self.finisher = Finisher(
            participants=participants, journal=self.journal, alerts=alerts, clock=clock, relays=NoRelays()
        )
        self.driver = Driver(performer=performer, finisher=self.finisher, watchdog=watchdog)
        sweep = Sweep(
            participants=participants,
            journal=self.journal,
            driver=self.driver,
            alerts=alerts,
            clock=clock,
            rule=PresumeAbort(),
        )
        self.recovery = Recovery(
            participants=participants,
            journal=self.journal,
            ids=ids,
            ownership=self.ownership,
            driver=self.driver,
            sweep=sweep,
            failover=Failover(participants=participants, journal=self.journal, alerts=alerts),
        )
        self.engine = TransactionEngine(
            participants=participants,
            journal=self.journal,
            ownership=self.ownership,
            driver=self.driver,
            finisher=self.finisher,
            recovery=self.recovery,
            clock=clock,
            prefix="test",
            chance=chance,
        )
        self.client = Client(engine=self.engine)

    async def start(self) -> None:
        """Become an owner. The loops are not started: the world says when a round comes."""
        await self.ownership.register()

    async def stop(self) -> None:
        """As the coordinator does at the end of its time, then another process looks: it needs to wait for no lease."""
        await self.engine.drain(0)
        await self.engine.stop()
        await self.ownership.resign()
        await self.world.successor()

    async def settle(self) -> None:
        """Let everything that is being driven end, and record what has finished."""
        while self.driver.driving:
            await asyncio.wait(list(self.driver.driving.values()))
        for _ in range(5):  # The finisher asks again at its next turn, for ever; strikes are few.
            with contextlib.suppress(OSError):
                await self.finisher.flush()

    async def recover(self) -> None:
        """One round of recovery, to its end. The lease is renewed before it, as the lease loop does."""
        await self.ownership.renew()
        await self.recovery.once()
        await self.settle()
