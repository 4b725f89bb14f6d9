"""What would break a promise in our own settings: each that does not fit the others, with its remedy."""

from collections.abc import Iterator

from coordinator import limits
from coordinator.doctor import Finding, Verdict
from coordinator.settings import Settings


def examine_settings(settings: Settings) -> list[Finding]:
    """The settings of this process, as they fit together and with the bounds of `coordinator.limits`."""
    return list(_looks(settings))


def _looks(settings: Settings) -> Iterator[Finding]:
    apart = settings.presume_abort_looks_apart_s
    yield _look(
        "presume_abort_after_s",
        settings.presume_abort_after_s,
        f"at least {limits.BRANCH_BUDGET_MAX_S:.0f}: below it an abort may be presumed while the owner may decide, "
        "which costs transactions (never promises)",
        good=settings.presume_abort_after_s >= limits.BRANCH_BUDGET_MAX_S,
    )
    yield _look(
        "presume_abort_looks_apart_s",
        apart,
        "above zero: one look may fall between a PREPARE and its decision",
        good=apart > 0,
    )
    yield _look(
        "presume_abort_after_s against the journal's memory",
        settings.presume_abort_after_s,
        f"below {limits.JOURNAL_RETENTION_S:.0f}: afterwards absence of a record means nothing any more",
        good=settings.presume_abort_after_s + apart < limits.JOURNAL_RETENTION_S,
        verdict=Verdict.BROKEN,
    )
    yield _look(
        "recovery_s",
        settings.recovery_s,
        f"at most the lease ({settings.lease_s:g}): what a dead process left should not wait longer than that",
        good=settings.recovery_s <= settings.lease_s,
    )
    yield _look(
        "lease_s",
        settings.lease_s,
        "2 or more: a pause of the machine should not cost a process its transactions",
        good=settings.lease_s >= 2.0,
    )


def _look(what: str, found: object, remedy: str, *, good: bool, verdict: Verdict = Verdict.NOTE) -> Finding:
    return Finding("settings", what, str(found), Verdict.OK if good else verdict, "" if good else remedy)
