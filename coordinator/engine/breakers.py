"""One circuit breaker per participant, on this process' clock."""

from dataclasses import dataclass, field

from coordinator.ports import Clock
from coordinator.protocol.breaker import Breaker
from coordinator.protocol.model import BranchName


@dataclass(slots=True)
class Breakers:
    """The breakers of all participants; a participant that was never called is closed."""

    clock: Clock
    _by_name: dict[BranchName, Breaker] = field(default_factory=dict)

    def allows(self, name: BranchName) -> bool:
        """Whether *name* would be admitted now."""
        breaker = self._by_name.get(name)
        return breaker is None or breaker.allows(self.clock.monotonic_s())

    def admit(self, name: BranchName, within_s: float = 0.0) -> bool:
        """Whether *name* may be called now. While it is open, what is admitted is the probe, and ends *within_s*."""
        breaker = self._by_name.get(name)
        if breaker is None:
            return True
        now_s = self.clock.monotonic_s()
        if not breaker.allows(now_s):
            return False
        self._by_name[name] = breaker.called(now_s, within_s)
        return True

    def succeeded(self, name: BranchName) -> None:
        """Count a success."""
        self._by_name[name] = self._by_name.get(name, Breaker()).succeeded()

    def failed(self, name: BranchName) -> None:
        """Count a failure that asking again could mend."""
        self._by_name[name] = self._by_name.get(name, Breaker()).failed(self.clock.monotonic_s())

    def is_open(self, name: BranchName) -> bool:
        """Whether calls are refused at the moment, for people and metrics to see."""
        return name in self._by_name and self._by_name[name].open_until_s is not None
