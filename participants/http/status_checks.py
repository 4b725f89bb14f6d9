"""What a service must answer that is asked what became of a step (`Service.status`), as checks.

`unknown` is always a right answer of what was not done: then it is asked again. `never` is a promise.
"""

import asyncio
import json
from dataclasses import replace
from typing import Any

from participants.http.signing import SIGNATURE, Delivery, Key
from participants.http.subject import Answer, Subject, expect, fresh, taken_over

_FORM = '{"status": "done", "output": ...}, {"status": "never"} or {"status": "unknown"}'


async def _ask(subject: Subject, delivery: Delivery) -> Answer:
    """What is answered of a step; it must be one of the three."""
    answer = await subject.send(replace(delivery, direction="status"))
    expect(
        answer.done and _said(answer) in ("done", "never", "unknown"), f"what became of it is told as {_FORM}", answer
    )
    return answer


def _json(answer: Answer) -> Any:
    try:
        return json.loads(answer.body) if answer.body else None
    except ValueError:
        return None


def _said(answer: Answer) -> object:
    told = _json(answer)
    return told.get("status") if isinstance(told, dict) else None


async def what_was_done_is_told_with_its_output(subject: Subject) -> None:
    """Whoever takes over asks, and goes on with that output: after it no one that was replaced undoes the step."""
    delivery = fresh()
    output = _json(await subject.send(delivery))
    for each in (delivery, taken_over(delivery)):
        answer = await _ask(subject, each)
        told = _json(answer)
        wanted = f"of what was done it is told that, with its output, {output}"
        expect((told["status"], told.get("output")) == ("done", output), wanted, answer)
    answer = await subject.send(replace(delivery, direction="compensation"))
    expect(answer.outdated, "a compensation of a lower term than it was asked with is answered with 412", answer)
    await subject.expect_effects(delivery, 1, "after an action, and questions what became of it")


async def what_is_told_to_be_never_is_never_done(subject: Subject) -> None:
    """The saga is undone then, so an action that was still under way must find that it was asked about."""
    for takeovers in (0, 1):
        delivery = fresh()
        answer = await _ask(subject, taken_over(delivery))
        expect(_said(answer) != "done", "of what never came it is not told that it was done", answer)
        if _said(answer) == "never":
            late = await subject.send(taken_over(delivery, times=takeovers))
            expect(late.refused, "an action of which it was told that it never happens is refused", late)
            await subject.expect_effects(delivery, 0, "after an action of which it was told that it never happens")


async def a_question_that_meets_its_action_is_answered_truly(subject: Subject) -> None:
    """It waits for the action, or keeps it out, or says unknown."""
    for number in range(6):
        delivery = fresh()
        asked = taken_over(delivery, times=number % 2)
        acted, answer = await asyncio.gather(subject.send(delivery), _ask(subject, asked))
        if _said(answer) == "never":
            expect(not acted.done, "an action of which it is told at once that it never happens is refused", acted)
        if _said(answer) != "unknown":
            count = int(_said(answer) == "done")
            await subject.expect_effects(delivery, count, f"after an action of which it is told at once: {answer}")


async def what_was_refused_is_not_told_to_be_done(subject: Subject) -> None:
    """The answer was lost, and was a no. (Judged where a body that is refused was given.)"""
    if subject.refused is None:
        return
    delivery = fresh()
    await subject.send(delivery, subject.refused)
    answer = await _ask(subject, taken_over(delivery))
    expect(_said(answer) != "done", "of what was refused it is not told that it was done", answer)


async def a_question_that_is_forged_is_not_let_in(subject: Subject) -> None:
    """An answer says what an action's did, and never keeps an action out: both are the coordinator's alone."""
    delivery = fresh()
    asked = replace(delivery, direction="status")
    for how, answer in {
        "without a signature": await subject.send(asked, changed={SIGNATURE: None}),
        "signed with another secret": await subject.send(asked, key=Key(subject.key.name, b"?" * 32)),
        "signed for another path": await subject.send(delivery, path=subject.status),
    }.items():
        expect(answer.turned_away, f"a question {how} is answered with 401", answer)
    answer = await subject.send(delivery)
    expect(answer.done, "an action after forged questions is answered with 2xx", answer)


STATUS_CHECKS = (
    what_was_done_is_told_with_its_output,
    what_is_told_to_be_never_is_never_done,
    a_question_that_meets_its_action_is_answered_truly,
    what_was_refused_is_not_told_to_be_done,
    a_question_that_is_forged_is_not_let_in,
)
