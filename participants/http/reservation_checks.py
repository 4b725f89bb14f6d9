"""What a service that reserves must answer, as checks of its four endpoints: try, confirm, cancel and pending.

An effect is what is confirmed. What is held counts as none: it stands in the answer of pending.
"""

import asyncio
import json
import math
import os
from dataclasses import replace
from typing import Any

from participants.http.signing import SIGNATURE, Delivery, Key
from participants.http.subject import OTHER_STEP, Answer, Subject, Wrong, expect, fresh, taken_over

_AT_ONCE = 8
_AGE_MAX_S = 3600.0
_LISTED_MAX = 10_000
_OTHER_GID = {"unanimity-gid": fresh().gid}


def _ended(answer: Answer) -> str | None:
    """How it says that it had ended otherwise; None where it is as it was asked for."""
    try:
        told: Any = json.loads(answer.body) if answer.body else {}
    except ValueError:
        raise Wrong(f"the end of a reservation is told in JSON, or not at all; it was answered {answer}") from None
    return told.get("ended") if isinstance(told, dict) else None


async def _end(subject: Subject, tried: Delivery, direction: str, otherwise: str | None, when: str) -> Delivery:
    """Confirm or cancel; it must be done, and say that it had ended *otherwise*, or not.

    Whoever tried does it, and then two that took over; *tried* as the last of them would send it is returned.
    """
    for takeovers in (0, 1, 2):
        answer = await subject.send(taken_over(tried, direction, times=takeovers), b"")
        expect(answer.done, f"{when} is answered with 2xx, however often it comes, and whoever sends it", answer)
        said = "an empty object or nothing" if otherwise is None else f'{{"ended": "{otherwise}"}}'
        expect(_ended(answer) == otherwise, f"{when} is answered with {said}", answer)
    return taken_over(tried, times=2)


async def _pending(subject: Subject, step: str, prefix: str, limit: int = _LISTED_MAX) -> dict[str, float]:
    """What is pending of *step*, where its gid begins with *prefix*: in the order of the answer, and how old."""
    asked = {"prefix": prefix, "limit": limit}
    answer = await subject.send(replace(fresh("status"), gid="none", step=step), json.dumps(asked).encode())
    expect(answer.done, f"what is pending is answered with 2xx, here to {asked}", answer)
    try:
        return {each["gid"]: float(each["age_s"]) for each in json.loads(answer.body)["pending"]}
    except (ValueError, LookupError, TypeError):
        raise Wrong(f'what is pending is {{"pending": [{{"gid": ..., "age_s": ...}}]}}, not {answer}') from None


async def _held(subject: Subject, tried: Delivery) -> bool:
    """Whether the reservation stands in the answer of pending."""
    ages = await _pending(subject, tried.step, tried.gid)
    age_s = ages.get(tried.gid, 0.0)
    if not (math.isfinite(age_s) and 0.0 <= age_s <= _AGE_MAX_S):
        raise Wrong(f"it was tried a moment ago, and its age is told as {age_s} seconds")
    return tried.gid in ages


async def _expect_held(subject: Subject, tried: Delivery, held: bool, when: str) -> None:
    if await _held(subject, tried) is not held:
        raise Wrong(f"{when}: a reservation {'is' if held else 'is not'} pending, and it {'is not' if held else 'is'}")


async def _try(subject: Subject) -> Delivery:
    tried = fresh("try")
    expect((answer := await subject.send(tried)).done, "a try is answered with 2xx", answer)
    return tried


async def a_reservation_that_is_confirmed_is_one_effect(subject: Subject) -> None:
    """Until then it is pending, and no effect. Another process may confirm what one tried that died."""
    tried = await _try(subject)
    await subject.expect_effects(tried, 0, "after a try")
    await _expect_held(subject, tried, True, "after a try")
    await _end(subject, tried, "confirm", None, "a confirmation")
    await subject.expect_effects(tried, 1, "after three confirmations")
    await _expect_held(subject, tried, False, "after a confirmation")


async def a_reservation_that_is_cancelled_leaves_nothing(subject: Subject) -> None:
    """And no duplicate of its try comes back to life."""
    tried = await _try(subject)
    ended = await _end(subject, tried, "cancel", None, "a cancellation")
    answer = await subject.send(ended)
    expect(answer.refused, "a try that was cancelled is refused", answer)
    await subject.expect_effects(tried, 0, "after a cancellation")
    await _expect_held(subject, tried, False, "after a cancellation")


async def a_duplicate_of_a_try_reserves_once(subject: Subject) -> None:
    """Also where they come at the same time; each gets one answer."""
    tried = fresh("try")
    answers = await asyncio.gather(*(subject.send(replace(tried, attempt=number)) for number in range(1, _AT_ONCE + 1)))
    for answer in answers:
        expect(answer.done and answer == answers[0], "simultaneous duplicates of a try get one answer, 2xx", answer)
    await _end(subject, tried, "confirm", None, "a confirmation of a try that came often")
    await subject.expect_effects(tried, 1, f"after {_AT_ONCE} deliveries of a try and its confirmation")


async def two_reservations_of_a_transaction_are_two(subject: Subject) -> None:
    """A transaction may reserve twice at one service, as two participants: each is found by its gid and its step."""
    one = await _try(subject)
    two = replace(one, step=OTHER_STEP)
    expect((answer := await subject.send(two)).done, "a try of a second step is answered with 2xx", answer)
    await _end(subject, one, "cancel", None, "a cancellation of one of two reservations")
    await _expect_held(subject, one, False, "after one of two reservations was cancelled, of that one's step")
    await _expect_held(subject, two, True, "after one of two reservations was cancelled, of the other one's step")
    await _end(subject, two, "confirm", None, "a confirmation of the other reservation")
    await subject.expect_effects(two, 1, "after one of two reservations was cancelled, and the other confirmed")
    await _expect_held(subject, two, False, "after the other reservation was confirmed")


async def what_is_pending_is_listed_oldest_first(subject: Subject) -> None:
    """With a limit the newest ones would hide those that nobody ends any more, as would those of other coordinators."""
    older, newer = await _try(subject), await _try(subject)
    own = await _pending(subject, newer.step, newer.gid, 1)
    if newer.gid not in own:
        raise Wrong(f"the first one whose gid begins with {newer.gid!r} is pending, and what is listed is {list(own)}")
    prefix = os.path.commonprefix([older.gid, newer.gid])  # noqa: RUF071 - ids are no paths.
    ages, first = await _pending(subject, older.step, prefix), await _pending(subject, older.step, prefix, 1)
    for listed in (ages, first):
        gids = [gid for gid in listed if gid in (older.gid, newer.gid)]
        if ages.get(older.gid, 0.0) > ages.get(newer.gid, 0.0) and gids[:1] == [newer.gid]:
            raise Wrong(f"{older.gid} is older than {newer.gid}, which is listed first")
    for tried in (older, newer):
        await _end(subject, tried, "cancel", None, "a cancellation")


async def a_cancellation_of_nothing_succeeds_and_keeps_the_late_try_out(subject: Subject) -> None:
    """The try was under way when the coordinator gave it up."""
    tried = fresh("try")
    ended = await _end(subject, tried, "cancel", None, "a cancellation of what was never tried")
    answer = await subject.send(ended)
    expect(answer.refused, "a try that comes after its cancellation is refused", answer)
    await _expect_held(subject, tried, False, "after a try that came after its cancellation")


async def a_confirmation_of_nothing_is_not_done(subject: Subject) -> None:
    """The service has lost what it promised: the coordinator has to hear of it."""
    tried = fresh("try")
    answer = await subject.send(replace(tried, direction="confirm"), b"")
    expect(not answer.done or _ended(answer) == "aborted", "a confirmation of nothing is not said to be done", answer)
    await subject.expect_effects(tried, 0, "after a confirmation of nothing")


async def a_confirmation_after_a_cancellation_says_so(subject: Subject) -> None:
    """What was cancelled stays so."""
    tried = await _try(subject)
    ended = await _end(subject, tried, "cancel", None, "a cancellation")
    await _end(subject, ended, "confirm", "aborted", "a confirmation after a cancellation")
    await subject.expect_effects(tried, 0, "after a confirmation that came after a cancellation")


async def a_cancellation_after_a_confirmation_says_so(subject: Subject) -> None:
    """What was confirmed stays so."""
    tried = await _try(subject)
    ended = await _end(subject, tried, "confirm", None, "a confirmation")
    await _end(subject, ended, "cancel", "committed", "a cancellation after a confirmation")
    await subject.expect_effects(tried, 1, "after a cancellation that came after a confirmation")


async def a_confirmation_and_a_cancellation_at_once_agree(subject: Subject) -> None:
    """One of them is first, and the other hears of it."""
    for _ in range(3):
        tried = await _try(subject)
        confirmed, cancelled = await asyncio.gather(
            *(subject.send(replace(tried, direction=direction), b"") for direction in ("confirm", "cancel"))
        )
        expect(confirmed.done, "a confirmation that meets a cancellation is answered with 2xx", confirmed)
        expect(cancelled.done, "a cancellation that meets a confirmation is answered with 2xx", cancelled)
        told = (_ended(confirmed), _ended(cancelled))
        if told not in ((None, "committed"), ("aborted", None)):
            raise Wrong(f"of a confirmation and a cancellation one was first, and they say {told}")
        await subject.expect_effects(tried, int(told[0] is None), "after a confirmation and a cancellation at once")


async def a_try_that_meets_its_cancellation_leaves_nothing(subject: Subject) -> None:
    """Whichever comes first."""
    for _ in range(5):
        tried = fresh("try")
        _, cancelled = await asyncio.gather(subject.send(tried), subject.send(replace(tried, direction="cancel"), b""))
        expect(cancelled.done, "a cancellation that meets its try is answered with 2xx", cancelled)
        await _expect_held(subject, tried, False, "after a try and its cancellation at once")


async def a_forged_request_about_a_reservation_is_not_let_in(subject: Subject) -> None:
    """Also where it only asks what is pending, and where the signature is that of another endpoint."""
    tried = await _try(subject)
    for direction in ("try", "confirm", "cancel", "status"):
        delivery = replace(tried, direction=direction)
        body = None if direction == "try" else b""
        for how, answer in {
            "without a signature": await subject.send(delivery, body, changed={SIGNATURE: None}),
            "signed with another secret": await subject.send(delivery, body, key=Key(subject.key.name, b"?" * 32)),
            "signed for another path": await subject.send(
                delivery, body, path=subject.path_of("confirm") + "?forged=1"
            ),
            "with another gid before its own": await subject.send(delivery, body, before=_OTHER_GID),
            "with another gid after its own": await subject.send(delivery, body, after=_OTHER_GID),
        }.items():
            expect(answer.turned_away, f"a {direction} {how} is answered with 401", answer)
    await subject.expect_effects(tried, 0, "after forged requests about a reservation")
    await _expect_held(subject, tried, True, "after forged requests about a reservation")
    await _end(subject, tried, "cancel", None, "a cancellation")


async def a_try_that_is_refused_reserves_nothing(subject: Subject) -> None:
    """With a 409 and its reason; judged where a body that is refused was given."""
    if subject.refused is None:
        return
    tried = fresh("try")
    first = await subject.send(tried, subject.refused)
    expect(first.status == 409, "a try that is refused is answered with 409", first)
    answer = await subject.send(replace(tried, attempt=2), subject.refused)
    expect(answer == first, "a duplicate of a refused try gets the same answer", answer)
    await _expect_held(subject, tried, False, "after a try that was refused")
    await _end(subject, tried, "cancel", None, "a cancellation of what was refused")


RESERVATION_CHECKS = (
    a_reservation_that_is_confirmed_is_one_effect,
    a_reservation_that_is_cancelled_leaves_nothing,
    a_duplicate_of_a_try_reserves_once,
    two_reservations_of_a_transaction_are_two,
    what_is_pending_is_listed_oldest_first,
    a_cancellation_of_nothing_succeeds_and_keeps_the_late_try_out,
    a_confirmation_of_nothing_is_not_done,
    a_confirmation_after_a_cancellation_says_so,
    a_cancellation_after_a_confirmation_says_so,
    a_confirmation_and_a_cancellation_at_once_agree,
    a_try_that_meets_its_cancellation_leaves_nothing,
    a_forged_request_about_a_reservation_is_not_let_in,
    a_try_that_is_refused_reserves_nothing,
)
