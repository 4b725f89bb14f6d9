"""What any service must answer, as checks: each sends what a coordinator, or somebody who is none, may send."""

import asyncio
import time
from dataclasses import replace

from participants.http.signing import SIGNATURE, TIME, WINDOW_S, Key
from participants.http.subject import OTHER_STEP, Subject, expect, fresh, taken_over

_AT_ONCE = 8
_OLD_S = 2 * WINDOW_S
# Headers that are sent twice, and what stands in the other one.
_DOUBLED = {
    "unanimity-gid": fresh().gid,
    "unanimity-direction": "compensation",
    "idempotency-key": "other",
    "unanimity-signature": "0" * 64,
}


async def a_signed_action_is_done_once(subject: Subject) -> None:
    """A step is signed as its header has it, percent-encoded, and a gid has a colon in it: take it from its header."""
    delivery = fresh()
    answer = await subject.send(delivery)
    expect(answer.done, "a signed action is answered with 2xx", answer)
    await subject.expect_effects(delivery, 1, "after one action")


async def a_forged_request_is_not_let_in(subject: Subject) -> None:
    """Whatever was changed after it was signed."""
    forgeries: dict[str, dict[str, object]] = {
        "without a signature": {"changed": {SIGNATURE: None}},
        "with an empty signature": {"changed": {SIGNATURE: ""}},
        "signed with another secret": {"key": Key(subject.key.name, b"?" * 32)},
        "signed with a key that nobody knows": {"key": Key("unknown-key", subject.key.secret)},
        "with another body": {"sent_body": subject.body + b" "},
        "with another gid": {"changed": {"unanimity-gid": fresh().gid}},
        "with another step": {"changed": {"unanimity-step": "other"}},
        "with another direction": {"changed": {"unanimity-direction": "compensation"}},
        "with another term": {"changed": {"unanimity-term": "99"}},
        "with another time": {"changed": {TIME: str(int(time.time()) - 1)}},
        "with another key for idempotency": {"changed": {"idempotency-key": "other"}},
        "with another query": {"path": subject.action + ("&" if "?" in subject.action else "?") + "forged=1"},
    }
    for how, change in forgeries.items():
        delivery = fresh()
        answer = await subject.send(delivery, **change)  # type: ignore[arg-type]
        expect(answer.turned_away, f"a request {how} is answered with 401", answer)
        await subject.expect_effects(delivery, 0, f"after a request {how}")


async def a_request_with_a_header_that_is_there_twice_is_not_let_in(subject: Subject) -> None:
    """What looks at the signature might take one of the two, and what acts upon it the other."""
    for name, value in _DOUBLED.items():
        for where in ("before", "after"):
            delivery = fresh()
            answer = await subject.send(delivery, **{where: {name: value}})  # type: ignore[arg-type]
            expect(answer.turned_away, f"a request with another {name} {where} its own is answered with 401", answer)
            await subject.expect_effects(delivery, 0, f"after a request with another {name} {where} its own")


async def a_signature_of_an_action_is_none_of_a_compensation(subject: Subject) -> None:
    """The path is signed, so that no copy of a request is of use at another one."""
    delivery = fresh()
    expect((answer := await subject.send(delivery)).done, "a signed action is answered with 2xx", answer)
    answer = await subject.send(delivery, path=subject.undo)
    expect(answer.turned_away, "an action that is sent to the path of its compensation is answered with 401", answer)
    await subject.expect_effects(delivery, 1, "after an action was sent to the path of its compensation")


async def an_old_request_is_not_let_in(subject: Subject) -> None:
    """Five minutes either way; clocks differ by less."""
    for age_s in (_OLD_S, -_OLD_S):
        delivery = fresh()
        answer = await subject.send(delivery, age_s=age_s)
        expect(answer.turned_away, f"a request that was signed {age_s} s ago is answered with 401", answer)
        await subject.expect_effects(delivery, 0, f"after a request that was signed {age_s} s ago")
    delivery = fresh()
    answer = await subject.send(delivery, age_s=WINDOW_S - 60)
    expect(answer.done, f"a request that was signed {WINDOW_S - 60} s ago is let in", answer)


async def a_duplicate_has_no_effect_and_gets_the_first_answer(subject: Subject) -> None:
    """Another attempt is the same step, also where another process makes it: neither it nor its term is in the key."""
    delivery = fresh()
    first = await subject.send(delivery)
    for attempt, takeovers in ((1, 0), (2, 0), (3, 1), (4, 2)):
        answer = await subject.send(taken_over(replace(delivery, attempt=attempt), times=takeovers))
        expect(answer == first, f"a duplicate of what was done gets the first answer, {first}", answer)
    await subject.expect_effects(delivery, 1, "after five deliveries of one action")


async def two_steps_of_a_transaction_are_two(subject: Subject) -> None:
    """A saga may call a service in two of its steps: what is known of one is under its gid and its step."""
    one = fresh()
    two = replace(one, step=OTHER_STEP)
    first = await subject.send(one)
    expect((answer := await subject.send(two)).done, "the action of a second step is answered with 2xx", answer)
    await subject.expect_effects(one, 2, "after two steps of one transaction")
    undone = await subject.send(replace(two, direction="compensation"))
    expect(undone.done, "the compensation of a second step is answered with 2xx", undone)
    await subject.expect_effects(one, 1, "after two steps of one transaction, of which one was undone")
    answer = await subject.send(replace(one, attempt=2))
    expect(answer == first, f"a duplicate of the step that was not undone gets its first answer, {first}", answer)
    await subject.expect_effects(one, 1, "after a duplicate of the step that was not undone")


async def another_payload_under_the_same_key_is_refused(subject: Subject) -> None:
    """It is another request, which was given this one's key by mistake."""
    delivery = fresh()
    await subject.send(delivery)
    answer = await subject.send(taken_over(delivery), subject.body + b"\n")
    expect(answer.refused, "another payload under the same key is refused with 4xx", answer)
    await subject.expect_effects(delivery, 1, "after another payload under the same key")


async def a_compensation_undoes_and_its_duplicates_do_nothing(subject: Subject) -> None:
    """Another process may undo what one did that died; and no duplicate of the action comes back to life."""
    delivery = fresh()
    await subject.send(delivery)
    for number in (1, 2, 3):
        answer = await subject.send(taken_over(delivery, "compensation", times=number))
        expect(answer.done, f"delivery {number} of a compensation is answered with 2xx", answer)
        await subject.expect_effects(delivery, 0, f"after {number} deliveries of a compensation")
    answer = await subject.send(taken_over(delivery, times=3))
    expect(answer.refused, "an action that was undone is refused", answer)
    await subject.expect_effects(delivery, 0, "after a duplicate of an action that was undone")


async def a_compensation_of_nothing_succeeds_and_the_late_action_is_refused(subject: Subject) -> None:
    """The action was under way when the coordinator gave it up."""
    undo = fresh("compensation")
    for each in (undo, taken_over(undo)):
        answer = await subject.send(each)
        expect(answer.done, "a compensation of what never happened is answered with 2xx", answer)
    late = taken_over(undo, "action")
    answer = await subject.send(late)
    expect(answer.refused, "an action that comes after its compensation is refused", answer)
    await subject.expect_effects(late, 0, "after an action that came after its compensation")


async def simultaneous_duplicates_have_one_effect(subject: Subject) -> None:
    """Each is answered, and none with an effect of its own."""
    for _ in range(3):
        delivery = fresh()
        answers = await asyncio.gather(
            *(subject.send(replace(delivery, attempt=number)) for number in range(1, _AT_ONCE + 1))
        )
        first = answers[0]
        for answer in answers:
            expect(answer.done and answer == first, "simultaneous duplicates get one answer, 2xx", answer)
        await subject.expect_effects(delivery, 1, f"after {_AT_ONCE} simultaneous deliveries of one action")


async def an_action_that_meets_its_compensation_leaves_no_effect(subject: Subject) -> None:
    """Whichever comes first, and whoever sends it."""
    for number in range(6):
        delivery = fresh()
        undo = taken_over(delivery, "compensation", times=number % 2)
        _, undone = await asyncio.gather(subject.send(delivery), subject.send(undo))
        expect(undone.done, "a compensation that meets its action is answered with 2xx", undone)
        await subject.expect_effects(delivery, 0, "after an action and its compensation at once")


async def a_coordinator_that_was_replaced_is_not_heard(subject: Subject) -> None:
    """Whoever has the higher term goes by what it was answered. Terms are numbers: 10 is higher than 9."""
    delivery = fresh()
    await subject.send(taken_over(delivery))
    for direction in ("compensation", "action"):
        answer = await subject.send(replace(delivery, direction=direction))
        expect(answer.outdated, f"{direction}: a lower term than came before is answered with 412", answer)
        await subject.expect_effects(delivery, 1, f"{direction}: after a lower term than came before")


async def a_body_that_is_no_json_is_refused(subject: Subject) -> None:
    """It will be none the next time either."""
    for body in (b'{"half": ', b"\xff\xfe", b"[" * 200):
        answer = await subject.send(fresh(), body)
        expect(answer.refused, "a body that cannot be understood is answered with 4xx", answer)


async def a_refusal_stays_one_and_leaves_nothing_to_undo(subject: Subject) -> None:
    """A no is an answer as a yes is: whoever asks again gets it. (Judged where a body that is refused was given.)"""
    if subject.refused is None:
        return
    delivery = fresh()
    first = await subject.send(delivery, subject.refused)
    expect(first.status == 409, "what is refused is answered with 409", first)
    answer = await subject.send(taken_over(delivery), subject.refused)
    expect(answer == first, "a duplicate of what was refused gets the same answer", answer)
    answer = await subject.send(taken_over(delivery, "compensation"))
    expect(answer.done, "the compensation of what was refused is answered with 2xx", answer)
    await subject.expect_effects(delivery, 0, "after a refusal and its compensation")


CHECKS = (
    a_signed_action_is_done_once,
    a_forged_request_is_not_let_in,
    a_request_with_a_header_that_is_there_twice_is_not_let_in,
    a_signature_of_an_action_is_none_of_a_compensation,
    an_old_request_is_not_let_in,
    a_duplicate_has_no_effect_and_gets_the_first_answer,
    two_steps_of_a_transaction_are_two,
    another_payload_under_the_same_key_is_refused,
    a_compensation_undoes_and_its_duplicates_do_nothing,
    a_compensation_of_nothing_succeeds_and_the_late_action_is_refused,
    simultaneous_duplicates_have_one_effect,
    an_action_that_meets_its_compensation_leaves_no_effect,
    a_coordinator_that_was_replaced_is_not_heard,
    a_body_that_is_no_json_is_refused,
    a_refusal_stays_one_and_leaves_nothing_to_undo,
)
