"""The composition root: the only place that knows every concrete class, and in what order they start and stop."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from coordinator import limits
from coordinator.client import Client, TransactionBlock
from coordinator.engine.admission import Admission, Bounded
from coordinator.engine.breakers import Breakers
from coordinator.engine.driver import Driver
from coordinator.engine.failover import Failover
from coordinator.engine.finisher import Finisher
from coordinator.engine.ownership import Ownership
from coordinator.engine.performer import Performer
from coordinator.engine.recovery import Recovery
from coordinator.engine.run import Participants, Registered
from coordinator.engine.service import Pace, TransactionEngine
from coordinator.engine.sweep import PresumeAbort, Sweep
from coordinator.engine.timers import Periodic
from coordinator.engine.watchdog import Watchdog
from coordinator.errors import InvalidDefinition
from coordinator.faults.history import History
from coordinator.faults.injectors import arm_from_environment
from coordinator.gids import valid_branch
from coordinator.journal.postgres import PostgresJournal
from coordinator.observation import Observation
from coordinator.ports import Ability, OwnsIds, Participant, Standing
from coordinator.protocol.model import BranchName, Gid, Outcome, Recipe
from coordinator.protocol.policy import FailurePolicy
from coordinator.relays import RelaySet, open_relays
from coordinator.sagas.client import SagaVerbs, assemble
from coordinator.sagas.definition import Saga, listed
from coordinator.settings import Settings, load
from coordinator.stopping import EndsBlock, Stop, on_sigterm
from coordinator.stores import Stores, open_stores
from coordinator.telemetry import Telemetry, configured

logger = logging.getLogger(__name__)


class SystemClock:
    """The clocks of this machine. (Tests bring one of their own.)"""

    def monotonic_s(self) -> float:
        """Seconds that only go forward."""
        return time.monotonic()

    def now(self) -> datetime:
        """The wall clock, in UTC."""
        return datetime.now(tz=UTC)  # noqa: TID251 - this is the Clock that everything else takes.

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


class Coordinator(SagaVerbs):
    """A coordinator inside this process: the client, the engine, and the journal in your own database.

        async with Coordinator(
            journal="postgresql://localhost/app",
            participants={"db": Postgres("postgresql://localhost/app"), "events": Kafka("localhost:9092")},
        ) as coordinator:
            async with coordinator.transaction("create-post") as transaction:
                ...

    *journal*: a PostgreSQL URL, or a journal in memory ("memory://", for tests and first steps). *participants*: by the
    names that transactions use. *settings*: from file and environment unless given. *history*: a file to which every
    transaction's beginning and end is appended, one JSON object a line (for failure tests). *telemetry*: by default
    what OpenTelemetry's own set-up of this process says when it is entered. Entering it checks every setting that a
    promise rests on and raises `Misconfigured` that names the remedy.

    Leaving it takes 22 seconds at most: no transaction begins any more (`Unavailable`), those that are open end while
    time is left, and the rest is handed over to other processes at once. A web server that handles SIGTERM itself needs
    no more than that. A plain worker passes *drain_on_sigterm*: at SIGTERM what is open ends, then the block is left by
    a cancellation that goes no further, so that the program goes on behind it.
    """

    def __init__(
        self,
        *,
        journal: str,
        participants: Mapping[str, Participant] = MappingProxyType({}),
        sagas: Iterable[Saga] = (),
        settings: Settings | None = None,
        history: Path | None = None,
        telemetry: Telemetry | None = None,
        drain_on_sigterm: bool = False,
    ) -> None:
        self.settings = settings or load()
        self._journal_url = journal
        self._history = history
        self._telemetry = telemetry
        self._given = {valid_branch(name): participant for name, participant in participants.items()}
        self._drain_on_sigterm = drain_on_sigterm
        self._stack = AsyncExitStack()
        self._stop = Stop()
        self._block: EndsBlock | None = None
        self._draining: asyncio.Task[None] | None = None
        self._client: Client | None = None
        self._engine: TransactionEngine | None = None
        self._definitions = listed(sagas)
        self._refuse_bad_names()

    @property
    def engine(self) -> TransactionEngine:
        """The running engine: for operators' commands and for figures."""
        if self._engine is None:
            raise InvalidDefinition("the coordinator is not running: write `async with Coordinator(...)`")
        return self._engine

    def transaction(
        self,
        name: str,
        *,
        policy: FailurePolicy | None = None,
        recipe: Recipe | str | None = None,
        key: str | None = None,
        deadline_s: float = limits.TRANSACTION_DEADLINE_S,
    ) -> TransactionBlock:
        """A transaction to be entered with `async with`; see `Client.transaction`."""
        if self._client is None:
            raise InvalidDefinition("the coordinator is not running: write `async with Coordinator(...)`")
        return self._client.transaction(name, policy=policy, recipe=recipe, key=key, deadline_s=deadline_s)

    async def outcome_of(self, gid: str) -> Outcome | None:
        """What was decided about *gid*, from the journal; None while nothing stands, or where nothing ever will."""
        record = await self.engine.journal.look_up(Gid(gid))
        if record is None or record.standing not in (Standing.COMMIT, Standing.ABORT):
            return None
        return Outcome(record.standing)

    async def resolve(self, gid: str, outcome: Outcome | str, *, reason: str) -> Outcome | None:
        """An operator's word on a parked transaction. Returns what stands, which may be another's earlier word."""
        return Outcome(await self.engine.resolve(Gid(gid), Outcome(outcome), reason=reason))

    async def drain(self) -> bool:
        """Begin no transaction and no step of a saga any more, and let open ones end; whether all did, in time.

        Leaving the block does this by itself. Calling it earlier starts the time within which the whole must stop.
        """
        within_s = self._stop.left_s(leaving_s=limits.DRAIN_LEAVES_S)
        async with asyncio.TaskGroup() as both:
            sagas = both.create_task(self._sagas.engine.drain(within_s)) if self._sagas is not None else None
            ended = await self.engine.drain(within_s)
        return ended and (sagas is None or sagas.result())

    async def __aenter__(self) -> Self:
        """Open the journal and every participant, check them, and start the engine and the relays."""
        arm_from_environment()
        self._stop, self._draining = Stop(), None
        if self._drain_on_sigterm:
            self._block = EndsBlock()
            self._stack.enter_context(on_sigterm(self._on_sigterm))  # First, so that it is in place to the very end.
        try:
            await self._start()
        except BaseException:
            await self._stop.step("the coordinator", self._stack.aclose, leaving_s=0)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        """Finish what is under way, hand over the rest, and close everything, within 22 seconds."""
        ours = self._block is not None and self._block.leave(error)
        try:
            await self._stop.step("the coordinator", self._stack.aclose, leaving_s=0)
        finally:
            self._client = self._engine = self._block = self._sagas = None
        return ours

    def _on_sigterm(self) -> None:
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain_and_leave(), name="drain at SIGTERM")

    async def _drain_and_leave(self) -> None:
        logger.info("SIGTERM: no transaction begins here any more, and what is open is finished or handed over")
        if self._engine is not None:
            await self.drain()
        if self._block is not None:
            self._block.end()

    async def _start(self) -> None:
        clock = SystemClock()
        telemetry = self._telemetry or configured()
        stores = await self._stack.enter_async_context(open_stores(self._journal_url, self.settings))
        watchdog = Watchdog(clock=clock, lag_max_s=self.settings.lease_s * limits.LAG_SHARE)
        ownership = Ownership(owners=stores.owners, clock=clock, watchdog=watchdog)
        await ownership.register()
        self._at_the_end("the lease", ownership.resign, limits.RESIGNING_LEAVES_S)
        participants = await self._open_participants(stores)
        ownership.on_loss = [
            r.participant.lost_term for r in participants.values() if isinstance(r.participant, OwnsIds)
        ]
        if telemetry is not None:
            ownership.on_loss.append(telemetry.replaced)
            stores.watch(flushed=telemetry.flushed, raised=telemetry.alerted)
        await ownership.renew()  # Opening may have taken a while.
        relays = open_relays(participants, lease_s=self.settings.lease_s, telemetry=telemetry)
        self._at_the_end("the relays", relays.stop, limits.RELAYS_LEAVE_S)
        await relays.start()
        engine = self._assemble(stores, ownership, participants, relays, clock, telemetry)
        self._at_the_end("the engine", engine.stop, limits.ENGINE_LEAVES_S)
        await engine.start()
        await self._observe(engine, stores, relays, telemetry)
        self._engine = engine
        await self._start_sagas(stores, ownership, clock)
        history = None
        if self._history is not None:
            history = self._stack.enter_context(History(self._history, node=ownership.lease.owner))
        self._client = Client(engine=engine, policies=self.settings.policies, history=history)
        self._stack.push_async_callback(self.drain)

    async def _start_sagas(self, stores: Stores, ownership: Ownership, clock: SystemClock) -> None:
        sagas, loop = assemble(
            self, stores.sagas, ownership, stores.alerts, clock, self.settings, self._definitions, prefix=stores.prefix
        )
        self._at_the_end("sagas", sagas.engine.stop, limits.ENGINE_LEAVES_S)
        self._at_the_end("the look after sagas", loop.stop, limits.ENGINE_LEAVES_S)
        await sagas.engine.listening.ask_the_time()
        await sagas.recovery.tell()
        await loop.start()
        self._sagas = sagas

    def _at_the_end(self, name: str, end: Callable[[], Awaitable[object]], leaving_s: float) -> None:
        self._stack.push_async_callback(self._stop.step, name, end, leaving_s=leaving_s)

    async def _close_participants(self) -> None:
        """All at once: one that hangs takes nothing of the others' time."""
        closed = await asyncio.gather(*(p.close() for p in self._given.values()), return_exceptions=True)
        for name, failure in zip(self._given, closed, strict=True):
            if failure is not None:
                logger.warning("%s was not closed properly: %r", name, failure)

    async def _open_participants(self, stores: Stores) -> Participants:
        opened: dict[BranchName, Registered] = {}
        self._at_the_end("a participant", self._close_participants, limits.PARTICIPANTS_LEAVE_S)
        for name, participant in self._given.items():
            participant.name = name
            stores.introduce(participant)
            abilities = await participant.open()
            if await stores.lives_with(participant):
                abilities |= {Ability.HOLDS_JOURNAL}
            opened[name] = Registered(participant=participant, abilities=abilities)
        return opened

    def _assemble(
        self,
        stores: Stores,
        ownership: Ownership,
        participants: Participants,
        relays: RelaySet,
        clock: SystemClock,
        telemetry: Telemetry | None,
    ) -> TransactionEngine:
        chance = random.SystemRandom()
        breakers = Breakers(clock)
        performer = Performer(
            participants=participants,
            journal=stores.journal,
            alerts=stores.alerts,
            clock=clock,
            breakers=breakers,
            chance=chance,
        )
        finisher = Finisher(
            participants=participants, journal=stores.journal, alerts=stores.alerts, clock=clock, relays=relays
        )
        driver = Driver(performer=performer, finisher=finisher, watchdog=ownership.watchdog, telemetry=telemetry)
        rule = PresumeAbort(
            after_s=self.settings.presume_abort_after_s, looks_apart_s=self.settings.presume_abort_looks_apart_s
        )
        sweep = Sweep(
            participants=participants,
            journal=stores.journal,
            driver=driver,
            alerts=stores.alerts,
            clock=clock,
            rule=rule,
        )
        recovery = Recovery(
            participants=participants,
            journal=stores.journal,
            ids=stores.ids,
            ownership=ownership,
            driver=driver,
            sweep=sweep,
            failover=Failover(participants=participants, journal=stores.journal, alerts=stores.alerts),
        )
        return TransactionEngine(
            participants=participants,
            journal=stores.journal,
            ownership=ownership,
            driver=driver,
            finisher=finisher,
            recovery=recovery,
            clock=clock,
            prefix=stores.prefix,
            admission=self._admission(stores, finisher, participants),
            pace=Pace(
                renewal_s=self.settings.lease_s / 4,
                beat_s=self.settings.lease_s * limits.BEAT_SHARE,
                recovery_s=self.settings.recovery_s,
                settle_within_s=self.settings.settle_within_s,
            ),
            chance=chance,
        )

    def _admission(self, stores: Stores, finisher: Finisher, participants: Participants) -> Admission:
        bounds = [finisher.crowded]
        if isinstance(stores.journal, PostgresJournal):
            bounds.append(stores.journal.crowded)
        databases = [r.participant for r in participants.values() if not r.publishes]
        brokers = [r.participant for r in participants.values() if r.publishes]
        (database,) = databases if len(databases) == 1 else (None,)
        return Admission(
            bounds=bounds,
            database=database if isinstance(database, Bounded) else None,
            brokers=[broker for broker in brokers if isinstance(broker, Bounded)],
        )

    async def _observe(
        self, engine: TransactionEngine, stores: Stores, relays: RelaySet, telemetry: Telemetry | None
    ) -> None:
        """Keep the gauges current, where somebody reads them."""
        if telemetry is None or telemetry.measures is None:
            return
        observation = Observation(measures=telemetry.measures, engine=engine, journal=stores.journal, relays=relays)
        loop = Periodic(
            name="observation",
            round_=observation.once,
            period_s=self.settings.observe_s,
            clock=engine.clock,
            chance=engine.chance,
        )
        self._stack.callback(observation.end)
        self._stack.push_async_callback(loop.stop)
        await loop.start()

    def _refuse_bad_names(self) -> None:
        if not self._given and not self._definitions:
            raise InvalidDefinition("a coordinator needs participants (a database, a broker, or both), or sagas")
        if len(self._given) > limits.BRANCHES_MAX:
            raise InvalidDefinition(f"{len(self._given)} participants are above the limit of {limits.BRANCHES_MAX}")
        if len({id(participant) for participant in self._given.values()}) < len(self._given):
            raise InvalidDefinition(f"a participant is registered twice among {sorted(self._given)}: make one for each")
