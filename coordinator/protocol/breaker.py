"""A circuit breaker as a pure value: a known outage should cost nothing.

Closed while calls succeed; open once half of the last calls failed; then one probe after a rest. The next one is made
when that has failed and another rest is over, or when its time is over without an answer. Time is an argument, in
seconds of any monotonic clock. (The pattern is M. Nygard's, "Release It!", chapter 5.)
"""

from dataclasses import dataclass, replace

from coordinator.limits import BREAKER_CALLS_MIN, BREAKER_FAILURES_SHARE, BREAKER_REST_S, BREAKER_WINDOW


@dataclass(frozen=True, slots=True)
class Breaker:
    """The last results (True: succeeded), and until when calls are refused."""

    results: tuple[bool, ...] = ()
    open_until_s: float | None = None

    def allows(self, now_s: float) -> bool:
        """Whether a call may be made now: always when closed, and one probe when the rest is over."""
        return self.open_until_s is None or now_s >= self.open_until_s

    def called(self, now_s: float, within_s: float = 0.0) -> "Breaker":
        """After a call has begun. While open it is the probe: no other is made *within_s*, nor before a rest is over.

        A failure, also of a call that had begun before it, makes it a rest from then on. It may never say how it ended,
        so that is not waited for any longer.
        """
        return self if self.open_until_s is None else replace(self, open_until_s=now_s + max(BREAKER_REST_S, within_s))

    def succeeded(self) -> "Breaker":
        """After a call has succeeded: an open breaker closes."""
        if self.open_until_s is not None:
            return Breaker(results=(True,))
        return replace(self, results=(*self.results, True)[-BREAKER_WINDOW:])

    def failed(self, now_s: float) -> "Breaker":
        """After a call has failed: it opens when half of the recent calls did, and a failed probe opens it again."""
        results = (*self.results, False)[-BREAKER_WINDOW:]
        opens = results.count(False) >= max(BREAKER_CALLS_MIN, BREAKER_FAILURES_SHARE * len(results))
        if self.open_until_s is not None or opens:
            return Breaker(results=results, open_until_s=now_s + BREAKER_REST_S)
        return replace(self, results=results)
