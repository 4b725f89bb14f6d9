"""Failure policies: the one question "this cannot be done now; what next?", answered as data.

A policy decides; it never sleeps and never retries by itself. The same four answers serve every recipe, because they
reach the protocol as two facts only: what a NO of the publishing branch means (`on_no`), and when to ask again
(`next_attempt`). `docs/failure-policies.md` has the whole table, and each row of it is a test on real servers.
"""

from dataclasses import dataclass, field
from typing import Literal, assert_never

from coordinator.limits import POLL_EVERY_S
from coordinator.protocol.model import OnNo


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollback:
    """Broker down or slow for *within_s*: roll everything back, and tell the caller which participant it was."""

    kind: Literal["rollback"] = "rollback"
    within_s: float = 10.0

    def __post_init__(self) -> None:
        _positive(within_s=self.within_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupPolling:
    """Broker down or slow for *push_within_s*: commit the database, with the message in its outbox.

    The relay then delivers it: at once if it can, and otherwise by polling the database at least every *poll_every_s*.
    """

    kind: Literal["backup-polling"] = "backup-polling"
    push_within_s: float = 1.0
    poll_every_s: float = POLL_EVERY_S

    def __post_init__(self) -> None:
        _positive(push_within_s=self.push_within_s, poll_every_s=self.poll_every_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Park:
    """Broker down or slow for *within_s*: hold every branch prepared, raise an alert, and wait for an operator.

    Nobody may hold locks for ever: after *hold_s* without an answer the transaction is rolled back.
    *alert* is the text the operator reads beside the transaction's own name.
    """

    kind: Literal["park"] = "park"
    within_s: float = 10.0
    hold_s: float = 300.0
    alert: str = ""

    def __post_init__(self) -> None:
        _positive(within_s=self.within_s, hold_s=self.hold_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Ask again up to *attempts* times in all, inside the deadline, and then do as *then* says.

    The pause before attempt n is random in [0, backoff_s * 2 ** (n - 1)], never above *backoff_max_s*: full jitter
    (M. Brooker, "Exponential Backoff and Jitter"). A broker that fails many at once is not asked again for each: see
    `coordinator.protocol.budget`.
    """

    kind: Literal["retry"] = "retry"
    attempts: int = 3
    backoff_s: float = 0.1
    backoff_max_s: float = 5.0
    then: Rollback | BackupPolling | Park = field(default_factory=Rollback)

    def __post_init__(self) -> None:
        _positive(attempts=self.attempts, backoff_s=self.backoff_s, backoff_max_s=self.backoff_max_s)


FailurePolicy = Rollback | BackupPolling | Retry | Park


@dataclass(frozen=True, slots=True)
class RetryAfter:
    """Ask again after this many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Take the failure for a NO."""


NextAttempt = RetryAfter | GiveUp


def next_attempt(policy: FailurePolicy, *, made: int, chance: float) -> NextAttempt:
    """What to do after *made* failed attempts. *chance* in [0, 1) is the caller's randomness, for the jitter."""
    if isinstance(policy, Retry) and made < policy.attempts:
        return RetryAfter(chance * min(policy.backoff_max_s, policy.backoff_s * 2 ** (made - 1)))
    return GiveUp()


def on_no(policy: FailurePolicy) -> OnNo:
    """What a NO of the publishing branch means for the others."""
    final = policy.then if isinstance(policy, Retry) else policy
    match final:
        case Rollback():
            return OnNo.ABORT
        case BackupPolling():
            return OnNo.DEFER
        case Park():
            return OnNo.PARK
        case _:
            assert_never(final)


def attempt_within_s(policy: FailurePolicy) -> float:
    """How long one attempt at publishing may take before it counts as failed, in seconds."""
    final = policy.then if isinstance(policy, Retry) else policy
    return final.push_within_s if isinstance(final, BackupPolling) else final.within_s


def poll_every_s(policy: FailurePolicy) -> float:
    """How often the outbox is polled at least, in seconds, for what was committed under this policy."""
    final = policy.then if isinstance(policy, Retry) else policy
    return final.poll_every_s if isinstance(final, BackupPolling) else POLL_EVERY_S


def _positive(**seconds: float) -> None:
    for name, value in seconds.items():
        if not value > 0:
            raise ValueError(f"{name} must be above zero, not {value}")
