"""Every kind of alert: what it means, and what an operator does about it.

An alert is raised once per transaction and kind, whoever sees it and however often, and stays open until a person
resolves it with a reason. (A saga's is closed by the word that lets the saga go on, and opened again where the saga is
parked again.) What people did is kept in the audit, which is only ever added to.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from coordinator.errors import Refused
from coordinator.protocol.model import Ending, Gid, Transaction
from coordinator.records import Alert, Lease


class AlertKind(StrEnum):
    """Why an operator is told."""

    PARKED = "parked"
    REFUSED = "refused"
    HEURISTIC = "heuristic"
    HAZARD = "hazard"
    LOST_BY_FAILOVER = "lost-by-failover"
    OLDER_THAN_JOURNAL = "older-than-journal"
    PARKED_SAGA = "parked-saga"
    UNREADABLE_SAGA = "unreadable-saga"
    POISON = "poison"


HEURISTIC_OUTCOMES = frozenset({AlertKind.HEURISTIC, AlertKind.HAZARD, AlertKind.LOST_BY_FAILOVER})
"""The promise was broken from outside: such a transaction's record is never forgotten, also when it is resolved."""


class Alerts(Protocol):
    """Where operators are told, and where it is kept what they said."""

    async def raise_alert(self, gid: Gid, kind: AlertKind, detail: str, *, under: Lease | None = None) -> None:
        """Exactly one alert per *gid* and *kind*, ever: also when it was resolved.

        *under* a lease, by whoever drives what it is about: not where that is another one by now, and anew where it was
        resolved.
        """
        ...

    async def open_alerts(self) -> Sequence[Alert]:
        """Those that nobody has resolved, the oldest first."""
        ...

    async def resolve_alert(self, gid: Gid, kind: str, *, by: str, reason: str) -> bool:
        """*by* has seen to it, and says how; whether it was open. It is kept, and audited in the same commit.

        Raises `Refused` without a name or a reason; so does `audit`.
        """
        ...

    async def audit(self, *, actor: str, action: str, gid: Gid, reason: str, detail: str = "") -> None:
        """Keep what an operator did, and why. There is no way to change it afterwards."""
        ...


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a kind of alert *means*, and what to *do*."""

    means: str
    do: str


EXPLANATIONS: Mapping[AlertKind, Explanation] = {
    AlertKind.PARKED: Explanation(
        "A transaction waits, prepared, for an operator, as its policy says. It holds its locks until then.",
        "Find out why its broker did not commit; then commit or abort it, with a reason.",
    ),
    AlertKind.REFUSED: Explanation(
        "What was decided cannot be carried out, because a setting or a privilege forbids it, or a service refuses it. "
        "It is tried for ever.",
        "The detail quotes the server. Grant or set what it names; nothing needs to be restarted. Then resolve it.",
    ),
    AlertKind.HEURISTIC: Explanation(
        "A branch ended otherwise than was decided: somebody finished a prepared transaction by hand, or initialised a "
        "transactional id of ours. The transaction is torn.",
        "The detail says how each branch ended. Repair the data by hand (the others did as was decided), find who did "
        "it, and take away the privilege. Then resolve it with what was done.",
    ),
    AlertKind.HAZARD: Explanation(
        "Nobody can tell how a branch ended: the records or the topic that would say it are gone, or the marker and "
        "the transaction's status are.",
        "Look at the data of that participant for the transaction's effect. Where the others wait for it, prepared, "
        "commit or abort them accordingly. Resolve the alert with what was found and done.",
    ),
    AlertKind.LOST_BY_FAILOVER: Explanation(
        "A database was failed over to a standby that had not received a branch which was to be committed: its rows "
        "are gone, and the other branches are committed.",
        "Do the branch's work again (the old primary's disk may still have its rows), and resolve the alert with what "
        "was done. A synchronous standby prevents it.",
    ),
    AlertKind.PARKED_SAGA: Explanation(
        "A saga can go neither on nor back: a compensation failed for as often as it may be tried, a step behind the "
        "pivot did, nobody could say what became of a step, a reply or signal came as another type, or six processes "
        "in a row were lost with it.",
        "The detail names the step and what it answered. Mend what it names and resume the saga, or do the step's work "
        "by hand and skip it, with a reason; before the pivot, it can be cancelled too. That closes the alert.",
    ),
    AlertKind.UNREADABLE_SAGA: Explanation(
        "A process has the definition of a saga, and cannot read what was kept of it: the type of an input or of an "
        "output was changed, and the definition kept its version. The saga is left as it stands, and is tried again "
        "every half minute, by any process that has its definition.",
        "The detail names what is of another type. Let that type take what was kept as well (a new field has a "
        "default), or bring back the earlier code, and give the changed definition another version: the saga goes on "
        "by itself. Then resolve the alert.",
    ),
    AlertKind.OLDER_THAN_JOURNAL: Explanation(
        "A branch of ours is prepared, but is older than the journal's memory: that no record speaks of it does not "
        "mean abort. It is left alone, and holds its locks.",
        "Compare with the other participants, and decide it by `coordinator in-doubt commit` or `abort`; then resolve "
        "the alert. It comes from a failover of the journal's database to a standby that lagged, from a backup that "
        "was restored, or from a journal that is not this one.",
    ),
    AlertKind.POISON: Explanation(
        "A transaction was adopted more than five times, and every process that drove it ended before it had. It is "
        "set aside, as it stands, so that it takes no other process with it; its branches may hold locks.",
        "Find out what ended those processes (their last lines of log name it). Then resolve the alert: the "
        "transaction is driven again, as it was decided.",
    ),
}


def of_outcome(transaction: Transaction) -> AlertKind:
    """The one alert that a finished heuristic *transaction* deserves: the worst of what became of its branches."""
    kinds = {of_ending(ending) for ending in transaction.endings.values()}
    return next((kind for kind in (AlertKind.LOST_BY_FAILOVER, AlertKind.HAZARD) if kind in kinds), AlertKind.HEURISTIC)


def of_ending(ending: Ending) -> AlertKind:
    """The alert about a branch that ended so, and not as was decided."""
    return {Ending.LOST: AlertKind.LOST_BY_FAILOVER, Ending.HAZARD: AlertKind.HAZARD}.get(ending, AlertKind.HEURISTIC)


def refuse_anonymous(gid: Gid, by: str, reason: str) -> None:
    """Raise `Refused` where what is to be kept about a person's act says not who, or not why."""
    if not by.strip() or not reason.strip():
        raise Refused("say who does it and why: both are kept", gid=gid)
