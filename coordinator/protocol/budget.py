"""A retry budget as a pure value: what is slow already is not asked much more often for being slow.

Every first attempt earns a tenth of a retry, and a few are kept in reserve. Over any stretch of time there are then at
most a tenth as many retries as first attempts, and the reserve. (Retries that multiply the load keep a system down
after what broke it is over: "metastable failures". The budget is the AWS Builders' Library's and gRPC's.)
"""

from dataclasses import dataclass

from coordinator.limits import RETRY_COSTS_ATTEMPTS, RETRY_RESERVE

_FULL = RETRY_RESERVE * RETRY_COSTS_ATTEMPTS


@dataclass(frozen=True, slots=True)
class RetryBudget:
    """What has been earned and not been spent, in first attempts."""

    earned: int = _FULL

    @property
    def allows(self) -> bool:
        """Whether a retry may be made now."""
        return self.earned >= RETRY_COSTS_ATTEMPTS

    def attempted(self) -> "RetryBudget":
        """After a first attempt."""
        return self if self.earned >= _FULL else RetryBudget(self.earned + 1)

    def retried(self) -> "RetryBudget":
        """After a retry that was allowed."""
        assert self.allows, "a retry is made only where the budget allows it"
        return RetryBudget(self.earned - RETRY_COSTS_ATTEMPTS)
