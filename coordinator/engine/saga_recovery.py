"""Finding sagas: those whose time has come, those that a dead process left, and ours that nobody here drives.

Recovery is reading what happened and going on with the same loop (`sagas.py`). A saga is left to others where its
definition is not here, and to an operator where going on with it has killed process after process.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from coordinator import limits
from coordinator.engine.performer import UNKNOWN
from coordinator.engine.saga_run import restored
from coordinator.engine.saga_signals import hear
from coordinator.engine.saga_suspects import Suspects
from coordinator.engine.sagas import SagaEngine
from coordinator.errors import Replaced, Unavailable
from coordinator.protocol.saga import Stuck, first_called
from coordinator.sagas.events import Happened
from coordinator.sagas.log import Loaded, Rest

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class SagaRecovery:
    """Goes on with what is found, in *engine*."""

    engine: SagaEngine
    recovered: int = 0
    _suspects: Suspects = field(default_factory=Suspects)
    _tidy_at_s: float = 0.0
    _purge_at_s: float = 0.0
    _losses: int = 0
    """How often this process had been replaced when it last asked for the time because of that."""
    _told: int = 0
    """How many definitions operators know to be here."""

    async def tell(self) -> None:
        """Let operators see which definitions are here, where there are more than before."""
        definitions = self.engine.definitions
        if self._told != (here := len(definitions)):
            await self.engine.log.know({name: saga.shape.pivot for name, saga in definitions.items()})
            self._told = here

    async def look(self) -> None:
        """Go on with sagas whose time has come, and with those of owners that this process has taken over."""
        engine, log = self.engine, self.engine.log
        if not engine.definitions or not self._may_look():
            return
        if self._losses != (losses := engine.ownership.losses):  # This machine may have been suspended.
            await engine.listening.ask_the_time()
            self._losses = losses
        await self.tell()
        await engine.listening.ask()
        for take in (log.awake, log.adopt):
            while self._may_look() and (known := self._with_room()):
                found = await take(known, limits.SAGA_ADOPT_MAX)
                await self._resume_all(found)
                if len(found) < limits.SAGA_ADOPT_MAX:
                    break
                await engine.listening.ask()
        while self._may_look() and self._suspects.are_cleared(engine.clock.monotonic_s()):
            await self._resume_all(found := await log.adopt(self._with_room(), 1, suspects=True))
            if not found:
                break
            await self._suspects.judge(engine.running.get(found[0].gid), engine.clock)
        await self._tidy()

    def _with_room(self) -> list[str]:
        """The definitions of which more sagas are taken up: those of one whose participant hangs stop no others."""
        known, running = list(self.engine.definitions), self.engine.running
        if len(running) < limits.SAGAS_FOUND_MAX:
            return known
        counts = Counter(run.saga.identity for run in running.values())
        return [each for each in known if counts[each] < limits.SAGAS_FOUND_MAX]

    async def _tidy(self) -> None:
        """From time to time: ask for it, take up what is ours and nobody drives, and forget what ended long ago."""
        log, now_s = self.engine.log, self.engine.clock.monotonic_s()
        if now_s >= self._tidy_at_s:
            self._tidy_at_s = now_s + limits.OWN_RECORD_IDLE_S
            await self.engine.listening.ask_the_time()
            await log.tidy()  # First: strays are looked for from where it says that the unfinished ones begin.
            busy = [run.number for run in self.engine.running.values()]
            await self._resume_all(await log.strays(list(self.engine.definitions), busy, limits.SAGA_ADOPT_MAX))
        if now_s >= self._purge_at_s:
            self._purge_at_s = now_s + limits.PURGE_PERIOD_S
            while await log.purge():
                continue

    def _may_look(self) -> bool:
        return self.engine.ownership.holds and not self.engine.stopping

    async def _resume_all(self, found: Sequence[Loaded]) -> None:
        engine = self.engine
        if found:  # It has woken them, perhaps by a time that passed while no clock of this machine's went on.
            engine.listening.is_told_the_time(found[0].at_s)
        for loaded in found:
            try:
                await self._resume(loaded)
            except (Replaced, Unavailable, *UNKNOWN):
                raise
            except Exception as failure:  # Whatever is wrong with one saga, the others go on.
                logger.exception("saga %s cannot be gone on with", loaded.gid)
                await engine.parking.cannot_go_on(loaded, failure, under=engine.ownership.lease)
                doubt, wait_s = loaded.doubtful or loaded.number in engine.broken, limits.SAGA_UNREADABLE_S
                engine.broken.discard(loaded.number)
                await engine.log.suspend(Rest(loaded.number, loaded.reigns, loaded.signalled, wait_s, doubtful=doubt))

    async def _resume(self, loaded: Loaded) -> None:
        engine = self.engine
        if (going := engine.tasks.get(loaded.gid)) is not None:
            # It went to sleep here, or we lost it, a moment ago; what was driving it is about to end.
            await asyncio.wait({going}, timeout=limits.SAGA_LOOK_S)
            if loaded.gid in engine.running:
                return
            fresh = await engine.log.load(loaded.gid)  # What was driving it may have written since this was read.
            if fresh is None or fresh.owner != engine.ownership.lease.owner:
                return
            loaded = fresh
        if loaded.number in engine.broken:
            loaded = replace(loaded, doubtful=True)
        definition, lease = engine.definitions[loaded.definition], engine.ownership.lease
        run = restored(definition, loaded, now_s=engine.clock.monotonic_s(), lease=lease)
        engine.broken.discard(loaded.number)
        if run.state.ended:
            return
        self.recovered += 1
        if loaded.signalled:
            await engine.listening.read(run)
        if (heard := hear(run)) is not None:
            await engine.write(run, heard)
        elif (why := self._hopeless(loaded)) and (step := first_called(run.saga.shape, run.state)) is not None:
            await engine.write(run, Happened(Stuck(step, why)))
        engine.drive(run)

    def _hopeless(self, loaded: Loaded) -> str:
        """Why an operator is asked instead of trying it again; empty where it is tried."""
        failures = self.engine.failures.get(loaded.number, [])
        if loaded.adoptions > limits.ADOPTIONS_MAX:  # It kills whoever drives it, or may be what does.
            return f"{loaded.adoptions} processes in a row were lost with it"
        if len(failures) > limits.ADOPTIONS_MAX:
            return f"driving it ended {len(failures)} times in a row, the last time with {failures[-1]}"
        return ""
