"""The loop of sagas: do what is owed, write down what happened, until nothing is owed; and then remember nothing.

A saga that waits for a time or a signal is nobody's: it holds no task and no connection. Whoever looks when its time
has come goes on with it, as with what a dead process left (`saga_recovery.py`): nothing else moves a saga.
"""

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from coordinator import blocks, limits
from coordinator.engine.ownership import Ownership
from coordinator.engine.performer import UNKNOWN
from coordinator.engine.saga_calls import Calls, said
from coordinator.engine.saga_listening import Listening
from coordinator.engine.saga_parking import Parking, freed
from coordinator.engine.saga_run import Halted, SagaOutcome, SagaRun, new_saga, same_input
from coordinator.engine.saga_signals import hear
from coordinator.engine.saga_waits import needless, waited_for
from coordinator.engine.saga_writing import insist
from coordinator.errors import InDoubt, InvalidDefinition, KeyReused, Overloaded, Refused, Replaced, Unavailable
from coordinator.ports import Alerts, Clock
from coordinator.protocol.saga import (
    Cancelled,
    Done,
    Phase,
    Resumed,
    Run,
    SagaAction,
    Settle,
    Skipped,
    Stuck,
    evolve,
    owed,
)
from coordinator.protocol.saga import Refused as StepRefused
from coordinator.protocol.saga_shape import Kind
from coordinator.sagas.definition import Saga
from coordinator.sagas.events import Happened, encode
from coordinator.sagas.log import NewSaga, Rest, SagaLog, Standing
from coordinator.sagas.steps import REQUEST

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class SagaEngine:
    """Starts sagas, and drives them until they end, sleep, or are another process'."""

    log: SagaLog
    ownership: Ownership
    alerts: Alerts
    clock: Clock
    calls: Calls
    definitions: dict[str, Saga] = field(default_factory=dict)
    """By identity: a saga that runs is pinned to one, and is left to a process that has it."""
    running: dict[str, SagaRun] = field(default_factory=dict)
    broken: set[int] = field(default_factory=set)
    """Those that a bug or a misconfiguration ended here while a step of theirs was under way."""
    failures: dict[int, list[str]] = field(default_factory=dict)
    """What ended the driving of a saga here, each time since something was last written of it."""
    stopping: bool = False
    tasks: dict[str, "asyncio.Task[None]"] = field(default_factory=dict)
    _unasked: set["asyncio.Task[None]"] = field(default_factory=set)
    """Those that begin whose callers were cancelled."""
    _left: list[SagaRun] = field(default_factory=list)
    """Those that stopping has let go of, and that are still ours."""
    listening: Listening = field(init=False)
    parking: Parking = field(init=False)

    def __post_init__(self) -> None:
        """The sagas that run are those that listen, and what they rest between is what they listen in."""
        self.listening = Listening(log=self.log, clock=self.clock, running=self.running)
        self.parking = Parking(alerts=self.alerts)
        self.calls.rest, self.calls.called_off = self._rest, self.listening.called_off

    def register(self, saga: Saga) -> None:
        """Make *saga* known here. Raises `InvalidDefinition` where another one has its name and version."""
        known = self.definitions.get(saga.identity)
        if known is None:
            if any(saga.version and other.label == saga.label for other in self.definitions.values()):
                raise InvalidDefinition(
                    f"saga {saga.label} has another shape than the one that is registered under this version: a saga "
                    "that runs is pinned to its definition, so give the changed one another version"
                )
            self.definitions[saga.identity] = saga
        elif known is not saga and not known.calls_the_same(saga):
            raise InvalidDefinition(
                f"saga {saga.label} is registered here with other functions, and whoever goes on with a saga calls "
                "those: define it once, outside of the function that runs it, or give the other one another version"
            )

    # ── starting ──

    async def start(self, saga: Saga, value: Any, *, key: str | None, gid: str) -> tuple[str, SagaRun | None]:
        """Begin a saga, or find the one that stands for *key*: its id, and its run where it was begun here now.

        Raises `InvalidDefinition` for an input of another type, `KeyReused` where the key stands for another input, and
        `Overloaded` where its log is behind. Where the caller is cancelled it may have begun, and goes on all the same.
        """
        if self.stopping:
            raise Unavailable("this process is stopping: no saga begins here any more")
        if not self.ownership.holds:
            raise Unavailable("this process holds no lease at the moment: the journal's database does not answer")
        if (reason := self.log.crowded()) is not None:
            raise Overloaded(reason)
        self.register(saga)
        new, value = new_saga(saga, value, key=key, gid=gid)
        losses = self.ownership.losses
        try:
            standing = await self._started(new)
        except asyncio.CancelledError:
            unasked = asyncio.create_task(self._start_unasked(saga, new, value, losses), name=f"saga {gid}")
            self._unasked.add(unasked)
            unasked.add_done_callback(self._unasked.discard)
            raise
        if standing.fingerprint != new.fingerprint and not same_input(saga, new, await self.log.load(standing.gid)):
            raise KeyReused(
                f"saga {saga.name!r} with key {key!r} is {standing.gid}, with another input", gid=standing.gid
            )
        return standing.gid, self._taken_up(saga, standing, value, losses)

    async def _start_unasked(self, saga: Saga, new: NewSaga, value: Any, losses: int) -> None:
        """Go on with what may have begun, though nobody waits for it any more."""
        try:
            self._taken_up(saga, await self._started(new, again=True), value, losses)
        except (InDoubt, Refused, Replaced) as failure:
            logger.warning("saga %s, whose caller was cancelled, is not driven here: %s", new.gid, failure)

    def _taken_up(self, saga: Saga, standing: Standing, value: Any, losses: int) -> SagaRun | None:
        """Drive what has just begun; None where another one did that, or we did under a lease that is lost."""
        if not standing.ours or self.ownership.losses != losses or standing.gid in self.running:
            return None
        values = {REQUEST: value}
        run = SagaRun(saga, standing.number, standing.gid, values, saga.beginning, lease=self.ownership.lease)
        if saga.deadline_s is not None:
            run.deadline_s = self.clock.monotonic_s() + saga.deadline_s
        self.drive(run)
        return run

    async def _started(self, new: NewSaga, *, again: bool = False) -> Standing:
        """Asked again under the same id for as long as a caller may wait: it begins once, however often it is asked.

        *again*: it was asked before. What began then may have been found and driven since, also to its end.
        """
        until_s, pause_s = self.clock.monotonic_s() + limits.PARTICIPANT_CALL_S, limits.FINISH_BACKOFF_S
        while True:
            try:
                standing = await self.log.start(new)
                if again and standing.ours:
                    loaded = await self.log.load(new.gid)
                    standing = replace(standing, ours=loaded is not None and loaded.reigns == 1)
            except (Unavailable, *UNKNOWN) as failure:
                if self.clock.monotonic_s() > until_s:
                    raise InDoubt(
                        f"nobody knows whether saga {new.gid} has begun: ask by this id, or begin it again with the "
                        "same key",
                        gid=new.gid,
                    ) from failure
                again = True
                await self.clock.sleep(self.calls.chance.uniform(0, pause_s))
            else:
                return standing

    def await_here(self, run: SagaRun) -> "asyncio.Future[SagaOutcome]":
        """A future of *run*'s end, while it is driven here."""
        future: asyncio.Future[SagaOutcome] = asyncio.get_running_loop().create_future()
        run.waiters.append(future)
        return future

    # ── driving ──

    def drive(self, run: SagaRun) -> None:
        """Drive it in a task of its own."""
        self.running[run.gid] = run
        task = asyncio.get_running_loop().create_task(self._drive(run), name=f"saga {run.gid}")
        if not task.done():  # An eager one may be, by now.
            self.tasks[run.gid] = task
        task.add_done_callback(partial(self._forget, run))

    def _forget(self, run: SagaRun, ended: "asyncio.Task[None]") -> None:
        failure: BaseException | None = None
        if not ended.cancelled():
            failure = ended.exception()
        elif not (run.let_go or self.stopping):  # Not by us: else nobody would hear of it, however often it happens.
            failure = InDoubt("what drives it was cancelled, by a step or by something that it called", gid=run.gid)
        run.let_go = True
        for task in run.flying.values():
            task.cancel()
        if self.stopping and not run.state.ended:
            self._left.append(run)
        if failure is not None and not isinstance(failure, Halted):
            self._note(run, failure)
        self._leave(run)

    def _note(self, run: SagaRun, failure: BaseException) -> None:
        if isinstance(failure, Replaced):
            logger.warning("saga %s is another process' now: %s", run.gid, failure)
        else:
            logger.error("driving saga %s ended with a bug or a misconfiguration", run.gid, exc_info=failure)
        if self.ownership.holds:  # It may be ours still (a participant knows a later term, say), and is found again.
            self.failures.setdefault(run.number, []).append(said(failure))
            if run.unsettled():
                self.broken.add(run.number)

    def _leave(self, run: SagaRun) -> None:
        """It ended, it sleeps, or it is another's: whoever waits looks again."""
        if self.running.get(run.gid) is run:
            del self.running[run.gid]
            self.tasks.pop(run.gid, None)
        for waiter in run.waiters:
            if not waiter.done():
                waiter.set_result(run.outcome())

    async def _drive(self, run: SagaRun) -> None:
        if blocks.inside.get() is not None:  # Whoever began it was inside of one: its steps are not.
            blocks.inside.set(None)
        shape, steps = run.saga.shape, run.saga.steps
        while actions := owed(shape, run.state):
            if self.stopping and not run.flying and not run.held:
                return
            if self.listening.is_late(run):
                await self.write(run, Happened(Cancelled("its deadline has passed")))
                continue
            if run.told and (heard := await self.listening.heard(run)) is not None:
                await self.write(run, heard)
                continue
            alone = len(actions) == 1 and not (run.flying or run.held) and steps[actions[0].step].kind is Kind.ACTION
            happened = await (self._perform(run, actions[0]) if alone else self._next(run, actions))
            if happened is None:
                break
            if run.flying and evolve(shape, run.state, happened.event).phase is Phase.PARKED:
                # What is being called settles first: nobody would hear of it afterwards.
                assert not isinstance(happened.event, Cancelled | Resumed), "what parks a saga has a step"
                run.held[happened.event.step] = happened
                continue
            if run.told and (heard := await self.listening.heard(run)) is not None:
                await self.write(run, heard)  # It was said before this ended, and may be what shuts it out.
                if needless(run, happened):
                    continue
            await self.write(run, happened)
        if run.state.ended:
            self._leave(run)  # At once, and not when its task is found to be done: its caller waits for this.
            return
        if self.stopping and run.state.parked is None:
            return
        if (heard := hear(run)) is not None:
            await self.write(run, heard)
            await self._drive(run)
        else:
            await self._put_to_sleep(run)

    async def _next(self, run: SagaRun, actions: Sequence[SagaAction]) -> Happened | None:
        """What happens next of what is owed at once; None where nothing can until a time or a signal comes."""
        while True:
            if run.held and not run.flying:
                return run.held.pop(next(iter(run.held)))
            for action in actions:
                if action.step in run.held:
                    continue
                step = run.saga.steps[action.step]
                if isinstance(action, Run) and step.kind is not Kind.ACTION:
                    waited = waited_for(run, step, now_s=self.listening.now_s())
                    if waited is not None and isinstance(waited.event, StepRefused | Stuck):
                        await self.listening.read(run)  # Another process may have sent (the right) one in time.
                        waited = waited_for(run, step, now_s=self.listening.now_s())
                    if waited is not None:
                        return waited
                elif not (
                    self.stopping or run.held or action.step in run.flying or len(run.flying) >= run.saga.parallel
                ):
                    run.flying[action.step] = asyncio.create_task(self._perform(run, action))
            if not run.flying:
                return None
            if (heard := await self.listening.until(run, run.flying.values())) is not None:
                return heard
            for name, task in list(run.flying.items()):
                if task.done():
                    del run.flying[name]
                    if not isinstance(task.exception(), Halted):
                        return task.result()

    def _perform(self, run: SagaRun, action: SagaAction) -> Coroutine[Any, Any, Happened]:
        step, kind = run.saga.steps[action.step], type(action)
        if kind is Run:
            return self.calls.act(run, step)
        return self.calls.settle(run, step) if kind is Settle else self.calls.undo(run, step)

    async def _rest(self, run: SagaRun, seconds: float) -> None:
        """Between two attempts of a call. A word to the saga is heard meanwhile, and may cut it short."""
        run.rushed = run.rushed or asyncio.Event()
        over = {asyncio.create_task(self.clock.sleep(seconds)), asyncio.create_task(run.rushed.wait())}
        try:
            while not any(each.done() for each in over):
                if run.flying:  # Whoever waits for these listens.
                    await asyncio.wait(over, return_when=asyncio.FIRST_COMPLETED)
                elif (heard := await self.listening.until(run, over)) is not None:
                    await self.write(run, heard)
        finally:
            for each in over:
                each.cancel()

    async def write(self, run: SagaRun, happened: Happened) -> None:
        """Make it durable, and only then believe it."""
        event, _, signal, value = happened
        was, state = run.state.phase, evolve(run.saga.shape, run.state, event)
        word = freed(run, signal) if was is Phase.PARKED else None
        append = partial(self.log.append, run.number, run.position, encode(happened), final=state.ended, freed=word)
        try:
            await insist(run.gid, append, clock=self.clock, chance=self.calls.chance)
        except Refused as failure:
            if type(failure) is not Refused or not isinstance(event, Done):
                raise
            logger.exception("the end of step %s of %s cannot be written", event.step, run.gid)
            await self.write(run, Happened(Stuck(event.step, "its output cannot be stored: see the log")))
            return
        run.state, run.position = state, run.position + 1
        if word is not None:
            run.deadline_s = float("inf")  # It may have passed meanwhile, and would say the opposite of the operator.
        if self.failures:
            self.failures.pop(run.number, None)
        if isinstance(event, Done):
            run.values[event.step] = value
        elif isinstance(event, Skipped):
            run.values.setdefault(event.step, None)
        if signal is not None:
            run.consumed.add(signal)
            run.signals = [other for other in run.signals if other.id != signal]
        if state.phase is Phase.BACKWARD and was is not Phase.BACKWARD:
            run.hurry()  # What rests is not to be tried again, but given up.

    # ── sleeping, and being woken ──

    async def _put_to_sleep(self, run: SagaRun) -> None:
        """Nobody's, until its time, a signal, or an operator comes."""
        wake_in_s, unsettled = self.listening.wake_in_s(run), run.unsettled()
        if run.state.parked is not None:
            wake_in_s = None
            unsettled -= {run.state.parked[1]}  # What is known of this one is written.
            await self.parking.begins(run)
        rest = Rest(run.number, run.term, run.signalled, wake_in_s, doubtful=bool(unsettled))
        await insist(run.gid, partial(self.log.suspend, rest), clock=self.clock, chance=self.calls.chance)

    # ── stopping ──

    async def let_go(self) -> None:
        """This process was replaced: what it drove is another one's, and is not driven under a later lease of ours."""
        self.failures.clear()
        self.broken.clear()
        for run in self.running.values():
            run.let_go = True
        for task in self.tasks.values():
            task.cancel()

    def _halt(self) -> None:
        """No step and no attempt begins any more; what rests between two is over."""
        self.stopping = self.calls.halted = True
        for run in self.running.values():
            run.hurry()

    async def drain(self, within_s: float) -> bool:
        """Begin no step any more, and let those end that are called; whether all did. The rest is others' at once."""
        self._halt()
        until_s = self.clock.monotonic_s() + within_s
        while self.tasks and (left_s := until_s - self.clock.monotonic_s()) > 0:
            await asyncio.wait(self.tasks.values(), timeout=min(left_s, limits.SAGA_LOOK_S))
            await self._hand_over()
        return not self.tasks

    async def stop(self) -> None:
        """Drive nothing any more; others have what is left at once. Idempotent."""
        self._halt()
        tasks = [*self.tasks.values(), *self._unasked]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._hand_over()

    async def _hand_over(self) -> None:
        """Give up what was let go of here; a step that was cut off is one whose outcome is unknown."""
        left, self._left = self._left, []
        doubtful = [run.number for run in left if run.unsettled()]
        try:
            if left:
                await self.log.release([run.number for run in left], doubtful)
        except (Replaced, Unavailable, *UNKNOWN) as failure:
            logger.warning("%d sagas wait for their owner's lease to expire: %r", len(left), failure)
