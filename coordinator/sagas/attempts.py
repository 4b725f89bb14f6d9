"""How often a call is made, and how long the pauses are."""

from dataclasses import dataclass
from math import isfinite

from coordinator.errors import InvalidDefinition


def _is_time(seconds: object) -> bool:
    return isinstance(seconds, int | float) and isfinite(seconds) and seconds > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempts:
    """How often a call is made before its step is taken for failed; *at_most* includes the first.

    The pause before attempt n is random in [0, backoff_s * 2 ** (n - 2)], never above *backoff_max_s* (full jitter).
    None is begun later than *within_s* seconds after the first (None: whenever). Both are counted by the process that
    makes the calls: whoever goes on with the saga after it, or once it was parked, counts anew. (A deadline that holds
    throughout is the saga's own, `deadline_s`.)
    Raises `InvalidDefinition` for what is no number, or not above zero.
    """

    at_most: int = 3
    backoff_s: float = 0.1
    backoff_max_s: float = 5.0
    within_s: float | None = None

    def __post_init__(self) -> None:
        times = (self.backoff_s, self.backoff_max_s, *(() if self.within_s is None else (self.within_s,)))
        if type(self.at_most) is not int or self.at_most < 1 or not all(map(_is_time, times)):
            raise InvalidDefinition(f"attempts are whole and times are seconds, and all are above zero: {self}")

    def pause_s(self, made: int, chance: float) -> float:
        """Seconds before the next attempt, after *made*. *chance* in [0, 1) is the caller's randomness."""
        return chance * float(min(self.backoff_max_s, self.backoff_s * 2 ** (made - 1)))

    def over(self, made: int, passed_s: float) -> bool:
        """Whether no further one is begun after *made*, *passed_s* seconds after the first began."""
        return made >= self.at_most or (self.within_s is not None and passed_s >= self.within_s)


USUAL = Attempts()
PATIENT = Attempts(at_most=20, backoff_s=0.1, backoff_max_s=30.0)
"""Some minutes: for what is owed in any case, as a compensation is, or a step behind the pivot."""
