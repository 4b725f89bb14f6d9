"""Signals that steer a saga itself: cancel, resume, skip. They come by the same way as signals for its steps."""

import json

from coordinator.engine.saga_run import SagaRun
from coordinator.protocol.saga import Cancelled, Resumed, Skipped, cancellable
from coordinator.protocol.saga_shape import StepName
from coordinator.sagas.events import Happened

CONTROL = "!"
"""What the names of steering signals begin with; no step waits for such a one."""
CANCEL, RESUME, SKIP = "!cancel", "!resume", "!skip"


def hear(run: SagaRun) -> Happened | None:
    """What the first steering signal comes to that means something where the saga is now.

    One that means nothing now is kept: it may have been said a moment too early.
    """
    for signal in run.signals:
        if not signal.name.startswith(CONTROL):
            continue
        said = json.loads(signal.payload)
        reason, step = said.get("reason", ""), StepName(said.get("step", ""))
        parked = run.state.parked
        if signal.name == CANCEL and cancellable(run.saga.shape, run.state):
            return Happened(Cancelled(reason or "it was cancelled"), None, signal.id)
        if signal.name == RESUME and parked is not None:
            return Happened(Resumed(reason), None, signal.id)
        if signal.name == SKIP and parked is not None and parked[1] == step:
            return Happened(Skipped(step, reason), None, signal.id)
    return None
