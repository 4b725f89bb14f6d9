"""How much one participant may be called, as pure values: at most so many calls at once, and so many a second.

(The bulkhead is M. Nygard's, "Release It!", chapter 5. The rate is GCRA, a token bucket that needs no timer to fill it:
it remembers until when what was taken has been paid for.)
"""

from dataclasses import dataclass

from coordinator import limits
from coordinator.errors import InvalidDefinition


@dataclass(frozen=True, slots=True, kw_only=True)
class CallBudget:
    """What one participant may be asked by the sagas of one process.

    *in_flight*: how many calls at once. *per_second*: how many begin in a second, of which a tenth may begin together;
    None is without a bound.
    """

    in_flight: int = limits.CALLS_IN_FLIGHT_MAX
    per_second: float | None = None

    def __post_init__(self) -> None:
        if self.in_flight < 1 or (self.per_second is not None and not self.per_second > 0):
            raise InvalidDefinition(f"a budget allows one call at least, and a rate above zero: {self}")


@dataclass(frozen=True, slots=True)
class Rate:
    """So many a second. Time is an argument, in seconds of any monotonic clock."""

    per_second: float
    paid_until_s: float = 0.0

    @property
    def together(self) -> float:
        """How many may begin at the same time."""
        return max(1.0, self.per_second * limits.CALLS_TOGETHER_S)

    def wait_s(self, now_s: float) -> float:
        """How long the next one has to wait."""
        return max(0.0, self.paid_until_s - now_s - (self.together - 1.0) / self.per_second)

    def taken(self, now_s: float) -> "Rate":
        """After the next one has taken its place in the row: it begins when `wait_s` has passed."""
        return Rate(self.per_second, max(self.paid_until_s, now_s) + 1.0 / self.per_second)
