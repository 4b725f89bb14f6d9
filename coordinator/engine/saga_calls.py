"""Calling a step: its action, its compensation, or the question what became of it, and what the answer means.

What a call raises is one of three things. `Refused` is a no that stays one. `Unavailable` (and a serialisation failure
of a database) means that nothing happened. Everything else, a timeout first of all, means that nobody knows.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, Literal

from coordinator import limits
from coordinator.engine.failures import pause_asked_s, told
from coordinator.engine.saga_budgets import CallBudgets
from coordinator.engine.saga_run import CalledOff, Halted, SagaRun
from coordinator.errors import (
    CoordinatorError,
    InDoubt,
    Outdated,
    Replaced,
    Unavailable,
)
from coordinator.errors import Refused as RefusedByStep
from coordinator.faults.points import boundary
from coordinator.ports import Clock
from coordinator.protocol.saga import Done, Phase, Refused, Stuck, Undone, Unknown
from coordinator.protocol.saga_shape import OnUnknown
from coordinator.sagas.events import Happened
from coordinator.sagas.steps import CONTEXT, Call, Status, StepContext, StepDefinition
from coordinator.sagas.values import read, write
from coordinator.storable import storable
from coordinator.timeouts import Timeouts

logger = logging.getLogger(__name__)

Direction = Literal["action", "compensation", "status"]
# A transaction that a database rolled back so that another one could be serialised, or a deadlock end.
_ROLLED_BACK = frozenset({"40001", "40P01"})

LOST, PARKED = "the process that ran it was lost", "nobody knew it when it was parked"
"""Why nobody knows what became of a step."""


@dataclass(slots=True, kw_only=True)
class Calls:
    """Calls steps, as often as their definitions allow, while this process may."""

    clock: Clock
    chance: random.Random
    may_call: Callable[[], Awaitable[None] | None]
    """None where this process holds its lease; else what returns once it does (`Replaced`: it never will again)."""
    budgets: CallBudgets
    coordinator: Any = None
    rest: Callable[[SagaRun, float], Awaitable[None]] = field(init=False)
    """Lets so many seconds pass between two attempts, or fewer; the saga may have been called off when it returns."""
    called_off: Callable[[SagaRun], Awaitable[str]] = field(init=False)
    """Why a call that had to wait is not made after all; empty where it is."""
    halted: bool = False
    """This process stops: what is under way may end, and no call is made any more."""
    _timeouts: Timeouts = field(default_factory=Timeouts)

    async def act(self, run: SagaRun, step: StepDefinition) -> Happened:
        """Call the action until it is known what became of it, or until its policy says what to make of it."""
        call, made, doubtful, began_s = step.run, 0, step.name in run.state.doubtful, self.clock.monotonic_s()
        assert call is not None, "an action has a function"
        while True:
            made += 1
            try:
                value = await self._call(run, step, call, "action", made)
                return _done(step, value)
            except CalledOff as why:
                return await self._given_up(run, step, doubtful, str(why))
            except (Replaced, Halted, asyncio.CancelledError):
                raise
            except Exception as failure:  # noqa: BLE001 - whatever a step raises, the saga has to know what it means.
                logger.info("step %s of %s, attempt %d: %r", step.name, run.gid, made, failure)
                doubtful = doubtful or isinstance(failure, Outdated)  # What is known here is not all that happened.
                if isinstance(failure, RefusedByStep) and not (doubtful and says_nothing_of_earlier(failure)):
                    return Happened(Refused(step.name, said(failure)))
                passed_s, asked_for_s = self.clock.monotonic_s() - began_s, pause_asked_s(failure)
                unknown = not nothing_happened(failure)
                # What one attempt may have done, no later one takes back by doing nothing.
                doubtful = doubtful or unknown
                attempts = step.attempts_in_doubt if doubtful else step.attempts
                last = isinstance(failure, RefusedByStep) or attempts.over(made, passed_s)
                if not doubtful:
                    run.begun.discard(step.name)
                if step.on_unknown is OnUnknown.ASK and (unknown or (last and doubtful)):
                    return await self.ask(run, step, said(failure))
                if last or (unknown and step.on_unknown is OnUnknown.COMPENSATE):
                    made_of_it = Unknown if doubtful else Refused
                    return Happened(made_of_it(step.name, said(failure)))
            pause_s = asked_for_s + self.budgets.pause_s(call.participant, attempts, made)
            if (given_up := await self._rest_or_give_up(run, step, pause_s, doubtful)) is not None:
                return given_up

    async def undo(self, run: SagaRun, step: StepDefinition) -> Happened:
        """Call the compensation until it answers; never skipped, and stuck only after all its attempts."""
        call, made, began_s = step.undo, 0, self.clock.monotonic_s()
        assert call is not None, "what is undone has a compensation"
        while True:
            made += 1
            try:
                await self._call(run, step, call, "compensation", made)
            except (Replaced, Halted, asyncio.CancelledError):
                raise
            except Exception as failure:  # noqa: BLE001 - a compensation is owed whatever it raises.
                logger.warning("compensation of %s of %s, attempt %d: %r", step.name, run.gid, made, failure)
                if step.undo_retry.over(made, self.clock.monotonic_s() - began_s):
                    return Happened(Stuck(step.name, f"its compensation failed {made} times: {said(failure)}"))
                pause_s = self.budgets.pause_s(call.participant, step.undo_retry, made)
                await self._rest(run, pause_asked_s(failure) + pause_s)
            else:
                return Happened(Undone(step.name))

    async def ask(self, run: SagaRun, step: StepDefinition, reason: str) -> Happened:
        """Ask the participant what became of the step. UNKNOWN is never read as a no: it is asked again."""
        call, made, began_s = step.ask, 0, self.clock.monotonic_s()
        assert call is not None, "what is asked about has a status"
        while True:
            made, asked_for_s, why = made + 1, 0.0, ""
            try:
                answered = await self._call(run, step, call, "status", made)
                told, value = answered if isinstance(answered, tuple) else (answered, None)
                answer = Status(told)
                if answer is Status.DONE:
                    return _done(step, value)
            except (Replaced, Halted, asyncio.CancelledError):
                raise
            except Exception as failure:  # noqa: BLE001 - no answer is no answer, whatever it was.
                logger.info("status of %s of %s, attempt %d: %r", step.name, run.gid, made, failure)
                answer = Status.UNKNOWN
                asked_for_s = pause_asked_s(failure)
                why = f" (the last answer: {said(failure)})"
            if answer is Status.NEVER:
                return Happened(Refused(step.name, reason))
            if step.undo_retry.over(made, self.clock.monotonic_s() - began_s):
                return Happened(Stuck(step.name, f"nobody could say what became of it: {reason}{why}"))
            await self._rest(run, asked_for_s + self.budgets.pause_s(call.participant, step.undo_retry, made))

    async def settle(self, run: SagaRun, step: StepDefinition) -> Happened:
        """What became of a step that somebody else may have begun, as its policy says."""
        if step.name not in run.unsettled():
            return Happened(Refused(step.name, "it was not begun"))
        why = LOST if run.doubted else PARKED
        if step.on_unknown is OnUnknown.ASK:
            return await self.ask(run, step, why)
        if step.on_unknown is OnUnknown.RETRY and step.pivot:
            return await self.act(run, step)  # It is idempotent, and nobody could undo it: it is called to know.
        return Happened(Unknown(step.name, why))

    async def _rest(self, run: SagaRun, seconds: float) -> None:
        """The pause before another attempt. Raises `Halted` where none is made here any more."""
        if not self.halted:
            await self.rest(run, seconds)
        if self.halted:
            raise Halted

    async def _rest_or_give_up(
        self, run: SagaRun, step: StepDefinition, seconds: float, doubtful: bool
    ) -> Happened | None:
        """Rest before another attempt; or, of a saga that goes backward, what is known of the step without one."""
        if doubtful and step.pivot:  # Nobody could undo it: it is tried until it is known.
            await self._rest(run, seconds)
            return None
        if run.state.phase is not Phase.BACKWARD:
            await self._rest(run, seconds)
        if run.state.phase is not Phase.BACKWARD:
            return None
        return await self._given_up(run, step, doubtful, "it was called off before it was tried again")

    async def _given_up(self, run: SagaRun, step: StepDefinition, doubtful: bool, reason: str) -> Happened:
        """What is known of a step that is not called any more."""
        if doubtful and step.on_unknown is OnUnknown.ASK:
            return await self.ask(run, step, reason)
        return Happened((Unknown if doubtful else Refused)(step.name, reason))

    async def _call(self, run: SagaRun, step: StepDefinition, call: Call, direction: Direction, attempt: int) -> Any:
        begins = partial(self._begins, run, step, call, direction, attempt)
        if not call.participant:
            return await self._made(run, step, call, direction, await begins(waited=False))
        first = partial(begins, waited=True)
        async with self.budgets.turn(
            call.participant, again=attempt > 1, within_s=step.timeout_s, first=first
        ) as keywords:
            return await self._made(run, step, call, direction, keywords)

    async def _begins(
        self, run: SagaRun, step: StepDefinition, call: Call, direction: Direction, attempt: int, *, waited: bool
    ) -> Mapping[str, Any]:
        """The arguments of a call that may be made now. Whatever is raised instead, nobody was called.

        Raises `CalledOff` where it is not to be made after all, having *waited*, and `Halted` or `Replaced` where it is
        not made here.
        """
        if (held := self.may_call()) is not None:
            waited = True
            await held
        if self.halted:
            raise Halted
        if waited and direction == "action" and (why := await self._why_not(run, step)):
            raise CalledOff(why)
        keywords = call.keywords(run.values)
        if call.takes_context:
            keywords[CONTEXT] = StepContext(
                gid=run.gid,
                saga=run.saga.name,
                step=step.name,
                direction=direction,
                attempt=attempt,
                term=run.term,
                coordinator=self.coordinator,
            )
        return keywords

    async def _made(
        self, run: SagaRun, step: StepDefinition, call: Call, direction: Direction, keywords: Mapping[str, Any]
    ) -> Any:
        if direction == "action":
            run.begun.add(step.name)
        try:
            with self._timeouts.within(step.timeout_s):
                called = partial(call.function, **keywords)
                return await boundary(_POINTS[direction], called, gid=run.gid, step=step.name)
        except asyncio.CancelledError as cancelled:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                if run.let_go or run.flying.get(step.name) is not task:
                    raise  # It is we who cut it off, or it is what drives the saga, which then ends as a whole.
                while task.cancelling():
                    task.uncancel()
            # Not we: something that the step awaited was cancelled, or it was by its own doing. That is a failure.
            raise InDoubt(f"step {step.name!r}, or what it awaited, was cancelled", gid=run.gid) from cancelled

    async def _why_not(self, run: SagaRun, step: StepDefinition) -> str:
        """Why an action that had to wait is not called any more. A pivot in doubt is, to know: nobody could undo it."""
        doubtful = step.name in run.begun or step.name in run.state.doubtful
        return "" if doubtful and step.pivot else await self.called_off(run)


def nothing_happened(failure: BaseException) -> bool:
    """Whether a failed call is known to have done nothing, so that the same call may be made again."""
    # What wraps a driver's error (SQLAlchemy does) has it as `orig`.
    states = (told(each, "sqlstate") for each in (failure, told(failure, "orig")))
    return isinstance(failure, Unavailable) or any(isinstance(state, str) and state in _ROLLED_BACK for state in states)


def says_nothing_of_earlier(refusal: RefusedByStep) -> bool:
    """Whether a no is to this call alone: what the step is about was not looked at, or an earlier one has done it."""
    return refusal.of_one_call


def _done(step: StepDefinition, value: Any) -> Happened:
    assert step.output is not None, "an action's output has a type"
    text = write(step.output, value)
    again = read(step.output, text)  # As later steps have it; and what nobody could read is never written.
    if len(text) > limits.SAGA_OUTPUT_BYTES_MAX:
        raise InDoubt(f"an output of {len(text)} bytes is above the limit of {limits.SAGA_OUTPUT_BYTES_MAX}")
    return Happened(_fact(step.name), text, None, again)


_fact = cache(Done)
"""Equal facts, made once for each step's name."""


def said(failure: BaseException) -> str:
    """What operators read. (`KeyError: 'x'` tells them more than `'x'`; what ours say needs no name.)"""
    kind = type(failure).__name__
    try:
        text = str(failure)
    except Exception:  # noqa: BLE001 - it is a step's own, and may not even be able to say what it is.
        text = ""
    if isinstance(failure, CoordinatorError) and text:
        return storable(text)
    return storable(f"{kind}: {text}" if text else kind)


_POINTS = {"action": "saga.run", "compensation": "saga.undo", "status": "saga.ask"}
