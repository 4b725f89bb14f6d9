"""The one-page report of a soak: what was done, what was survived, how fast, and what is wrong."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from tests.soak.checker import Violation, duplicates_by_cause
from tests.soak.evidence import ABORTED, COMMITTED, UNKNOWN, Injury, Observations, Told

WITNESSES_MAX = 20


def recoveries(observations: Observations) -> list[tuple[Injury, float | None, float | None]]:
    """Each injury with the seconds until a transaction that was begun after it had committed: anybody's, everybody's.

    None where that never came.
    """
    committed = [told for told in observations.told if told.answer == COMMITTED and told.ended_s is not None]
    workers = {told.worker for told in observations.told}
    found = []
    for injury in observations.injuries:
        first: dict[str, float] = {}
        for told in committed:
            if told.began_s > injury.began_s:
                assert told.ended_s is not None
                first[told.worker] = min(first.get(told.worker, math.inf), told.ended_s - injury.began_s)
        anybody = min(first.values(), default=None)
        found.append((injury, anybody, max(first.values()) if workers and workers == set(first) else None))
    return found


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least *share* of all are not above (nearest rank)."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else None


def vacuous(observations: Observations) -> list[str]:
    """What the soak did not do, so that it proves nothing about it."""
    done = {(told.recipe, told.policy) for told in observations.told if told.answer == COMMITTED}
    asked = {(told.recipe, told.policy) for told in observations.told}
    missing = [f"no transaction of {' and '.join(kind)} committed" for kind in sorted(asked - done)]
    if not observations.injuries:
        missing.append("nothing was disturbed")
    if not any(sighting.relayed for sighting in observations.sightings):
        missing.append("the relay delivered nothing")
    if not any(told.answer == ABORTED for told in observations.told):
        missing.append("no transaction was rolled back")
    return missing


def report(observations: Observations, violations: Sequence[Violation], facts: dict[str, Any]) -> str:
    """The page."""
    lines = [_title(facts, violations), "", *_done(observations), "", *_survived(observations), ""]
    lines += [
        f"settled {facts['settled_s']:.1f} s after the load had ended; {facts['deaths']} processes were started again"
    ]
    causes = duplicates_by_cause(observations)
    again = ", ".join(f"{count} after {cause}" for cause, count in causes.most_common()) or "none"
    lines += [f"messages that the relay delivered more than once (allowed): {again}"]
    lines += [f"VACUOUS: {what}" for what in vacuous(observations)]
    lines += ["", f"violations: {len(violations) or 'none'}"]
    lines += [f"  {violation}" for violation in violations[:WITNESSES_MAX]]
    return "\n".join(lines)


def _title(facts: dict[str, Any], violations: Sequence[Violation]) -> str:
    verdict = f"{len(violations)} VIOLATIONS" if violations else "every promise was kept"
    return (
        f"Soak of {facts['minutes']:g} minutes, seed {facts['seed']}, {facts['workers']} workers, "
        f"{facts['brokers']} brokers: {verdict}"
    )


def _done(observations: Observations) -> Iterator[str]:
    yield f"{'recipe':<15}{'policy':<16}{'begun':>8}{'committed':>11}{'aborted':>9}{'unknown':>9}{'of those there':>16}"
    there = {row.gid for row in observations.rows}
    groups: dict[tuple[str, str], list[Told]] = {}
    for told in observations.told:
        groups.setdefault((told.recipe, told.policy), []).append(told)
    for (recipe, policy), members in sorted(groups.items()):
        answers = Counter(told.answer for told in members)
        late = sum(told.answer == UNKNOWN and told.gid in there for told in members)
        yield (
            f"{recipe:<15}{policy:<16}{len(members):>8}{answers[COMMITTED]:>11}{answers[ABORTED]:>9}"
            f"{answers[UNKNOWN]:>9}{late:>16}"
        )
    relayed = sum(sighting.relayed for sighting in observations.sightings)
    yield f"{len(observations.rows)} rows; {len(observations.sightings)} messages, {relayed} of them by the relay"


def _survived(observations: Observations) -> Iterator[str]:
    yield (f"{'injury':<32}{'times':>6}{'lasted':>9}   {'a commit again, by anybody':<28}{'by every worker':<24}")
    yield f"{'':<32}{'':>6}{'p50':>9}   {'p50':<9}{'p99':<19}{'p50':<9}{'p99':<9}{'never':<6}"
    by_kind: dict[str, list[tuple[Injury, float | None, float | None]]] = {}
    for recovery in recoveries(observations):
        by_kind.setdefault(recovery[0].kind, []).append(recovery)
    for kind, members in sorted(by_kind.items()):
        lasted = [injury.ended_s - injury.began_s for injury, _, _ in members]
        anybody = [seconds for _, seconds, _ in members if seconds is not None]
        everybody = [seconds for _, _, seconds in members if seconds is not None]
        yield (
            f"{kind:<32}{len(members):>6}{_s(percentile(lasted, 0.5)):>9}   "
            f"{_s(percentile(anybody, 0.5)):<9}{_s(percentile(anybody, 0.99)):<19}"
            f"{_s(percentile(everybody, 0.5)):<9}{_s(percentile(everybody, 0.99)):<9}{len(members) - len(everybody):<6}"
        )


def _s(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f} s"
