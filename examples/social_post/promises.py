"""What each failure policy promises under each condition: the table that the demo checks every cell against."""

from dataclasses import dataclass

from coordinator import BackupPolling, FailurePolicy, Park, Retry, Rollback, Settings

POLICIES: dict[str, FailurePolicy] = {
    "rollback": Rollback(within_s=1.0),
    "backup-polling": BackupPolling(push_within_s=0.5, poll_every_s=0.2),
    "retry": Retry(attempts=2, backoff_s=0.1, then=BackupPolling(push_within_s=0.4, poll_every_s=0.2)),
    "park": Park(within_s=0.5, alert="a post waits"),
}
RECIPES = ("commit-record", "two-phase", "last-resource")

HEALTHY = "all healthy"
STOPPED = "broker stopped"
FROZEN = "broker frozen"
CUT = "database cut at commit"
LOST = "commit's reply lost"

# The points between the first send and the last acknowledgement at which a process is killed, and whether the decision
# was durable by then. Before it nothing may be seen, and after it everything must.
KILLS: dict[str, dict[str, bool]] = {
    "commit-record": {
        "kafka.produce:before": False,
        "kafka.produce:after": False,
        "pg.commit_record:before": False,
        "pg.commit_record:after": True,
        "kafka.end.commit:before": True,
        "kafka.end.commit:after": True,
    },
    "two-phase": {
        "kafka.produce:after": False,
        "pg.prepare:after": False,
        "journal.decide:before": False,
        "journal.decide:after": True,
        "kafka.end.commit:before": True,
        "kafka.end.commit:after": True,
        "pg.commit_prepared:before": True,
        "pg.commit_prepared:after": True,
    },
    "last-resource": {
        "kafka.produce:after": False,
        "pg.prepare:after": False,
        "journal.decide:before": False,
        "journal.decide:after": True,
        "kafka.end.commit:before": True,
        "kafka.end.commit:after": True,
        "pg.commit_prepared:before": True,
        "pg.commit_prepared:after": True,
    },
}
KILL_POLICIES = ("rollback", "backup-polling")

# A demonstration does not wait for long: a dead process is taken over within two seconds.
SETTINGS = Settings(
    lease_s=2.0,
    recovery_s=0.4,
    presume_abort_after_s=2.0,
    presume_abort_looks_apart_s=0.5,
    settle_within_s=5.0,
)


@dataclass(frozen=True, slots=True)
class Promise:
    """What the caller sees, and how often the post is in Postgres and on Kafka in the end."""

    caller: str
    rows: int
    messages: int


COMMITTED = Promise("committed", 1, 1)
NOTHING = Promise("Unavailable", 0, 0)


def promised(policy: str, recipe: str, condition: str) -> Promise:
    """The promise of *policy* under *condition*."""
    if condition.startswith("killed at "):
        point = condition.removeprefix("killed at ")
        return Promise("killed", 1, 1) if KILLS[recipe][point] else Promise("killed", 0, 0)
    if condition == CUT:
        # The commit record's COMMIT never arrived. The others had decided before, and finish.
        return NOTHING if recipe == "commit-record" else COMMITTED
    if condition in (STOPPED, FROZEN):
        return {
            "rollback": NOTHING,
            "backup-polling": Promise("deferred", 1, 1),
            "retry": Promise("deferred", 1, 1),
            "park": Promise("Parked", 1, 1),
        }[policy]
    return COMMITTED


def combinations() -> list[tuple[str, str]]:
    """Policies and recipes that go together: what never holds anything prepared cannot park."""
    return [(p, r) for p in POLICIES for r in RECIPES if (p, r) != ("park", "commit-record")]
