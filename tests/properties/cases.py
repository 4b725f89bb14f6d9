"""The transactions that are tried under faults, and running all of them with every strike at every boundary."""

import asyncio
import itertools
from collections.abc import Iterator

from coordinator.protocol.policy import BackupPolling, Retry, Rollback
from tests.properties.world import Case, Strike, Verdict, World

CASES: dict[str, Case] = {
    "commit record": Case(),
    "commit record, backup polling, refused": Case(policy=BackupPolling(), refuses=True),
    "commit record, rollback, refused": Case(refuses=True),
    "commit record, two messages": Case(messages=2, policy=Retry(then=BackupPolling())),
    "commit record, writing only": Case(messages=0),
    "outbox": Case(recipe="outbox"),
    "publishing only": Case(databases=0),
    "two-phase": Case(recipe="two-phase", prepares=True),
    "two-phase, two databases": Case(databases=2, prepares=True),
    "two-phase, two databases, backup polling": Case(databases=2, prepares=True, policy=BackupPolling()),
    "two-phase, refused": Case(databases=2, prepares=True, refuses=True),
    "two-phase, refused, backup polling": Case(databases=2, prepares=True, refuses=True, policy=BackupPolling()),
    "last resource": Case(recipe="last-resource"),
    "last resource, two databases": Case(databases=2),
    "last resource, backup polling": Case(databases=2, policy=BackupPolling()),
    "last resource, retry": Case(databases=2, policy=Retry(then=Rollback())),
}
CELLS = ("before", "after")


def actions(case: Case) -> tuple[str, ...]:
    """What can happen: a prepared transaction of a broker that prepares never times out."""
    prepared = case.recipe == "two-phase" or (case.prepares and case.databases > 1)
    return ("crash", "stop", "takeover", "reborn", "sweep", "lost", *(() if prepared else ("time_out",)))


def verdict(case: Case, *strikes: Strike) -> Verdict:
    """One run in a world of its own."""
    return asyncio.run(World(case).run(strikes))


def single_strikes(case: Case) -> Iterator[Strike]:
    """Every action in every cell of every boundary that an undisturbed run has, and a few beyond."""
    boundaries = len(verdict(case).boundaries) + 3
    for at, cell, action in itertools.product(range(boundaries), CELLS, actions(case)):
        yield Strike(at, cell, action)


def violations(names: list[str], *, limit: int = 1) -> list[str]:
    """The first *limit* broken promises under single strikes, and then under pairs."""
    found: list[str] = []
    for name in names:
        case = CASES[name]
        singles = list(single_strikes(case))
        pairs = itertools.combinations(singles, 2)
        for strikes in itertools.chain(((), *((single,) for single in singles)), itertools.islice(pairs, 1500)):
            problems = verdict(case, *strikes).problems(case)
            if problems:
                found.append(f"{name}: {strikes}: {'; '.join(problems)}")
                if len(found) >= limit:
                    return found
    return found
