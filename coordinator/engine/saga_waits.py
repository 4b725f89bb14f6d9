"""What steps that wait come to: a time passes, or a signal is there.

A signal of another type (a reply, say, of a service that has changed) is neither what was waited for nor its absence:
an operator says how it goes on. It is kept, and looked at again when he has the step tried again: by then there may be
code that can read it, or the right one beside it.
"""

from coordinator.engine.saga_run import SagaRun
from coordinator.protocol.saga import Cancelled, Done, Refused, Resumed, Stuck, Waiting
from coordinator.protocol.saga_shape import Kind
from coordinator.sagas.events import Happened
from coordinator.sagas.steps import REPLY, StepDefinition
from coordinator.sagas.values import read


def waited_for(run: SagaRun, step: StepDefinition, *, now_s: float) -> Happened | None:
    """What has become of a wait: it begins, it is over, or it goes on (None). *now_s*: seconds since 1970."""
    wrong = ""
    for signal in run.signals if step.kind is Kind.SIGNAL else ():
        if signal.name == step.signal:
            assert step.output is not None, "a signal has a type"
            if not (misfit := step.misfit(signal.payload)):
                value = read(step.output, signal.payload)
                return Happened(Done(step.name), signal.payload.encode(), signal.id, value)
            wrong = f"the {_awaited(step)} came as another type: {misfit}"
    if step.name not in run.state.waits:
        return Happened(Waiting(step.name, None if step.wait_s is None else now_s + step.wait_s))
    if wrong and not run.flying:  # What is being called settles first.
        return Happened(Stuck(step.name, wrong))
    until_s = run.state.waits[step.name]
    if until_s is None or now_s < until_s:
        return None
    if step.kind is Kind.SLEEP:
        return Happened(Done(step.name))
    return Happened(Refused(step.name, wrong or f"no {_awaited(step)} within {step.wait_s:g} s"))


def _awaited(step: StepDefinition) -> str:
    """What a step waits for, as people call it."""
    return f"reply to {step.name!r}" if step.signal.startswith(REPLY) else f"signal {step.signal!r}"


def needless(run: SagaRun, happened: Happened) -> bool:
    """Whether it is nothing to a saga that turned back: nobody waits any more, and nobody turns twice."""
    event = happened.event
    return isinstance(event, Cancelled | Resumed) or run.saga.steps[event.step].kind is not Kind.ACTION
