"""Sagas as users define them: steps in code, checked when they are put together, and drawn."""

from coordinator.sagas.attempts import Attempts
from coordinator.sagas.definition import Saga
from coordinator.sagas.messages import Command, command, deliver_reply, return_address
from coordinator.sagas.steps import Status, StepContext, await_signal, sleep, step

__all__ = [
    "Attempts",
    "Command",
    "Saga",
    "Status",
    "StepContext",
    "await_signal",
    "command",
    "deliver_reply",
    "return_address",
    "sleep",
    "step",
]
