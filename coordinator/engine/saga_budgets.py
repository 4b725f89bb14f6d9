"""Calls of sagas' steps wait for their turn, each participant's in a row of its own.

One that hangs or browns out holds up only the calls that are meant for it: at most `in_flight` are with it, a breaker
lets one probe at a time through to it while it fails, and retries cost what first attempts have earned. A call that
waits holds nothing but its own place: no connection, and no place of another participant.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from coordinator import limits
from coordinator.engine.breakers import Breakers
from coordinator.engine.budgets import RetryBudgets
from coordinator.errors import CircuitOpen, Conflict, Overloaded, Refused, Replaced
from coordinator.ports import Clock
from coordinator.protocol.calls import CallBudget, Rate
from coordinator.protocol.model import BranchName
from coordinator.sagas.attempts import Attempts


@dataclass(slots=True)
class _Row:
    """The calls of one participant."""

    places: asyncio.Semaphore
    rate: Rate | None


@dataclass(slots=True, kw_only=True)
class CallBudgets:
    """The budgets of all participants that steps name; "default" is for those which are not listed."""

    clock: Clock
    chance: random.Random
    configured: Mapping[str, CallBudget] = field(default_factory=dict)
    breakers: Breakers
    retries: RetryBudgets = field(default_factory=RetryBudgets)
    _rows: dict[str, _Row] = field(default_factory=dict)

    @asynccontextmanager
    async def turn(
        self,
        participant: str,
        *,
        again: bool,
        within_s: float,
        first: Callable[[], Awaitable[Any]] | None = None,
    ) -> AsyncIterator[Any]:
        """A call of *participant* is the block, and may raise what it likes. *again*: it is no first attempt.

        *first* is asked once its turn has come, and what it returns is given to the block. What it raises is raised,
        and says nothing of the participant: nothing was called, and another one may be the probe of an open breaker.
        Raises `Overloaded` or `CircuitOpen` where its turn does not come *within_s*; nothing was called then. The block
        itself ends within as many seconds again, or is no longer counted as that probe.
        """
        row, name = self._row(participant), BranchName(participant)
        until_s = self.clock.monotonic_s() + within_s
        try:
            async with asyncio.timeout(within_s):
                await row.places.acquire()
        except TimeoutError as late:
            raise Overloaded(
                f"all calls that {participant} may have at once have been out for {within_s:g} s",
                participant=participant,
            ) from late
        try:
            while True:
                await self._wait_for_breaker(name, until_s)
                # After the breaker: else all that wait for it begin at once.
                await self._wait_for_rate(row, participant, until_s)
                given = None if first is None else await first()
                if self.breakers.admit(name, within_s):
                    break
            if not again:
                self.retries.attempted(name)
            try:
                yield given
            except (Refused, Conflict):
                self.breakers.succeeded(name)  # It answered.
                raise
            except (Replaced, asyncio.CancelledError):
                raise  # It says nothing of the participant.
            except Exception:
                self.breakers.failed(name)
                raise
            else:
                self.breakers.succeeded(name)
        finally:
            row.places.release()

    def pause_s(self, participant: str, attempts: Attempts, made: int) -> float:
        """Before the next attempt, which comes out of the participant's budget.

        Without a budget it is made all the same, as late as may be: what it would be good for is owed already, or would
        be undone. Not all at one moment either: those that failed together would come back together.
        """
        if not participant or self.retries.spend(BranchName(participant)):
            return attempts.pause_s(made, self.chance.random())
        return attempts.backoff_max_s * self.chance.uniform(0.8, 1.0)

    def _row(self, participant: str) -> _Row:
        row = self._rows.get(participant)
        if row is None:
            budget = self.configured.get(participant) or self.configured.get("default") or CallBudget()
            rate = None if budget.per_second is None else Rate(budget.per_second)
            row = self._rows[participant] = _Row(asyncio.Semaphore(budget.in_flight), rate)
        return row

    async def _wait_for_rate(self, row: _Row, participant: str, until_s: float) -> None:
        if row.rate is None:
            return
        now_s = self.clock.monotonic_s()
        wait_s = row.rate.wait_s(now_s)
        if now_s + wait_s > until_s:  # Its place goes to one whose turn still comes.
            raise Overloaded(f"{participant} is called as often as it may be", participant=participant)
        row.rate = row.rate.taken(now_s)
        if wait_s:
            await self.clock.sleep(wait_s)

    async def _wait_for_breaker(self, name: BranchName, until_s: float) -> None:
        while not self.breakers.allows(name):
            if self.clock.monotonic_s() > until_s:
                raise CircuitOpen(f"{name} has failed repeatedly, and was not called", participant=name)
            await self.clock.sleep(self.chance.uniform(0, limits.BREAKER_REST_S / 4))
