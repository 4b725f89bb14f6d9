"""What must hold when all is over: a pure function from what was observed to what is wrong, each with its witness.

    torn        a row without all of its messages, or a message without its row
    lost        the caller was told committed, and nothing is there
    ghost       the caller was told aborted, and something is visible
    undecided   something is visible, and the journal does not say commit; or it does, and nothing is there
    changed     a decision that stood in the journal, and was another one later, or none
    duplicate   a message that is there more often than its way of delivery allows
    order       the outbox delivered one key's messages in another order than they were committed
    leftover    something that nobody finishes any more
    alert       an operator was called, and nothing happened here that needs one
    stalled     a worker that never committed again after everything had healed

A relay delivers at least once, so a message that only the relay delivered may be there twice, where an injury explains
it. One that a Kafka transaction delivered is there exactly once: the relay may not touch it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from tests.soak.evidence import ABORTED, COMMITTED, OUTBOX, Injury, Observations, Row, Sighting, Told

EXPLAINS_WITHIN_S = 45.0
"""How long after an injury a second delivery may be its doing: a lease, and what a producer waits for a broker."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise, and the least that shows it."""

    kind: str
    gid: str
    witness: str

    def __str__(self) -> str:
        return f"{self.kind:<10} {self.gid}  {self.witness}"


@dataclass(frozen=True, slots=True)
class _Seen:
    """All there is about one transaction."""

    gid: str
    rows: list[Row]
    sightings: list[Sighting]
    told: Told | None
    decided: str | None

    @property
    def story(self) -> str:
        """In one line: who asked for what, what it was told, what stands, and what is there."""
        told = self.told
        asked = f"{told.worker} {told.recipe} {told.policy}: told {told.answer}" if told else "nobody asked for it"
        seen = ", ".join(f"{s.message_id.rpartition(':')[2]}@{s.partition}/{s.offset}" for s in self.sightings)
        return f"{asked}; decided {self.decided}; rows {len(self.rows)}; messages {seen or 'none'}"


def check(observations: Observations) -> list[Violation]:
    """Everything that is wrong; empty where every promise was kept."""
    found: list[Violation] = []
    for seen in _transactions(observations):
        found += _atomic(seen)
        found += _as_told(seen)
        found += _delivered_once(seen, observations.injuries)
    found += _changed(observations)
    found += _in_order(observations)
    found += [
        Violation("leftover", what, ", ".join(examples[:3]) + f" ({len(examples)} in all)")
        for what, examples in observations.leftovers.items()
        if examples
    ]
    found += [Violation("alert", alert.partition(" ")[0], alert) for alert in observations.alerts]
    return found + list(_stalled(observations))


def duplicates_by_cause(observations: Observations) -> Counter[str]:
    """How many deliveries were one too many, by the injury that explains each."""
    causes: Counter[str] = Counter()
    for seen in _transactions(observations):
        for copies in _copies(seen).values():
            causes.update(_cause(copies[0], again, observations.injuries) or "none" for again in copies[1:])
    return causes


def _transactions(observations: Observations) -> Iterator[_Seen]:
    rows: dict[str, list[Row]] = defaultdict(list)
    sightings: dict[str, list[Sighting]] = defaultdict(list)
    for row in observations.rows:
        rows[row.gid].append(row)
    for sighting in observations.sightings:
        sightings[sighting.gid].append(sighting)
    told = {one.gid: one for one in observations.told}
    for gid in sorted({*rows, *sightings, *told}):
        yield _Seen(gid, rows[gid], sightings[gid], told.get(gid), observations.decided.get(gid))


def _atomic(seen: _Seen) -> Iterator[Violation]:
    """Both or neither, and the journal says the same."""
    present = {sighting.message_id for sighting in seen.sightings}
    promised = {f"{seen.gid}:{n}" for row in seen.rows for n in range(row.messages)}
    if missing := sorted(promised - present):
        yield Violation("torn", seen.gid, f"a row without {', '.join(missing)}; {seen.story}")
    if extra := sorted(present - promised):
        yield Violation("torn", seen.gid, f"{', '.join(extra)} without a row; {seen.story}")
    if len(seen.rows) > 1:
        yield Violation("duplicate", seen.gid, f"the row is there {len(seen.rows)} times; {seen.story}")
    if bool(seen.rows) != (seen.decided == "commit"):
        yield Violation("undecided", seen.gid, seen.story)


def _as_told(seen: _Seen) -> Iterator[Violation]:
    """A caller that was told something was told the truth. Unknown is either."""
    answer = seen.told.answer if seen.told else None
    there = bool(seen.rows or seen.sightings)
    if answer == COMMITTED and not there:
        yield Violation("lost", seen.gid, seen.story)
    if answer == ABORTED and there:
        yield Violation("ghost", seen.gid, seen.story)


def _changed(observations: Observations) -> Iterator[Violation]:
    """A transaction has one decision, for ever. (A crash may forget what became of an intent, never a decision.)"""
    for gid, standings in observations.stood.items():
        story = [*standings, observations.decided.get(gid, "nothing")]
        decisions = {*story} & {"commit", "abort"}
        if len(decisions) > 1 or (decisions and story[-1] == "nothing"):
            yield Violation("changed", gid, " then ".join(story))


def _copies(seen: _Seen) -> dict[str, list[Sighting]]:
    copies: dict[str, list[Sighting]] = defaultdict(list)
    for sighting in sorted(seen.sightings, key=lambda s: (s.at_s, s.partition, s.offset)):
        copies[sighting.message_id].append(sighting)
    return copies


def _delivered_once(seen: _Seen, injuries: list[Injury]) -> Iterator[Violation]:
    for message_id, copies in _copies(seen).items():
        if len(copies) == 1:
            continue
        places = " and ".join(
            f"{c.partition}/{c.offset} by {'the relay' if c.relayed else 'its transaction'} ({c.producer})"
            for c in copies
        )
        if not all(copy.relayed for copy in copies):
            yield Violation("duplicate", seen.gid, f"{message_id} at {places}; {seen.story}")
        elif any(_cause(copies[0], again, injuries) is None for again in copies[1:]):
            yield Violation("duplicate", seen.gid, f"{message_id} at {places}, and nothing explains it; {seen.story}")


def _cause(first: Sighting, again: Sighting, injuries: list[Injury]) -> str | None:
    """The injury that explains why *again* was delivered: the last one that could."""
    before = [
        injury
        for injury in injuries
        if injury.began_s <= again.at_s and injury.ended_s >= first.at_s - EXPLAINS_WITHIN_S
    ]
    return max(before, key=lambda injury: injury.began_s).kind if before else None


def _in_order(observations: Observations) -> Iterator[Violation]:
    """The first deliveries of a key's messages are in the order in which they were committed."""
    by_outbox = {told.gid for told in observations.told if told.recipe == OUTBOX}
    last: dict[tuple[int, str], Sighting] = {}
    known: set[str] = set()
    for sighting in sorted(observations.sightings, key=lambda s: (s.partition, s.offset)):
        if sighting.gid not in by_outbox or sighting.message_id in known:
            continue
        known.add(sighting.message_id)
        before = last.get((sighting.partition, sighting.key))
        if before is not None and before.sequence > sighting.sequence:
            yield Violation(
                "order",
                sighting.gid,
                f"key {sighting.key}: {sighting.sequence} at {sighting.partition}/{sighting.offset} "
                f"is behind {before.sequence} at offset {before.offset} ({before.gid})",
            )
        else:
            last[(sighting.partition, sighting.key)] = sighting


def _stalled(observations: Observations) -> Iterator[Violation]:
    workers = {told.worker for told in observations.told}
    going = {
        told.worker for told in observations.told if told.answer == COMMITTED and told.began_s >= observations.healed_s
    }
    for worker in sorted(workers - going):
        yield Violation("stalled", worker, "it committed nothing after everything had healed")
