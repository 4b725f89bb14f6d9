"""One retry budget per participant, for retries before the decision and after it together."""

from collections import Counter
from dataclasses import dataclass, field

from coordinator.protocol.budget import RetryBudget
from coordinator.protocol.model import BranchName


@dataclass(slots=True)
class RetryBudgets:
    """The budgets of all participants; a participant that was never asked again has its whole reserve."""

    first_attempts: Counter[BranchName] = field(default_factory=Counter)
    retries: Counter[BranchName] = field(default_factory=Counter)
    """Those that the budget allowed."""
    refused: Counter[BranchName] = field(default_factory=Counter)
    """Those that it did not: they were not made, or (what is owed is owed) made as late as may be."""
    _by_name: dict[BranchName, RetryBudget] = field(default_factory=dict)

    def attempted(self, name: BranchName) -> None:
        """Count a first attempt."""
        self.first_attempts[name] += 1
        budget = self._by_name.get(name)
        if budget is not None:
            self._by_name[name] = budget.attempted()

    def spend(self, name: BranchName) -> bool:
        """Take a retry of *name* out of its budget; whether there was one."""
        budget = self._by_name.get(name, RetryBudget())
        if not budget.allows:
            self.refused[name] += 1
            return False
        self.retries[name] += 1
        self._by_name[name] = budget.retried()
        return True
