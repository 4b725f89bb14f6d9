"""What any barrier must answer, ours or yours, as checks that need no test framework.

Write a `Subject` for your barrier (its own transaction, an effect that can be counted), and run every check:

    for check in CHECKS:
        await check(subject)

A check that fails raises an `AssertionError` that says which delivery was answered wrongly. Each takes transactions of
its own, so one subject serves them all. Any other error of the subject's is taken for what it is: no answer, so that
the delivery comes again.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

from coordinator.errors import KeyReused, Refused, Replaced
from participants.barrier.barrier import Passage
from participants.barrier.decision import Call, Direction, Verdict

PROCEED, DUPLICATE, NOTHING_TO_UNDO = Verdict.PROCEED, Verdict.DUPLICATE, Verdict.NOTHING_TO_UNDO
TOO_LATE, UNSETTLED = Verdict.TOO_LATE, Verdict.UNSETTLED
Pause = Callable[[], Awaitable[None]]
_PAIRS = ((Direction.ACTION, Direction.COMPENSATION), (Direction.TRY, Direction.CANCEL))
_ORIGINS = (Direction.ACTION, Direction.TRY, Direction.MESSAGE)
_DELIVERIES_MAX = 20
_MEET_S = 0.1


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


async def a_duplicate_has_no_effect_and_gets_the_first_answer(subject: Subject) -> None:
    """Whatever the delivery is."""
    for direction in _ORIGINS:
        call = fresh(direction)
        _is((await subject.deliver(call, 5, result=b"answer")).verdict, PROCEED, call)
        for _ in range(2):
            second = await subject.deliver(again(call), 5, result=b"another")
            _is(second.verdict, DUPLICATE, call)
            _is(second.result, b"answer", call)
        _is(await subject.effects(call.gid), 5, call)


async def a_rollback_takes_the_record_back_with_the_effect(subject: Subject) -> None:
    """A transient error is not a result: the redelivery has the effect, and its own answer."""
    for direction in _ORIGINS:
        call = fresh(direction)
        await _broken(subject.deliver(call, 5, result=b"lost", before_commit=breaks))
        _is(await subject.effects(call.gid), 0, call)
        _is(await subject.deliver(again(call), 5, result=b"kept"), Passage(PROCEED), call)
        _is((await subject.deliver(again(call), 5)).result, b"kept", call)
        _is(await subject.effects(call.gid), 5, call)


async def concurrent_duplicates_have_one_effect(subject: Subject) -> None:
    """The second one waits for the first, and then looks; it does not assume that the first one succeeded."""
    for direction in _ORIGINS:
        for first_breaks in (False, True):
            call, hold = fresh(direction), Hold(breaks=first_breaks)
            first = asyncio.create_task(_attempt(subject.deliver(call, 5, before_commit=hold)))
            await hold.reached.wait()
            second = asyncio.create_task(until_answered(partial(subject.deliver, again(call), 5)))
            await asyncio.wait({second}, timeout=_MEET_S)
            hold.released.set()
            answers = [passage.verdict for passage in (await first, await second) if passage is not None]
            _is(answers.count(PROCEED), 1, call)
            _is(await subject.effects(call.gid), 5, call)


async def an_undo_without_its_action_has_no_effect_and_keeps_it_out(subject: Subject) -> None:
    """Null compensation, and then hanging: the late action must find that its undo was here."""
    for origin, undo in _PAIRS:
        call = fresh(origin)
        _is((await subject.deliver(again(call, undo), -5)).verdict, NOTHING_TO_UNDO, call)
        _is((await subject.deliver(again(call, undo), -5)).verdict, DUPLICATE, call)
        _is((await subject.deliver(call, 5)).verdict, TOO_LATE, call)
        _is((await subject.deliver(again(call, payload=b"other"), 5)).verdict, TOO_LATE, call)
        _is(await subject.effects(call.gid), 0, call)


async def an_undo_takes_the_effect_back_once(subject: Subject) -> None:
    """And a late duplicate of the action does not bring it again."""
    for origin, undo in _PAIRS:
        call = fresh(origin)
        await subject.deliver(call, 5)
        await _broken(subject.deliver(again(call, undo), -5, before_commit=breaks))
        _is(await subject.effects(call.gid), 5, call)
        _is((await subject.deliver(again(call, undo, b"u"), -5, result=b"undone")).verdict, PROCEED, call)
        _is(await subject.deliver(again(call, undo, b"u"), -5), Passage(DUPLICATE, b"undone"), call)
        _is((await subject.deliver(again(call), 5)).verdict, TOO_LATE, call)
        _is(await subject.effects(call.gid), 0, call)


async def an_undo_that_meets_its_action_leaves_nothing(subject: Subject) -> None:
    """Whichever of them is first, and whether it commits or not."""
    for origin, undo in _PAIRS:
        for held, other, effect in ((origin, undo, 5), (undo, origin, -5)):
            for first_breaks in (False, True):
                call, hold = fresh(held), Hold(breaks=first_breaks)
                first = asyncio.create_task(_attempt(subject.deliver(call, effect, before_commit=hold)))
                await hold.reached.wait()
                met = again(call, other)
                second = asyncio.create_task(until_answered(partial(subject.deliver, met, -effect)))
                await asyncio.wait({second}, timeout=_MEET_S)
                hold.released.set()
                await asyncio.gather(first, second)
                await subject.deliver(again(call, undo), -5)
                _is(await subject.effects(call.gid), 0, call)
                _is((await subject.deliver(again(call, origin), 5)).verdict, TOO_LATE, call)
                _is(await subject.effects(call.gid), 0, call)


async def a_confirmation_and_a_cancellation_exclude_each_other(subject: Subject) -> None:
    """The first one stands; the other is told so, also when it comes again."""
    for first, other in ((Direction.CONFIRM, Direction.CANCEL), (Direction.CANCEL, Direction.CONFIRM)):
        call = fresh(Direction.TRY)
        await subject.deliver(call, 5)
        _is((await subject.deliver(again(call, first), 100)).verdict, PROCEED, call)
        _is((await subject.deliver(again(call, first), 100)).verdict, DUPLICATE, call)
        for _ in range(2):
            _is((await subject.deliver(again(call, other), 1000)).verdict, TOO_LATE, call)
        _is(await subject.effects(call.gid), 105, call)


async def a_confirmation_that_meets_a_cancellation_excludes_it(subject: Subject) -> None:
    """They are recorded under different keys, and meet all the same."""
    for first_breaks in (False, True):
        call, hold = fresh(Direction.TRY), Hold(breaks=first_breaks)
        await subject.deliver(call, 0)
        confirm, cancel = again(call, Direction.CONFIRM), again(call, Direction.CANCEL)
        first = asyncio.create_task(_attempt(subject.deliver(confirm, 100, before_commit=hold)))
        await hold.reached.wait()
        second = asyncio.create_task(until_answered(partial(subject.deliver, cancel, 1000)))
        await asyncio.wait({second}, timeout=_MEET_S)
        hold.released.set()
        answers = [passage.verdict for passage in (await first, await second) if passage is not None]
        _is(answers.count(PROCEED), 1, call)
        assert await subject.effects(call.gid) in (100, 1000), f"{call}: both had their effect"


async def a_confirmation_needs_its_try(subject: Subject) -> None:
    """One that is not here was lost, and nothing can be confirmed."""
    call = fresh(Direction.CONFIRM)
    await _raises(Refused, subject.deliver(call, 5))
    _is((await subject.deliver(again(call, Direction.TRY), 7)).verdict, PROCEED, call)
    _is(await subject.effects(call.gid), 7, call)


async def a_refusal_is_an_answer_and_leaves_nothing_to_undo(subject: Subject) -> None:
    """The handler looked, and said no for ever."""
    for origin, undo in _PAIRS:
        call = fresh(origin)
        await subject.deliver(call, 5, result=b"no funds", refuses=True)
        _is(await subject.deliver(again(call), 5), Passage(DUPLICATE, b"no funds", refused=True), call)
        _is((await subject.deliver(again(call, undo), -5)).verdict, NOTHING_TO_UNDO, call)
        _is(await subject.effects(call.gid), 0, call)


async def the_same_key_with_another_payload_is_refused(subject: Subject) -> None:
    """Whoever reuses a key has a bug that must not be hidden."""
    for direction in (*_ORIGINS, Direction.COMPENSATION):
        call = fresh(direction)
        await subject.deliver(call, 5)
        before = await subject.effects(call.gid)
        await _raises(KeyReused, subject.deliver(again(call, payload=b"another"), 5))
        _is(await subject.effects(call.gid), before, call)


async def a_lower_term_is_refused(subject: Subject) -> None:
    """A sender that was replaced must not act any more, not even by a delivery that nobody had before."""
    for origin, undo in _PAIRS:
        call = fresh(origin, term=3)
        await subject.deliver(call, 5)
        await _raises(Replaced, subject.deliver(again(call, term=2), 5))
        await _raises(Replaced, subject.deliver(again(call, undo, term=2), -5))
        _is((await subject.deliver(again(call, term=7), 5)).verdict, DUPLICATE, call)
        await _raises(Replaced, subject.deliver(again(call, undo, term=6), -5))
        _is(await subject.effects(call.gid), 5, call)
        _is((await subject.deliver(again(call, undo, term=7), -5)).verdict, PROCEED, call)
        _is(await subject.effects(call.gid), 0, call)


async def steps_and_transactions_are_told_apart(subject: Subject) -> None:
    """Two steps of one transaction, and one step's name in two."""
    call = fresh(Direction.ACTION)
    other_step, other_gid = Call(call.gid, "ship", call.direction), Call(uuid.uuid4().hex, call.step, call.direction)
    for one in (call, other_step, other_gid):
        _is((await subject.deliver(one, 5)).verdict, PROCEED, one)
    _is((await subject.deliver(again(call, Direction.COMPENSATION), -5)).verdict, PROCEED, call)
    _is((await subject.deliver(other_step, 5)).verdict, DUPLICATE, other_step)
    _is(await subject.effects(call.gid), 5, call)


async def a_serialisation_failure_is_not_an_answer(subject: Subject) -> None:
    """Deliveries that share nothing but rows of their effects: each has its own, however often it fails."""
    before, calls = await subject.total(), [fresh(Direction.ACTION) for _ in range(6)]

    async def deliver(call: Call) -> Passage:
        return await until_answered(lambda: subject.deliver(call, 1, before_commit=lambda: asyncio.sleep(0.01)))

    await asyncio.gather(*(deliver(call) for call in calls))
    for call in calls:
        _is(await subject.effects(call.gid), 1, call)
        _is((await subject.deliver(again(call), 1)).verdict, DUPLICATE, call)
    _is(await subject.total(), before + len(calls), "the sum of all")


async def a_marker_is_settled_once(subject: Subject) -> None:
    """Until then nobody knows, and afterwards everybody."""
    for direction in (*_ORIGINS, Direction.COMPENSATION, Direction.CANCEL):
        call = fresh(direction)
        if direction.undoes:
            await subject.deliver(again(call, direction.origin), 0)
        _is((await subject.intend(call)).verdict, PROCEED, call)
        _is((await subject.intend(again(call))).verdict, UNSETTLED, call)
        _is(await subject.settle(call, 5, result=b"answer"), PROCEED, call)
        _is(await subject.settle(call, 5, result=b"another"), DUPLICATE, call)
        _is(await subject.intend(again(call)), Passage(DUPLICATE, b"answer"), call)
        _is(await subject.effects(call.gid), 5, call)


async def an_undo_runs_where_the_local_transaction_was_rolled_back(subject: Subject) -> None:
    """The effect outside may have happened: only the marker, which was committed before it, can say so."""
    for origin, undo in _PAIRS:
        call = fresh(origin)
        _is((await subject.intend(call)).verdict, PROCEED, call)
        # Here the effect happened, and the local transaction that would have settled the marker did not.
        _is((await subject.deliver(again(call, undo), -5)).verdict, PROCEED, call)
        _is(await subject.settle(call, 5), TOO_LATE, call)
        _is((await subject.intend(again(call))).verdict, TOO_LATE, call)
        _is(await subject.effects(call.gid), -5, call)


async def an_undo_without_its_marker_keeps_the_effect_out(subject: Subject) -> None:
    """There is nothing to undo, and there never will be."""
    for origin, undo in _PAIRS:
        call = fresh(origin)
        _is((await subject.intend(again(call, undo))).verdict, NOTHING_TO_UNDO, call)
        _is((await subject.intend(call)).verdict, TOO_LATE, call)
        await _raises(Refused, subject.settle(fresh(origin), 5))


async def a_try_is_settled_before_it_is_confirmed(subject: Subject) -> None:
    """Whoever confirms it earlier has not waited for its answer."""
    call = fresh(Direction.TRY)
    await subject.intend(call)
    await _raises(Refused, subject.deliver(again(call, Direction.CONFIRM), 1))
    await subject.settle(call, 0)
    _is((await subject.deliver(again(call, Direction.CONFIRM), 1)).verdict, PROCEED, call)


CHECKS: tuple[Callable[[Subject], Awaitable[None]], ...] = (
    a_duplicate_has_no_effect_and_gets_the_first_answer,
    a_rollback_takes_the_record_back_with_the_effect,
    concurrent_duplicates_have_one_effect,
    an_undo_without_its_action_has_no_effect_and_keeps_it_out,
    an_undo_takes_the_effect_back_once,
    an_undo_that_meets_its_action_leaves_nothing,
    a_confirmation_and_a_cancellation_exclude_each_other,
    a_confirmation_that_meets_a_cancellation_excludes_it,
    a_confirmation_needs_its_try,
    a_refusal_is_an_answer_and_leaves_nothing_to_undo,
    the_same_key_with_another_payload_is_refused,
    a_lower_term_is_refused,
    steps_and_transactions_are_told_apart,
    a_serialisation_failure_is_not_an_answer,
    a_marker_is_settled_once,
    an_undo_runs_where_the_local_transaction_was_rolled_back,
    an_undo_without_its_marker_keeps_the_effect_out,
    a_try_is_settled_before_it_is_confirmed,
)


def _is(found: object, wanted: object, where: object) -> None:
    assert found == wanted, f"{where}: {found!r} instead of {wanted!r}"


async def _attempt(delivery: Awaitable[Passage]) -> Passage | None:
    try:
        return await delivery
    except Broken:
        return None


async def _broken(delivery: Awaitable[Passage]) -> None:
    assert await _attempt(delivery) is None, "the error of a handler was swallowed"


async def _raises(error: type[Exception], delivery: Awaitable[object]) -> None:
    try:
        answer = await delivery
    except error:
        return
    raise AssertionError(f"{answer!r} instead of {error.__name__}")
