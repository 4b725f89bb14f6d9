"""The participants of tried sagas: each call is answered as the plan says, and effects are counted behind a barrier."""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

from coordinator.errors import Refused, Unavailable
from coordinator.sagas import Attempts, Saga, StepContext, await_signal, sleep, step
from tests.properties.saga_oracle import Seen
from tests.properties.saga_plans import ATTEMPTS, WITHIN_S, Plan

TIMEOUT_S, LATE_S = 1.0, 4.0
OFTEN = Attempts(at_most=ATTEMPTS, backoff_s=0.1, backoff_max_s=0.5)
PROCESS: ContextVar[str] = ContextVar("process", default="")
"""The name of the process that runs here."""


class Conflicted(Exception):
    """What a database driver raises for a serialisation failure."""

    sqlstate = "40001"


class Participant:
    """Every step's participant: answers as the plan says, and counts effects behind a barrier of its own."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.seen: list[Seen] = []
        self.rows: set[tuple[int, str]] = set()
        self.closed: set[int] = set()
        """Steps of which it has said that they will never be."""
        self._left = {
            (index, direction): list(answers)
            for index, each in enumerate(plan.steps)
            for direction, answers in (("action", each.answers), ("compensation", each.undo), ("status", each.asked))
        }

    async def call(self, index: int, context: StepContext) -> Any:
        """One call, as it is seen from outside."""
        told = (index, context.direction, PROCESS.get(), context.attempt)
        self.seen.append(Seen("call", *told))
        try:
            return await self._answer(index, context.direction, context.attempt)
        finally:
            self.seen.append(Seen("over", *told))

    async def _answer(self, index: int, direction: str, attempt: int) -> Any:
        left = self._left[index, direction]
        answer = left.pop(0) if left else "ok"
        await asyncio.sleep(0.01)
        match answer:
            case "unavailable":
                raise Unavailable("down")
            case "conflict":
                raise Conflicted("could not serialize access")
            case "refused":
                if (index, "action") not in self.rows:
                    self.closed.add(index)
            case "late":
                asyncio.get_running_loop().call_later(LATE_S, self.apply, index, direction, attempt)
                await asyncio.sleep(2 * TIMEOUT_S)
            case "timeout, not done":
                await asyncio.sleep(2 * TIMEOUT_S)
            case "timeout, done":
                self.apply(index, direction, attempt)
                await asyncio.sleep(2 * TIMEOUT_S)
            case "twice":
                self.apply(index, direction, attempt)
            case "slow":
                await asyncio.sleep(0.8 * TIMEOUT_S)
            case "unknown":
                return "unknown"
        if direction == "status":
            return self._status(index)
        self.apply(index, direction, attempt)
        if direction == "action" and (index, "action") not in self.rows:
            raise Refused("no")
        return None

    def _status(self, index: int) -> str:
        if (index, "action") in self.rows:
            return "done"
        self.closed.add(index)  # Whoever says that it will never be sees to that.
        return "never"

    def apply(self, index: int, direction: str, attempt: int) -> None:
        """A request arrives: it has its effect, unless the barrier knows better. *attempt* is no part of its key."""
        key = (index, direction)
        if key in self.rows or (direction == "action" and index in self.closed):
            return
        if direction == "action":
            self.rows.add(key)
        else:
            happened = (index, "action") in self.rows
            self.rows.add(key)
            self.closed.add(index)  # The origin's row: an action that comes after its undoing finds it.
            if not happened:
                return
        self.seen.append(Seen("effect", index, direction))


def saga_of(plan: Plan, participant: Participant) -> Saga:
    """The plan as users would write it."""

    def function(index: int) -> Callable[..., Awaitable[Any]]:
        async def call(context: StepContext) -> None:
            return await participant.call(index, context)

        return call

    listed = []
    for index, each in enumerate(plan.steps):
        name, after = f"s{index}", [f"s{earlier}" for earlier in each.after]
        if each.nap_s is not None:
            listed.append(sleep(name, each.nap_s, after=after))
            continue
        if each.told_at_s is not None:
            listed.append(await_signal(name, within=WITHIN_S, after=after))
            continue
        listed.append(
            step(
                function(index), name=name, after=after, pivot=each.pivot, on_unknown=each.on_unknown,
                compensate=function(index) if each.undoable else None,
                status=function(index) if each.on_unknown == "ask" else None,
                retry=OFTEN, undo_retry=OFTEN, timeout_s=TIMEOUT_S,
            )
        )  # fmt: skip
    return Saga("tried", *listed, deadline_s=plan.deadline_s)
