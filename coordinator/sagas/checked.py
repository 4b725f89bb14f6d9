"""What a definition is told is looked at when it is told, and not when a step of it runs for the first time."""

from math import isfinite
from typing import Any

from coordinator import limits
from coordinator.errors import InvalidDefinition
from coordinator.keys import check_name
from coordinator.sagas.attempts import Attempts


def seconds(what: str, given: Any, *, above: float | None = None) -> None:
    """Raises `InvalidDefinition` for what is no time: seconds, of a hundred years at most."""
    number = isinstance(given, int | float) and not isinstance(given, bool) and isfinite(given)
    if not number or not 0 <= given <= limits.SAGA_WAIT_MAX_S or (above is not None and given <= above):
        least = "above zero" if above is not None else "none or more"
        raise InvalidDefinition(f"{what} {given!r}: a time is a number of seconds, {least}, a hundred years at most")


def attempts(step: str, what: str, given: Any) -> None:
    """Raises `InvalidDefinition` for what is neither `Attempts` nor None."""
    if given is not None and not isinstance(given, Attempts):
        raise InvalidDefinition(f"step {step!r}: write {what}=Attempts(at_most=...), not {what}={given!r}")


def function(given: Any, role: str) -> None:
    """Raises `InvalidDefinition` for what cannot be called."""
    if not callable(given):
        raise InvalidDefinition(f"the {role} of a step is an async function, not {given!r}")


def step_name(given: Any) -> str:
    """The name of a step. Raises `InvalidDefinition` where it is none."""
    if not isinstance(given, str):
        raise InvalidDefinition(f"a step is named by text; give this one a name=: {given!r}")
    check_name(given)
    return given
