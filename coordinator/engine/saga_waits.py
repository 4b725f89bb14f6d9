"""What steps that wait come to: a time passes, or a signal is there."""

from coordinator.engine.saga_run import SagaRun
from coordinator.protocol.saga import Done, Refused, Waiting
from coordinator.protocol.saga_shape import Kind
from coordinator.sagas.definition import StepDefinition
from coordinator.sagas.events import Happened


def waited_for(run: SagaRun, step: StepDefinition, *, now_s: float) -> Happened | None:
    """What has become of a wait: it begins, it is over, or it goes on (None). *now_s*: seconds since 1970."""
    if step.kind is Kind.SIGNAL:
        for signal in run.signals:
            if signal.name == step.signal and step.accepts(signal.payload):
                return Happened(Done(step.name), signal.payload.encode(), signal.id)
    if step.name not in run.state.waits:
        return Happened(Waiting(step.name, None if step.wait_s is None else now_s + step.wait_s))
    until_s = run.state.waits[step.name]
    if until_s is None or now_s < until_s:
        return None
    if step.kind is Kind.SLEEP:
        return Happened(Done(step.name))
    return Happened(Refused(step.name, f"no signal {step.signal!r} within {step.wait_s:g} s"))
