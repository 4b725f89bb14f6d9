"""Words that steer a saga itself: cancel, resume, skip, retry. They come by the same way as signals for its steps."""

import json
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from coordinator.engine.saga_run import SagaRun
from coordinator.errors import Refused
from coordinator.gids import valid_gid
from coordinator.ports import Alerts
from coordinator.protocol.saga import (
    Cancelled,
    Mark,
    Phase,
    Resumed,
    SagaState,
    Skipped,
    cancellable,
    may_have_begun,
)
from coordinator.protocol.saga_shape import CONTROL, Shape, StepName
from coordinator.sagas.events import Happened
from coordinator.sagas.log import SagaLog, Signal

logger = logging.getLogger(__name__)

CANCEL, RESUME, SKIP, RETRY = "!cancel", "!resume", "!skip", "!retry"
WORDS: Mapping[str, str] = {
    CANCEL: "sagas cancel",
    RESUME: "sagas resume",
    SKIP: "sagas skip",
    RETRY: "sagas retry",
}
"""What the audit calls them."""
NOBODY = "the service"
"""Who says what is said in code, without a name."""


@dataclass(frozen=True, slots=True)
class Word:
    """What a person or a service said to a saga."""

    by: str
    why: str
    step: StepName


def word(signal: Signal) -> Word | None:
    """What a steering signal says; None where its payload is no object, and not from `say`."""
    said = json.loads(signal.payload)
    if not isinstance(said, dict):
        return None
    by, why, step = (str(said.get(name) or "") for name in ("by", "reason", "step"))
    return Word(by or NOBODY, why, StepName(step))


async def say(
    log: SagaLog, alerts: Alerts, gid: str, name: str, *, by: str = "", reason: str = "", step: str = ""
) -> None:
    """Say *name* to a saga; whoever drives it, or has its definition, hears it. Returns once it is durable.

    It is audited before it is said: a word without a trace must be impossible, a trace without its word is only a
    question. Raises `Refused` where the saga has ended or never was.
    """
    why, known = reason.strip() or "no reason was given", valid_gid(gid)
    await alerts.audit(actor=by or NOBODY, action=WORDS[name], gid=known, reason=why, detail=step)
    payload = {"by": by, "reason": why, "step": step}
    if not await log.send(known, name, json.dumps(payload)):
        raise Refused(f"saga {gid} has ended, or never was: nobody hears {name.removeprefix(CONTROL)!r}", gid=gid)


def refused_cancel(shape: Shape, state: SagaState) -> str:
    """Why nothing would come of calling it off, and what to do instead; empty where something may."""
    if cancellable(shape, state) or state.phase is Phase.BACKWARD or state.ended:
        return ""
    if state.parked is None:
        return "its pivot is done, and it only goes forward"
    phase, step = state.parked
    why = "it is being undone already" if phase is Phase.BACKWARD else "its pivot is done"
    return f"{why}, and it is parked at {step}: resume it, or skip {step}"


def unheard(shape: Shape, state: SagaState, waits: Collection[StepName]) -> str:
    """Why nobody hears what these steps wait for any more; empty where somebody may, or has heard it."""
    marks = [state.marks.get(name) for name in waits]
    if Mark.DONE in marks:
        return ""
    phase = state.phase if state.parked is None else state.parked[0]
    if phase is Phase.BACKWARD and shape.pivot not in may_have_begun(shape, state):
        return f"it is being undone ({state.reason})"
    return "" if None in marks else "what waited for it has ended without it"


def hear(run: SagaRun) -> Happened | None:
    """What the first steering signal comes to that means something where the saga is now.

    One that means nothing now is kept: it may have been said a moment too early. ("Try again now" is never kept: it is
    about the pause that is going on when it is heard, and comes to no event.) What is no object is passed over.
    """
    for signal in run.signals:
        if not signal.name.startswith(CONTROL):
            continue
        said = word(signal)
        if said is None:
            logger.warning(
                "saga %s was sent %s with a payload that is no object: it is passed over", run.gid, signal.name
            )
            continue
        reason = said.why if said.by == NOBODY else f"{said.by}: {said.why}"
        parked = run.state.parked
        if signal.name == CANCEL and cancellable(run.saga.shape, run.state):
            return Happened(Cancelled(reason), None, signal.id)
        if signal.name == RESUME and parked is not None:
            return Happened(Resumed(reason), None, signal.id)
        if signal.name == SKIP and parked is not None and parked[1] == said.step:
            return Happened(Skipped(said.step, reason), None, signal.id)
    return None
