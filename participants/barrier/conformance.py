"""What any barrier must answer, ours or yours, as checks that need no test framework.

Write a `Subject` (of `participants.barrier.subject`) for your barrier: its own transaction, and an effect that can be
counted. Run every check on it:

    for check in CHECKS:
        await check(subject)

A check that fails raises an `AssertionError` that says which delivery was answered wrongly. Each takes transactions of
its own, so one subject serves them all. Any other error of the subject's is taken for what it is: no answer, so that
the delivery comes again.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial

from coordinator import limits
from coordinator.errors import InDoubt, InvalidDefinition, KeyReused, Refused, Replaced
from participants.barrier.barrier import Passage
from participants.barrier.decision import Call, Direction, Standing, Verdict
from participants.barrier.subject import Broken, Hold, Subject, again, breaks, fresh, made, until_answered

PROCEED, DUPLICATE, NOTHING_TO_UNDO = Verdict.PROCEED, Verdict.DUPLICATE, Verdict.NOTHING_TO_UNDO
TOO_LATE, UNSETTLED = Verdict.TOO_LATE, Verdict.UNSETTLED
_PAIRS = ((Direction.ACTION, Direction.COMPENSATION), (Direction.TRY, Direction.CANCEL))
_ORIGINS = (Direction.ACTION, Direction.TRY, Direction.MESSAGE)
_MEET_S = 0.1
_ANSWER = bytes(range(256)) * 16
"""An answer is bytes: of every kind, and more than a short column takes."""
_PAYLOADS = ((b"p", b"another"), (b"p", b" p\n"), (b"\xff", b"\xfe"), (_ANSWER, _ANSWER + b"."))
_LONG_AGO, _NOT_YET = datetime(2001, 1, 1, tzinfo=UTC), datetime(2901, 1, 1, tzinfo=UTC)


async def a_duplicate_has_no_effect_and_gets_the_first_answer(subject: Subject) -> None:
    """Whatever the delivery is."""
    for direction in _ORIGINS:
        call = fresh(direction)
        _is((await subject.deliver(call, 5, result=_ANSWER)).verdict, PROCEED, call)
        for _ in range(2):
            second = await subject.deliver(again(call), 5, result=b"another")
            _is(second.verdict, DUPLICATE, call)
            _is(second.result, _ANSWER, call)
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
        await subject.deliver(call, 5, result=_ANSWER, refuses=True)
        _is(await subject.deliver(again(call), 5), Passage(DUPLICATE, _ANSWER, refused=True), call)
        _is((await subject.deliver(again(call, undo), -5)).verdict, NOTHING_TO_UNDO, call)
        _is(await subject.effects(call.gid), 0, call)


async def the_same_key_with_another_payload_is_refused(subject: Subject) -> None:
    """Whoever reuses a key has a bug that must not be hidden."""
    for direction in (*_ORIGINS, Direction.COMPENSATION):
        for payload, other in _PAYLOADS:
            call = fresh(direction, payload)
            await subject.deliver(call, 5)
            before = await subject.effects(call.gid)
            await _raises(KeyReused, subject.deliver(again(call, payload=other), 5))
            _is(await subject.effects(call.gid), before, call)


async def a_lower_term_is_refused(subject: Subject) -> None:
    """A sender that was replaced must not act any more, not even by a delivery that nobody had before.

    As text 10 would be the lowest of these terms.
    """
    for origin, undo in _PAIRS:
        call = fresh(origin, term=10)
        await subject.deliver(call, 5)
        await _raises(Replaced, subject.deliver(again(call, term=9), 5))
        await _raises(Replaced, subject.deliver(again(call, undo, term=9), -5))
        _is((await subject.deliver(again(call, term=11), 5)).verdict, DUPLICATE, call)
        await _raises(Replaced, subject.deliver(again(call, undo, term=10), -5))
        _is(await subject.effects(call.gid), 5, call)
        _is((await subject.deliver(again(call, undo, term=11), -5)).verdict, PROCEED, call)
        _is(await subject.effects(call.gid), 0, call)


async def who_asks_has_a_term_as_who_delivers(subject: Subject) -> None:
    """After a question of the successor, the one that was replaced neither asks nor delivers any more."""
    for origin, undo in _PAIRS:
        call = fresh(origin, term=9)
        await subject.deliver(call, 5, result=_ANSWER)
        _is(await subject.ask(again(call, term=11)), (Standing.DONE, _ANSWER), call)
        await _raises(Replaced, subject.ask(again(call, term=10)))
        await _raises(Replaced, subject.deliver(again(call, undo, term=10), -5))
        await _raises(Replaced, subject.deliver(again(call, term=10), 5))
        _is(await subject.effects(call.gid), 5, call)
        _is((await subject.deliver(again(call, undo, term=11), -5)).verdict, PROCEED, call)


async def an_undo_of_what_may_be_forgotten_is_in_doubt(subject: Subject) -> None:
    """A step that is forgotten and one that never came look the same: so long after, absence says nothing."""
    for origin, undo in _PAIRS:
        old = made(_LONG_AGO, origin)
        for _ in range(2):  # The first round has left nothing that the second one takes for an answer.
            await _raises(InDoubt, subject.deliver(again(old, undo), -5))
            await _raises(InDoubt, subject.intend(again(old, undo)))
            await _raises(InDoubt, subject.ask(old))
        _is((await subject.deliver(old, 5)).verdict, PROCEED, old)
        _is((await subject.ask(old))[0], Standing.DONE, old)
        _is((await subject.deliver(again(old, undo), -5)).verdict, PROCEED, old)
        _is((await subject.deliver(again(old, undo), -5)).verdict, DUPLICATE, old)
        _is(await subject.effects(old.gid), 0, old)


async def an_undo_of_what_is_too_young_to_be_forgotten_finds_nothing(subject: Subject) -> None:
    """The time in its id says that it never came."""
    for origin, undo in _PAIRS:
        young, asked = made(_NOT_YET, origin), made(_NOT_YET, origin)
        _is((await subject.deliver(again(young, undo), -5)).verdict, NOTHING_TO_UNDO, young)
        _is(await subject.ask(asked), (Standing.NEVER, None), asked)
        _is((await subject.deliver(asked, 5)).verdict, TOO_LATE, asked)


async def steps_and_transactions_are_told_apart(subject: Subject) -> None:
    """Two steps of one transaction, and one step's name in two."""
    call = fresh(Direction.ACTION)
    other_step, other_gid = Call(call.gid, "ship", call.direction), Call(uuid.uuid4().hex, call.step, call.direction)
    for one in (call, other_step, other_gid):
        _is((await subject.deliver(one, 5)).verdict, PROCEED, one)
    _is((await subject.deliver(again(call, Direction.COMPENSATION), -5)).verdict, PROCEED, call)
    _is((await subject.deliver(other_step, 5)).verdict, DUPLICATE, other_step)
    _is(await subject.effects(call.gid), 5, call)


async def a_name_that_cannot_be_kept_is_refused_for_what_it_is(subject: Subject) -> None:
    """An error of the index would be no answer: the delivery would come again for ever."""
    gid, room = uuid.uuid4().hex, limits.BARRIER_KEY_BYTES_MAX - 100
    longest = "".join(uuid.uuid4().hex for _ in range(room // 32))  # No two parts are alike: it cannot be packed.
    _is((await subject.deliver(Call(gid, longest, Direction.ACTION), 5)).verdict, PROCEED, gid)
    for step in (longest * 2, "\N{HIRAGANA LETTER A}" * (room // 2), "nul\0", "half \ud800"):
        call = Call(gid, step, Direction.ACTION)
        await _raises(InvalidDefinition, subject.deliver(call, 5))
        await _raises(InvalidDefinition, subject.intend(call))
        await _raises(InvalidDefinition, subject.ask(call))
    _is(await subject.effects(gid), 5, gid)


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
        _is(await subject.settle(call, 5, result=_ANSWER), PROCEED, call)
        _is(await subject.settle(call, 5, result=b"another"), DUPLICATE, call)
        _is(await subject.intend(again(call)), Passage(DUPLICATE, _ANSWER), call)
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
    who_asks_has_a_term_as_who_delivers,
    an_undo_of_what_may_be_forgotten_is_in_doubt,
    an_undo_of_what_is_too_young_to_be_forgotten_finds_nothing,
    steps_and_transactions_are_told_apart,
    a_name_that_cannot_be_kept_is_refused_for_what_it_is,
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
