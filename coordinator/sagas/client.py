"""What a service does with sagas: run one, start one and come back to it, signal it, call it off."""

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import from_json

from coordinator import limits
from coordinator.engine.breakers import Breakers
from coordinator.engine.ownership import Ownership
from coordinator.engine.saga_budgets import CallBudgets
from coordinator.engine.saga_calls import Calls
from coordinator.engine.saga_recovery import SagaRecovery
from coordinator.engine.saga_run import SagaOutcome, SagaRun, restored
from coordinator.engine.saga_signals import CANCEL, RESUME, RETRY, SKIP, hear, refused_cancel, say, unheard
from coordinator.engine.sagas import SagaEngine
from coordinator.engine.timers import Periodic
from coordinator.errors import (
    Compensated,
    Disconnected,
    InDoubt,
    InvalidDefinition,
    Misconfigured,
    Parked,
    Refused,
    Replaced,
    Unavailable,
    Unheard,
)
from coordinator.gids import RANDOM_BYTES, new_gid, valid_gid
from coordinator.keys import check_key
from coordinator.ports import Alerts, Clock
from coordinator.protocol.saga import Phase, SagaState
from coordinator.sagas.definition import Saga
from coordinator.sagas.log import Loaded, SagaLog
from coordinator.sagas.steps import REPLY, signal_name
from coordinator.sagas.values import adapter, kept, write
from coordinator.settings import Settings

logger = logging.getLogger(__name__)
_LOOK_FIRST_S, _LOOK_MAX_S = 0.02, 1.0
_ANYTHING = adapter("a signal", Any)
_UNREAD = (Unavailable, Disconnected, Misconfigured, OSError, TimeoutError)
"""The log does not answer a question. Of a saga that has begun this says nothing, least of all that it has not."""
_ENDED = (Phase.COMPLETED, Phase.COMPENSATED)


@dataclass(slots=True)
class SagaHandle:
    """One saga, from any process: it can be awaited, looked at, signalled and called off."""

    gid: str
    saga: Saga = field(repr=False)
    _sagas: "Sagas" = field(repr=False)
    _pinned: bool = True
    """Whether *saga* is the definition that it is pinned to, and not only one of its name."""

    async def result(self) -> SagaOutcome:
        """Wait until it has completed; its outcome.

        Raises `Compensated` where it was undone, `Parked` where it waits for an operator, and `InDoubt` where this
        process stops first, or may not read its log any more: it goes on elsewhere. A word that lets a parked one go on
        is an operator's: once it is said, this waits for what comes of it.
        """
        return _judged(await self._sagas.ended(self.gid, self.saga))

    async def outcome(self) -> SagaOutcome:
        """Where it stands now."""
        return await self._sagas.outcome(self.gid, self.saga)

    async def signal(self, name: str, payload: Any = None) -> None:
        """Send it a signal, which may come early, and twice.

        Raises `InvalidDefinition` for one that its definition has not, or has with another type, and `Unheard` where
        the saga has ended, is being undone, or has gone on without it.
        """
        awaited = {each.signal: each for each in self.saga.steps.values() if each.signal == each.name}  # No replies.
        if self._pinned and name not in awaited:
            those = ", ".join(awaited) or "none"
            raise InvalidDefinition(f"saga {self.saga.label} waits for no signal {name!r} (it waits for: {those})")
        try:
            # What is pinned to another definition has types of its own: whoever has that looks at it.
            text = awaited[name].written(payload) if self._pinned else write(_ANYTHING, payload)
        except ValueError as wrong:
            raise InvalidDefinition(f"saga {self.saga.name!r} waits for another type as {name!r}: {wrong}") from wrong
        if self._pinned:
            await self._sagas.refuse_vain(self.gid, self.saga, name)
        await self._sagas.send(self.gid, name, from_json(text))

    # What is said below is kept in the audit, with *reason* and *by* whom (the service itself, without a name), and is
    # heard within a second wherever the saga is driven. Where it has ended, and where it can be told that nothing would
    # come of it, `Refused` is raised.

    async def cancel(self, reason: str, *, by: str = "") -> None:
        """Have it undone. A step that is being called settles first; a parked one turns back too.

        Raises `Refused` where its pivot is done, or where it is parked while it is undone.
        """
        state = await self._sagas.state(self.gid, self.saga)
        if state is not None and (remedy := refused_cancel(self.saga.shape, state)):
            raise Refused(f"{self.gid} cannot be called off: {remedy}", gid=self.gid)
        await self._sagas.say(self.gid, CANCEL, by=by, reason=reason)

    async def retry_now(self, reason: str = "", *, by: str = "") -> None:
        """Cut short the pause before the next attempt of whatever it is at. Raises `Refused` where it is parked."""
        state = await self._sagas.state(self.gid, self.saga)
        if state is not None and state.parked is not None:
            raise Refused(f"{self.gid} is parked ({state.reason}): resume it, and it is tried again", gid=self.gid)
        await self._sagas.say(self.gid, RETRY, by=by, reason=reason)

    async def resume(self, reason: str = "", *, by: str = "") -> None:
        """Let it go on where it was parked, with all its attempts."""
        await self._sagas.refuse_going(self.gid, self.saga)
        await self._sagas.say(self.gid, RESUME, by=by, reason=reason)

    async def skip(self, step: str, reason: str, *, by: str = "") -> None:
        """Take on yourself the step (or its compensation) at which it is parked."""
        if not reason.strip():
            raise Refused("a step is skipped only with a reason", gid=self.gid)
        if self._pinned and step not in self.saga.steps:
            raise Refused(f"saga {self.saga.label} has no step {step!r}", gid=self.gid)
        await self._sagas.refuse_going(self.gid, self.saga, step)
        await self._sagas.say(self.gid, SKIP, by=by, reason=reason, step=step)


@dataclass(slots=True, kw_only=True)
class Sagas:
    """The sagas of one coordinator."""

    engine: SagaEngine
    recovery: SagaRecovery
    clock: Clock
    prefix: str
    chance: random.Random
    _unread: type[BaseException] | None = None
    """Why whoever waits for the end of a saga cannot read what became of it; None where that could be read since."""

    async def start(self, saga: Saga, value: Any = None, *, key: str | None = None) -> SagaHandle:
        """Begin *saga* with *value* as its input, and return once that is durable.

        With a *key* it is begun once: the same key finds the one that was begun before, and with another input it is
        refused (`KeyReused`).
        """
        gid, run = await self.engine.start(_checked(saga), value, key=key, gid=self._gid())
        if run is not None:
            return SagaHandle(gid, saga, self)
        try:
            loaded = await self.engine.log.load(gid)
        except _UNREAD as failure:
            logger.warning("which definition saga %s has is not known yet: %r", gid, failure)
            return SagaHandle(gid, saga, self, False)
        return SagaHandle(gid, saga, self) if loaded is None else self._handle(saga, loaded)

    async def run(self, saga: Saga, value: Any = None, *, key: str | None = None) -> SagaOutcome:
        """Begin *saga* and wait until it has completed. See `SagaHandle.result` for what is raised otherwise."""
        gid, run = await self.engine.start(_checked(saga), value, key=key, gid=self._gid())
        if run is None:
            return _judged(await self.ended(gid, saga))
        outcome = await self.engine.await_here(run)
        return _judged(outcome if outcome.phase in _ENDED else await self.ended(gid, saga))

    async def attach(self, saga: Saga, key: str | None = None, *, gid: str | None = None) -> SagaHandle:
        """The saga that was begun with *key*, or as *gid*, by any process. Raises `Refused` where there is none."""
        if (key is None) == (gid is None):
            raise InvalidDefinition("a saga is found by its key, or by its gid: give one of them")
        check_key(key)
        if key is not None:
            loaded = await self.engine.log.find(_checked(saga).name, key)
        else:
            loaded = await self.engine.log.load(str(gid))
        if loaded is None or loaded.name != _checked(saga).name:
            raise Refused(f"no saga {saga.name!r} was begun " + (f"with key {key!r}" if gid is None else f"as {gid}"))
        return self._handle(saga, loaded)

    def _handle(self, saga: Saga, loaded: Loaded) -> SagaHandle:
        pinned = self._pinned(saga, loaded)
        return SagaHandle(loaded.gid, pinned, self, pinned.identity == loaded.definition)

    async def send(self, gid: str, name: str, payload: Any) -> None:
        """Send a signal of a step.

        Raises `Unheard` where the saga has ended, never was, or was sent a thousand before, and `InvalidDefinition` for
        what is no signal of one.
        """
        await self._tell(gid, signal_name(name), payload)  # Whoever can send a signal is no operator by that.

    async def reply(self, gid: str, step: str, payload: Any) -> None:
        """Hand over the reply to the command of *step*: it can be nothing else.

        Raises as `send` does; but the first reply to a command is kept however much its saga was sent.
        """
        await self._tell(gid, REPLY + signal_name(step), payload)

    async def _tell(self, gid: str, name: str, payload: Any) -> None:
        try:
            text, _ = kept(_ANYTHING, payload)
        except ValueError as wrong:
            raise InvalidDefinition(f"a signal is JSON: {wrong}", gid=gid) from wrong
        if len(text) > (most := limits.SAGA_SIGNAL_BYTES_MAX):
            raise InvalidDefinition(f"a signal of {len(text)} bytes is above the limit of {most}", gid=gid)
        if not await self.engine.log.send(valid_gid(gid), name, text.decode()):
            raise Unheard(f"saga {gid} has ended, or never was, or was sent too much: nobody hears {name!r}", gid=gid)
        self.engine.listening.nudge(gid)

    async def say(self, gid: str, name: str, *, by: str, reason: str, step: str = "") -> None:
        """Steer a saga. Raises `Refused` where it has ended, or never was."""
        await say(self.engine.log, self.engine.alerts, gid, name, by=by, reason=reason, step=step)
        self.engine.listening.nudge(gid)

    async def ended(self, gid: str, saga: Saga) -> SagaOutcome:
        """Wait for its end, or until it is parked and nothing that was said lets it go on, wherever it is driven.

        A log that does not answer is asked again for as long as that takes. Raises `InDoubt` where this process stops,
        and where the log does not let it in: waiting mends no privilege.
        """
        pause_s = _LOOK_FIRST_S
        while True:
            if (here := self.engine.running.get(gid)) is not None:
                outcome = await self.engine.await_here(here)
                if outcome.phase in _ENDED:
                    return outcome
            try:
                run = await self._read(gid, saga)
                self._unread = None
                if run.state.ended or (run.state.parked is not None and not await self._is_let_go(run)):
                    return run.outcome()
            except Misconfigured as failure:
                raise InDoubt(f"what became of saga {gid} cannot be read here: {failure}", gid=gid) from failure
            except _UNREAD as failure:
                if self._unread is not type(failure):  # And not by each who waits, whenever he looks.
                    self._unread = type(failure)
                    logger.warning("what became of saga %s, and of others, is not known yet: %r", gid, failure)
            if not self.engine.stopping:
                await asyncio.sleep(pause_s)
            if self.engine.stopping:
                raise InDoubt(f"{gid} has not ended yet, and this process stops: ask another one", gid=gid)
            pause_s = min(_LOOK_MAX_S, 1.5 * pause_s)

    async def outcome(self, gid: str, saga: Saga) -> SagaOutcome:
        """Where it stands, by its log. Raises `InDoubt` where the definition that it is pinned to is not here."""
        return (await self._read(gid, saga)).outcome()

    async def _read(self, gid: str, saga: Saga) -> SagaRun:
        loaded = await self.engine.log.load(gid)
        if loaded is None:
            raise Refused(f"there is no saga {gid}", gid=gid)
        pinned = self._pinned(saga, loaded)
        if loaded.definition != pinned.identity:
            raise InDoubt(
                f"saga {gid} is pinned to {loaded.definition}, and this process has only {saga.identity}: ask one that "
                "has it, or register it here too",
                gid=gid,
            )
        try:
            return restored(pinned, loaded, now_s=self.clock.monotonic_s())
        except InvalidDefinition as unreadable:
            raise InDoubt(str(unreadable), gid=gid) from unreadable

    async def refuse_vain(self, gid: str, saga: Saga, signal: str) -> None:
        """Raise `Unheard` where the saga goes on, or is undone, without anybody waiting for *signal* any more."""
        with contextlib.suppress(InvalidDefinition):  # Whoever can read it tells.
            state = await self.state(gid, saga)
            waits = [each.name for each in saga.steps.values() if each.signal == signal]
            if state is not None and (why := unheard(saga.shape, state, waits)):
                raise Unheard(f"saga {gid} does not hear {signal!r}: {why}", gid=gid)

    async def refuse_going(self, gid: str, saga: Saga, step: str = "") -> None:
        """Raise `Refused` where it is not parked (at *step*), or where somebody has let it go on already.

        A word that comes too early or twice would be kept, and let it go on when it is parked for another reason.
        """
        try:
            run = await self._read(gid, saga)
        except InDoubt:
            return  # Only whoever has its definition can tell.
        if run.state.ended:
            return  # Nobody hears anything any more, and that is said.
        if run.state.parked is None:
            raise Refused(f"{gid} is not parked", gid=gid)
        if step and run.state.parked[1] != step:
            raise Refused(f"{gid} is parked at {run.state.parked[1]!r}, not at {step!r}", gid=gid)
        if await self._is_let_go(run):
            raise Refused(f"{gid} has been let go on already: whoever has its definition hears it", gid=gid)

    async def _is_let_go(self, run: SagaRun) -> bool:
        """Whether somebody said to a parked saga what lets it go on, and nobody who drives it has heard it yet."""
        sent = await self.engine.log.signals(run.number)
        run.signals = [signal for signal in sent if signal.id not in run.consumed]
        return hear(run) is not None

    def _pinned(self, saga: Saga, loaded: Loaded) -> Saga:
        """The definition that it began with, where it is here: the caller may have a later one by now."""
        return saga if loaded.definition == saga.identity else self.engine.definitions.get(loaded.definition, saga)

    async def state(self, gid: str, saga: Saga) -> SagaState | None:
        """Its state; None where it is pinned to another definition than *saga*, or gone."""
        loaded = await self.engine.log.load(gid)
        if loaded is None or loaded.definition != saga.identity:
            return None
        return restored(saga, loaded, now_s=self.clock.monotonic_s()).state

    def _gid(self) -> str:
        return new_gid(self.prefix, self.clock.now(), self.chance.randbytes(RANDOM_BYTES))


class SagaVerbs:
    """The verbs of sagas, on a coordinator."""

    _sagas: Sagas | None = None

    @property
    def sagas(self) -> Sagas:
        """The sagas of this coordinator. Raises `InvalidDefinition` where it is not running."""
        if self._sagas is None:
            raise InvalidDefinition("the coordinator is not running: write `async with Coordinator(...)`")
        return self._sagas

    async def run(self, saga: Saga, value: Any = None, *, key: str | None = None) -> SagaOutcome:
        """Run *saga* to its end. Raises `Compensated` where it was undone, `Parked` where an operator is needed."""
        return await self.sagas.run(saga, value, key=key)

    async def start(self, saga: Saga, value: Any = None, *, key: str | None = None) -> SagaHandle:
        """Begin *saga*, once for each *key*; a handle to come back to it by."""
        return await self.sagas.start(saga, value, key=key)

    async def attach(self, saga: Saga, key: str | None = None, *, gid: str | None = None) -> SagaHandle:
        """A handle to the saga that was begun with *key* (or as *gid*), by any process."""
        return await self.sagas.attach(saga, key, gid=gid)

    async def signal(self, saga: Saga, key: str, name: str, payload: Any = None) -> None:
        """Send a signal to the saga that was begun with *key*."""
        await (await self.attach(saga, key)).signal(name, payload)


def assemble(
    coordinator: "SagaVerbs",
    log: SagaLog,
    ownership: Ownership,
    alerts: Alerts,
    clock: Clock,
    settings: Settings,
    definitions: Iterable[Saga],
    *,
    prefix: str,
) -> tuple[Sagas, Periodic]:
    """The sagas of a coordinator, and the loop that looks after those which wait or were left."""
    chance = random.SystemRandom()

    def may_call() -> Awaitable[None] | None:
        return None if ownership.holds else holding_again()

    async def holding_again() -> None:
        losses = ownership.losses
        while not ownership.holds:
            await clock.sleep(limits.SAGA_LOOK_S)
            if ownership.losses != losses:
                raise Replaced("this process was replaced while a step waited to be called")

    calls = Calls(
        clock=clock,
        chance=chance,
        may_call=may_call,
        budgets=CallBudgets(clock=clock, chance=chance, configured=settings.budgets, breakers=Breakers(clock)),
        coordinator=coordinator,
    )
    engine = SagaEngine(log=log, ownership=ownership, alerts=alerts, clock=clock, calls=calls)
    ownership.on_loss.append(engine.let_go)
    for definition in definitions:
        engine.register(definition)
    recovery = SagaRecovery(engine=engine)
    loop = Periodic(name="sagas", round_=recovery.look, period_s=limits.SAGA_LOOK_S, clock=clock, chance=chance)
    return Sagas(engine=engine, recovery=recovery, clock=clock, prefix=prefix, chance=chance), loop


def _checked(saga: Any) -> Saga:
    if not isinstance(saga, Saga):
        raise InvalidDefinition(f"a saga is a definition, Saga(...), and not {saga!r}")
    return saga


def _judged(outcome: SagaOutcome) -> SagaOutcome:
    match outcome.phase:
        case Phase.COMPLETED:
            return outcome
        case Phase.COMPENSATED:
            raise Compensated(f"{outcome.gid} was undone: {outcome.reason}", gid=outcome.gid)
        case Phase.PARKED:
            raise Parked(f"{outcome.gid} waits for an operator: {outcome.reason}", gid=outcome.gid)
        case _:
            raise InDoubt(f"{outcome.gid} has not ended yet", gid=outcome.gid)
