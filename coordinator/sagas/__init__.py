"""Sagas as users define them: steps in code, checked when they are put together, and drawn."""

from coordinator.sagas.attempts import Attempts
from coordinator.sagas.definition import Saga, Status, StepContext, await_signal, sleep, step
from coordinator.sagas.messages import Command, command, deliver_reply, return_address

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
