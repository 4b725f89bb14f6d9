"""How a saga that is driven here hears what it is sent, by this process or by any other one.

A signal is a row, and a counter in its saga's row. Whoever sends it here says so at once (`nudge`); what another
process sends is found by asking, from time to time, for the counters of the sagas that are driven here (`ask`).
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from coordinator import limits
from coordinator.engine.performer import UNKNOWN
from coordinator.engine.saga_run import SagaRun
from coordinator.engine.saga_signals import CANCEL, RETRY, hear
from coordinator.errors import Unavailable
from coordinator.ports import Clock
from coordinator.protocol.saga import Cancelled, Phase, cancellable
from coordinator.sagas.events import Happened
from coordinator.sagas.log import SagaLog

logger = logging.getLogger(__name__)
_NEVER = float("inf")


@dataclass(slots=True, kw_only=True)
class Listening:
    """The ears of the sagas in *running*."""

    log: SagaLog
    clock: Clock
    running: Mapping[str, SagaRun]
    _to_ask: list[str] = field(default_factory=list)
    """Those whose turn it still is. One that ends before it is asked about costs nothing, and most do."""
    _ahead_s: float = 0.0
    """What the log's time is ahead of this process' monotonic clock. It is asked for before anything runs."""

    async def ask_the_time(self) -> None:
        """Machines' clocks differ, and are set in mid-run; what a saga waits for is one time, whoever looks for it."""
        self.is_told_the_time(await self.log.now_s())

    def is_told_the_time(self, log_s: float) -> None:
        """It was *log_s* at the log a moment ago: this process may be behind it by that moment, and is never ahead.

        So a saga that it has woken is due here: who is ahead sends one to sleep for less than it waits, and has to do
        so again when it is woken.
        """
        self._ahead_s = log_s - self.clock.monotonic_s()

    def now_s(self) -> float:
        """Seconds since 1970, by the log's clock."""
        return self._ahead_s + self.clock.monotonic_s()

    def nudge(self, gid: str) -> None:
        """A signal was sent to a saga that is perhaps driven here."""
        run = self.running.get(gid)
        if run is not None:
            run.told = True
            if run.nudged is not None:
                run.nudged.set()

    async def ask(self) -> None:
        """Nudge sagas that were sent something which they have not read: one query about many of them, in turns."""
        turn, self._to_ask = self._to_ask[: limits.SAGAS_ASKED_MAX], self._to_ask[limits.SAGAS_ASKED_MAX :]
        asked = {run.number: run for gid in turn if (run := self.running.get(gid)) is not None}
        if not self._to_ask:
            self._to_ask = list(self.running)
        if asked:
            for number in await self.log.unheard({number: run.signalled for number, run in asked.items()}):
                self.nudge(asked[number].gid)

    async def read(self, run: SagaRun) -> None:
        """Take the signals that it was sent, but for those that something has come of already."""
        sent = await self.log.signals(run.number)
        for signal in sent[run.signalled :]:
            if signal.name == RETRY:
                run.hurry()
            elif signal.id not in run.consumed:
                run.signals.append(signal)
        run.signalled = len(sent)

    async def heard(self, run: SagaRun) -> Happened | None:
        """What comes of what it was sent; None is nothing, or that it cannot be read now."""
        try:
            await self.read(run)
        except (Unavailable, *UNKNOWN) as failure:
            logger.warning("what saga %s was sent is not read yet: %r", run.gid, failure)
            return None
        run.told = False
        return hear(run)

    async def called_off(self, run: SagaRun) -> str:
        """Why an action whose turn has come is not called after all; empty where it is. Whoever drives it hears it."""
        if run.state.phase is Phase.BACKWARD:
            return "it was called off before its turn came"
        if self.is_late(run):
            return "the deadline of its saga has passed before its turn came"
        if run.told and cancellable(run.saga.shape, run.state):
            try:
                sent = await self.log.signals(run.number)
            except (Unavailable, *UNKNOWN):
                return ""  # As where it was sent a moment later.
            if any(signal.name == CANCEL and signal.id not in run.consumed for signal in sent):
                return "it was called off before its turn came"
        return ""

    async def until(self, run: SagaRun, over: Iterable["asyncio.Future[Any]"]) -> Happened | None:
        """Wait until one of *over* is done, or until a word or a time comes for the saga: what that comes to."""
        if run.nudged is None:
            run.nudged = asyncio.Event()
            if run.told:
                run.nudged.set()
        nudge = asyncio.ensure_future(run.nudged.wait())
        done, _ = await asyncio.wait({*over, nudge}, timeout=self.wake_in_s(run), return_when=asyncio.FIRST_COMPLETED)
        nudge.cancel()
        if done - {nudge}:
            return None
        if run.nudged.is_set():
            run.nudged.clear()
            return await self.heard(run)
        return Happened(Cancelled("its deadline has passed")) if self.is_late(run) else None

    def is_late(self, run: SagaRun) -> bool:
        """Whether its deadline has passed, and it can still be called off."""
        due_s = run.deadline_s
        return due_s != _NEVER and due_s <= self.clock.monotonic_s() and cancellable(run.saga.shape, run.state)

    def wake_in_s(self, run: SagaRun) -> float | None:
        """Seconds until something is to be done without a signal; None is never."""
        now_s, until = self.now_s(), []
        waits = run.state.waits if run.state.phase is Phase.FORWARD else {}
        for name, until_s in waits.items():
            if until_s is not None and name not in run.state.marks:
                until.append(until_s - now_s)
        if run.deadline_s != _NEVER and cancellable(run.saga.shape, run.state):
            until.append(run.deadline_s - self.clock.monotonic_s())
        return max(0.0, min(until)) if until else None
