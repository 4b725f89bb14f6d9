"""The engine as one thing: started, asked to begin transactions, and stopped within bounds."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial

from coordinator import limits
from coordinator.engine.admission import Admission
from coordinator.engine.driver import Driver
from coordinator.engine.finisher import Finisher
from coordinator.engine.ownership import Ownership
from coordinator.engine.recovery import Recovery
from coordinator.engine.run import Participants, Run, resume
from coordinator.engine.timers import Periodic
from coordinator.engine.work import EngineWork
from coordinator.errors import InDoubt, KeyReused, Refused, Unavailable
from coordinator.gids import RANDOM_BYTES, new_gid
from coordinator.ports import Ability, Clock, Journal, LeavesMarkers, Record, Standing, Work
from coordinator.protocol.model import BranchName, Gid, OnNo, Outcome, Recipe, Transaction
from coordinator.protocol.policy import FailurePolicy, on_no
from coordinator.protocol.recipes import choose

logger = logging.getLogger(__name__)

LOOPS_WHILE_DRAINING = ("lease", "watchdog")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often the engine looks after what is its own and what others left, in seconds; and its bounds."""

    renewal_s: float = limits.LEASE_RENEWAL_S
    beat_s: float = limits.LEASE_S * limits.BEAT_SHARE
    recovery_s: float = limits.RECOVERY_PERIOD_S
    settle_within_s: float = limits.SETTLE_WITHIN_S


@dataclass(slots=True, kw_only=True)
class TransactionEngine:
    """`ports.Engine`: begins transactions, and keeps the loops alive that finish them."""

    participants: Participants
    journal: Journal
    ownership: Ownership
    driver: Driver
    finisher: Finisher
    recovery: Recovery
    clock: Clock
    prefix: str
    admission: Admission = field(default_factory=Admission)
    pace: Pace = field(default_factory=Pace)
    chance: random.Random = field(default_factory=random.SystemRandom)
    _loops: list[Periodic] = field(default_factory=list)

    async def start(self) -> None:
        """Begin the loops. The process is an owner already: participants needed that to be opened."""
        await self.finisher.start()
        self._loops = [
            self._loop("lease", self.ownership.renew, self.pace.renewal_s),
            self._loop("watchdog", self._beat, self.pace.beat_s),
            self._recovering("recovery", self.recovery.take_over),
            self._recovering("journal's history", self.recovery.failover.look_at_journal),
            *(self._recovering(f"look at {name}", partial(self.recovery.look_at, name)) for name in self.participants),
            self._loop("purge", self._purge, limits.PURGE_PERIOD_S),
        ]
        await self._beat()
        for loop in self._loops:
            await loop.start()

    async def drain(self, within_s: float) -> bool:
        """Begin nothing more, adopt nothing more, and let what is under way end; whether all of it did in time."""
        self.admission.stopping = True
        await asyncio.gather(*(loop.stop() for loop in self._loops if loop.name not in LOOPS_WHILE_DRAINING))
        try:
            async with asyncio.timeout(within_s):
                while self.admission.open or self.driver.driving:
                    await self.clock.sleep(limits.DRAIN_LOOK_S)
        except TimeoutError:
            logger.warning(
                "stopping: %d open blocks and %d transactions that are being driven are left to others",
                len(self.admission.open),
                len(self.driver.driving),
            )
            return False
        return True

    async def stop(self) -> None:
        """Drive nothing any more, and record what has ended; what is left is taken over by others. Idempotent."""
        self.admission.stopping = True
        try:
            await self.driver.stop()
            await self.finisher.stop()
        finally:
            await asyncio.gather(*(loop.stop() for loop in self._loops))

    async def begin(
        self, name: str, *, recipe: Recipe | None, policy: FailurePolicy, key: str | None, deadline_s: float
    ) -> Work:
        """Open a transaction. See `ports.Engine`."""
        meaning = on_no(policy)
        chosen = choose(databases=self._databases(), publishers=self._publishers(), asked=recipe, on_no=meaning)
        needs_broker = meaning is OnNo.ABORT and chosen is not Recipe.OUTBOX
        self._admit(chosen, publishes=needs_broker)
        if key is not None:
            if (earlier := await self.journal.look_up_key(name, key)) is not None:
                raise KeyReused(f"{name!r} with key {key!r} is {earlier.gid} already", gid=earlier.gid)
            self._admit(chosen, publishes=needs_broker)  # Things may have changed while it was asked.
        gid = new_gid(self.prefix, self.clock.now(), self.chance.randbytes(RANDOM_BYTES))
        run = Run(
            transaction=Transaction(gid=gid, name=name, recipe=chosen, branches={}),
            policy=policy,
            deadline_s=self.clock.monotonic_s() + deadline_s,
            key=key,
            lease=self.ownership.lease,
        )
        if self.driver.telemetry is not None:
            run.following = self.driver.telemetry.begun(
                run.transaction, policy=policy.kind, now_s=self.clock.monotonic_s()
            )
            run.traceparent = run.following.traceparent
        self.admission.entered(gid)
        return EngineWork(
            run=run,
            left=self.admission.left,
            participants=self.participants,
            driver=self.driver,
            settle_within_s=self.pace.settle_within_s,
        )

    def _admit(self, recipe: Recipe, *, publishes: bool) -> None:
        self.admission.check(recipe, driving=len(self.driver.driving), publishes=publishes)
        if not self.ownership.holds:
            raise Unavailable("this process holds no lease at the moment: the journal's database does not answer")

    async def resolve(self, gid: Gid, outcome: Outcome, *, reason: str) -> Standing:
        """An operator's word on a parked transaction; returns what stands. Needs a reason, which is recorded."""
        if not reason.strip():
            raise Refused("a parked transaction is resolved only with a reason", gid=gid)
        record = await self._known(gid)
        if record.standing is Standing.INTENT:
            raise InDoubt(f"{gid} is the last resource's to decide, and it is still being asked", gid=gid)
        wanted = Standing.COMMIT if outcome is Outcome.COMMIT else Standing.ABORT
        stands = await self.journal.conclude(gid, wanted, reason=reason)
        self.driver.start(resume(replace(record, standing=stands)))
        return stands

    async def _known(self, gid: Gid) -> Record:
        record = await self.journal.look_up(gid)
        if record is None:
            raise Refused(f"the journal has no record of {gid}: it was rolled back, or it never was", gid=gid)
        return record

    def _databases(self) -> dict[BranchName, bool]:
        return {
            name: Ability.HOLDS_JOURNAL in registered.abilities
            for name, registered in self.participants.items()
            if not registered.publishes
        }

    def _publishers(self) -> dict[BranchName, bool]:
        return {
            name: Ability.PREPARE in registered.abilities
            for name, registered in self.participants.items()
            if registered.publishes
        }

    async def _beat(self) -> None:
        await self.ownership.beat(self.pace.beat_s)

    async def _purge(self) -> None:
        """Forget what nobody asks for any more: in the journal, and the markers of branches at their participants."""
        purges = [self.journal.purge]
        purges += [r.participant.purge for r in self.participants.values() if isinstance(r.participant, LeavesMarkers)]
        for purge in purges:
            while await purge():
                continue

    def _recovering(self, name: str, look: Callable[[], Awaitable[None]]) -> Periodic:
        """Finishes what others left, unless this process cannot know whether it is one of those itself."""

        async def round_() -> None:
            if self.ownership.holds:
                await look()

        return self._loop(name, round_, self.pace.recovery_s)

    def _loop(self, name: str, round_: Callable[[], Awaitable[None]], period_s: float) -> Periodic:
        return Periodic(name=name, round_=round_, period_s=period_s, clock=self.clock, chance=self.chance)
