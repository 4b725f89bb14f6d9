"""What can be asked of any error, whoever's it is: a service or a step may raise anything."""

import sys
from typing import Any


def pause_asked_s(failure: BaseException) -> float:
    """How long a participant asked to be left alone; the pause comes on top, so that not all return at once."""
    asked_s = told(failure, "retry_after_s")
    return float(asked_s) if isinstance(asked_s, int | float) and 0 <= asked_s <= sys.float_info.max else 0.0


def told(failure: Any, name: str) -> Any:
    """What an error has as *name*; None where it has no such. It is somebody's own, and may be anything."""
    try:
        return getattr(failure, name, None)
    except Exception:  # noqa: BLE001 - a property of somebody's own error.
        return None
