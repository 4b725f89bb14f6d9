"""Try, confirm, cancel as a participant of the two-phase machine, from three async functions.

A try reserves, and is the vote. A confirmation makes the reservation final, and is the commit. A cancellation takes it
back, and is the abort. The coordinator repeats both until they answer, so each must bear to come twice; a cancellation
must also bear that there is nothing to take back, and keep a try out that comes after it. The barrier does all of that.
"""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any

from coordinator import limits
from coordinator.errors import InDoubt, InvalidDefinition, Refused, Unavailable
from coordinator.faults.points import boundary
from coordinator.gids import made_at
from coordinator.ports import Ability, Doubtful
from coordinator.protocol.model import BranchName, Ending, Evidence, Gid, Prepared, Recipe, Vote

logger = logging.getLogger(__name__)

Try = Callable[..., Awaitable[object]]
End = Callable[..., Awaitable[Ending | None]]
Pending = Callable[..., Awaitable[Iterable[tuple[str, float]]]]


class Tcc:
    """`ports.Participant` for a service that can reserve.

        stock = Tcc(reserve, confirm=sell, cancel=put_back, pending=reservations)

        async with coordinator.transaction("order") as transaction:
            (await transaction.enlist("stock")).reserve({"item": "apple", "count": 3})

    *attempt* is called with the transaction's id and what was to be reserved. It raises `Refused` for a no (then
    nothing is reserved), and `Unavailable` where nothing happened; anything else that it raises means that nobody
    knows, and it is cancelled. *confirm* and *cancel* are called with the id alone, possibly in another process and a
    long time later. They return None once it is so, or how it ended where that was otherwise before: `Ending.ABORTED`
    of a confirmation after a cancellation, and the reverse. Whatever they raise, they are called again; where they
    raise `Refused`, an alert says so, since nobody else can end it then.

    *pending* returns (id, age in seconds) of what is reserved now. With it, what a process that died had tried is
    cancelled; without it, such a reservation must expire by itself, later than any decision can come.

    Each function is told more where it has a parameter for it. *branch* is the name that this participant is registered
    by: where two of one service are in a transaction, it tells their reservations apart, which have the same id. *term*
    (of *confirm* and *cancel*) says whose reign it is: 1 is whoever tried, and each process that takes over from
    another has a higher one. The service may turn away what is lower than it was told before (the barrier does).
    *prefix* (of *pending*) is what this coordinator's ids begin with. Others need not be listed; and of very
    many it is enough to list the oldest: of those most are ended, and it is asked again.
    """

    def __init__(
        self,
        attempt: Try,
        *,
        confirm: End,
        cancel: End,
        pending: Pending | None = None,
        call_within_s: float = limits.PARTICIPANT_CALL_S,
    ) -> None:
        self.name = BranchName("tcc")
        self.prefix = "unan"
        self.attempt, self._confirm, self._cancel, self._pending = attempt, confirm, cancel, pending
        self._call_within_s = call_within_s

    async def open(self) -> frozenset[Ability]:
        """Nothing to connect to: the functions have their own connections."""
        return frozenset({Ability.PREPARE})

    async def close(self) -> None:
        """Nothing to close."""

    async def begin(self, gid: Gid, *, recipe: Recipe) -> "TccSession":
        """A share that reserves nothing yet. Raises `InvalidDefinition` for a recipe without a second phase."""
        if recipe not in (Recipe.TWO_PHASE, Recipe.LAST_RESOURCE):
            raise InvalidDefinition(f"{self.name} is confirmed after the decision, so {recipe} cannot carry it")
        return TccSession(self, gid)

    async def commit(self, prepared: Prepared) -> Ending:
        """Confirm; how it ended."""
        ended = await self._end("tcc.confirm", self._confirm, prepared)
        return ended or Ending.COMMITTED

    async def abort(self, prepared: Prepared) -> Ending:
        """Cancel, whether or not anything was tried; how it ended."""
        ended = await self._end("tcc.cancel", self._cancel, prepared)
        return ended or Ending.ABORTED

    async def in_doubt(self) -> Sequence[Doubtful]:
        """What is reserved now, for transactions of this coordinator. Raises as `ask` does."""
        if self._pending is None:
            return []
        listed = await self._bounded(self._list, self._call_within_s)
        strange = {gid for gid in listed if made_at(gid) is None}
        if strange:
            logger.warning("%s lists %d ids that nobody has made, like %.80r", self.name, len(strange), min(strange))
        return [
            Doubtful(prepared=Prepared(gid=Gid(gid), branch=self.name), age_s=age_s)
            for gid, age_s in listed.items()
            if gid not in strange
        ]

    async def _list(self) -> dict[str, float]:
        assert self._pending is not None, "without it nothing is listed"
        begins = f"{self.prefix}:"
        listed = await _told(self._pending, branch=self.name, prefix=begins)()
        return {gid: float(age_s) for gid, age_s in listed if gid.startswith(begins)}

    async def _end(self, point: str, end: End, prepared: Prepared) -> Ending | None:
        call = _told(end, 1, term=prepared.term, branch=self.name)
        ended = await self.ask(point, partial(call, prepared.gid), prepared.gid, self._call_within_s)
        if ended is not None and not isinstance(ended, Ending):
            raise InvalidDefinition(
                f"{self.name}: what confirms or cancels returns None or an Ending, not {ended!r:.80}",
                participant=self.name,
                gid=prepared.gid,
            )
        return ended

    async def ask(self, point: str, call: Callable[[], Awaitable[Any]], gid: Gid, within_s: float) -> Any:
        """Call the service. Raises `Unavailable` and `Refused` where it does, and `InDoubt` where nobody knows.

        A confirmation or cancellation that is refused is owed all the same: it is asked for again, and told to people.
        """
        return await self._bounded(lambda: boundary(point, call, gid=gid), within_s, gid)

    async def _bounded(self, call: Callable[[], Awaitable[Any]], within_s: float, gid: Gid | None = None) -> Any:
        try:
            async with asyncio.timeout(within_s):
                return await call()
        except (Unavailable, InDoubt, Refused):
            raise
        except asyncio.CancelledError as cancelled:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            # Nobody cancelled us: something that the service's function awaited was, an error like any other.
            said = f"{self.name} did not answer: what it awaited was cancelled"
            raise InDoubt(said, participant=self.name, gid=gid) from cancelled
        except Exception as failure:  # Whatever a service raises, the transaction has to know what it means.
            said = str(failure) or type(failure).__name__
            raise InDoubt(f"{self.name} did not answer: {said}", participant=self.name, gid=gid) from failure


class TccSession:
    """`ports.Session` of one transaction: what is to be reserved, tried when it votes."""

    def __init__(self, participant: Tcc, gid: Gid) -> None:
        self._participant, self._gid = participant, gid
        self._asked: list[Any] = []
        self._may_hold = self._voted = False

    @property
    def connection(self) -> "TccSession":
        """What business code reserves through."""
        return self

    def reserve(self, what: Any) -> None:
        """Have *what* reserved when the transaction commits. Once: it is all of this share."""
        if self._asked:
            raise InvalidDefinition(
                f"{self._participant.name} is asked for one thing in a transaction: put all into it"
            )
        self._asked.append(what)

    async def vote(self, timeout_s: float) -> tuple[Vote, Evidence]:
        """Try."""
        if not self._asked:
            return Vote.READ_ONLY, {}
        self._may_hold = True
        try:
            await self._participant.ask("tcc.try", self._try, self._gid, timeout_s)
        except (Refused, Unavailable):
            self._may_hold = False
            raise
        self._voted = True
        return Vote.YES, {}

    async def discard(self) -> None:
        """Cancel what may have been reserved. What has promised stays: by now it may have been decided to commit.

        Raises as `ask` does where it could not be cancelled; then it may be called again. (That a cancellation is
        refused does not say that there is nothing to take back.)
        """
        if self._may_hold and not self._voted:
            tcc = self._participant
            await tcc.abort(Prepared(gid=self._gid, branch=tcc.name))
            self._may_hold = False

    async def _try(self) -> None:
        tcc = self._participant
        await _told(tcc.attempt, 2, branch=tcc.name)(self._gid, self._asked[0])


def _told(function: Callable[..., Awaitable[Any]], given: int = 0, **known: object) -> Callable[..., Awaitable[Any]]:
    """*function*, told what is *known* and it has parameters for, beside the first ones, which it is *given*.

    What a `functools.partial` has bound already is its user's.
    """
    names = {*list(inspect.signature(function).parameters)[given:]}.difference(getattr(function, "keywords", ()))
    return partial(function, **{name: value for name, value in known.items() if name in names})
