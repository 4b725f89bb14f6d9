"""What the checks of `conformance` are run on: a barrier whose effects can be counted, and what is delivered to it."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Protocol

from coordinator.errors import KeyReused, Refused, Replaced
from coordinator.gids import new_gid
from participants.barrier.barrier import Passage
from participants.barrier.decision import Call, Direction, Standing, Verdict

Pause = Callable[[], Awaitable[None]]
_DELIVERIES_MAX = 20


class Subject(Protocol):
    """A barrier, with effects that it guards: numbers that are added up, per gid and in one place for all."""

    async def deliver(
        self,
        call: Call,
        effect: int,
        *,
        result: bytes | None = None,
        refuses: bool = False,
        before_commit: Pause | None = None,
    ) -> Passage:
        """Handle one delivery in one transaction.

        Enter; where the effect is to be had, add *effect* to the sum of the gid and to the total, and keep *result*;
        or, where the handler *refuses*, keep it as a refusal and add nothing. Then await *before_commit*, and commit.
        An error of it rolls everything back, and is raised on.
        """
        ...

    async def intend(self, call: Call) -> Passage:
        """Commit a marker before an effect that is not transactional."""
        ...

    async def settle(self, call: Call, effect: int, *, result: bytes | None = None) -> Verdict:
        """Settle the marker and add *effect*, in one transaction; nothing is added where it is answered otherwise."""
        ...

    async def ask(self, call: Call) -> tuple[Standing, bytes | None]:
        """What became of an action, a try or a message, and its answer, in a transaction that is committed."""
        ...

    async def effects(self, gid: str) -> int:
        """What is committed for *gid*."""
        ...

    async def total(self) -> int:
        """What is committed for all."""
        ...


class Broken(Exception):
    """The handler's process ended before its transaction did."""


async def breaks() -> None:
    """A `before_commit` that rolls back."""
    raise Broken


class Hold:
    """A `before_commit` that waits; *breaks*: and then rolls back."""

    def __init__(self, *, breaks: bool = False) -> None:
        self.reached = asyncio.Event()
        self.released = asyncio.Event()
        self._breaks = breaks

    async def __call__(self) -> None:
        """Say that it is here, and wait."""
        self.reached.set()
        await self.released.wait()
        if self._breaks:
            raise Broken


def fresh(direction: Direction, payload: bytes = b"p", term: int = 0) -> Call:
    """The first delivery of a new transaction's step."""
    return Call(uuid.uuid4().hex, "" if direction is Direction.MESSAGE else "pay", direction, payload, term)


def made(at: datetime, direction: Direction) -> Call:
    """The first delivery of a transaction that was made *at* a time, as its id tells."""
    return Call(new_gid("suite", at, uuid.uuid4().bytes), "pay", direction)


def again(
    call: Call, direction: Direction | None = None, payload: bytes | None = None, term: int | None = None
) -> Call:
    """Another delivery for the same step."""
    return Call(
        call.gid,
        call.step,
        direction or call.direction,
        call.payload if payload is None else payload,
        call.term if term is None else term,
    )


async def until_answered(delivery: Callable[[], Awaitable[Passage]]) -> Passage:
    """Deliver again after each error, as any sender does, until there is an answer."""
    for _ in range(_DELIVERIES_MAX):
        try:
            return await delivery()
        except (AssertionError, KeyReused, Refused, Replaced):
            raise
        except Exception:  # noqa: BLE001, S112 - whatever the driver calls it: it is no answer.
            continue
    raise AssertionError(f"no answer to {_DELIVERIES_MAX} deliveries")
