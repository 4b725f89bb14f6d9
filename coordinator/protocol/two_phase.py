"""The two-phase machine: one rule book for the commit record, two-phase commit and the last resource.

What differs between the three is not the protocol but what each branch can promise (`model.Role`):

* a PREPARED branch votes and then obeys, for as long as it takes;
* a LAST branch votes, but cannot hold its promise for ever. So the intent is made durable, the branch is asked to
  commit, and what it did is the decision (the last resource commit, with its intent logged);
* a DECIDER does not vote: its own commit carries the decision record. Everyone else must have voted before.

    PREPARING ──all voted──► COMMITTING ──all ended──► COMMITTED
        │  └─a LAST branch─► INTENDING ─┬─committed─► COMMITTING
        │                               └─did not───► ABORTING (or COMMITTING / PARKED, as its policy says)
        ├──a NO that is an operator's──► PARKED ─────► COMMITTING or ABORTING
        └──a NO, or anything before the decision──────► ABORTING ──all ended──► ABORTED

Rule: everything that moves a transaction lives in this file. `evolve` takes facts, `owed` derives obligations from the
state alone, and neither knows a clock, a socket or a chance. An illegal fact raises and changes nothing.
"""

from collections.abc import Sequence
from dataclasses import replace

from coordinator.errors import IllegalTransition
from coordinator.protocol.actions import Abort, Action, Commit, Decide, Hold, Intend, Prepare, Release
from coordinator.protocol.ballot import Tally, tally
from coordinator.protocol.events import Decided, Event, HeldForOperator, Intended, Settled, Voted
from coordinator.protocol.model import Branch, Ending, OnNo, Outcome, Role, Status, Transaction, Vote

# How a branch ends whose messages the relay has to deliver: where nobody can tell, twice is better than never.
_LOST = (Ending.ABORTED, Ending.HAZARD)
_AFTER_REFUSAL = {OnNo.ABORT: Status.ABORTING, OnNo.DEFER: Status.COMMITTING, OnNo.PARK: Status.INTENDING}


def evolve(transaction: Transaction, event: Event) -> Transaction:
    """The transaction after *event*. Raises `IllegalTransition`, and changes nothing, where it cannot have happened."""
    status = transaction.status
    match event:
        case Voted() if status is Status.PREPARING and _may_vote(transaction, event):
            return replace(
                transaction,
                votes={**transaction.votes, event.branch: event.vote},
                evidence={**transaction.evidence, event.branch: event.evidence},
                reason=transaction.reason or event.reason,
            )
        case Intended() if status is Status.PREPARING and _won(transaction) and last_resource(transaction):
            return replace(transaction, status=Status.INTENDING)
        case HeldForOperator() if status in (Status.PREPARING, Status.INTENDING) and _held(transaction):
            return replace(transaction, status=Status.PARKED, reason=transaction.reason or event.reason)
        case Decided(Outcome.COMMIT) if _may_commit(transaction):
            return _decided(transaction, Status.COMMITTING)
        case Decided(Outcome.ABORT) if status in (Status.PREPARING, Status.PARKED):
            return _decided(transaction, Status.ABORTING, event.reason)
        case Settled() if event.branch in transaction.branches:
            return _settle(transaction, event)
    raise IllegalTransition(f"{event} cannot happen to {transaction.gid} while it is {status}")


def owed(transaction: Transaction) -> Sequence[Action]:
    """What must be done next; actions returned together may be done in parallel. Empty: wait, or finished."""
    match transaction.status:
        case Status.PREPARING:
            return _owed_before_the_decision(transaction)
        case Status.INTENDING:
            last = last_resource(transaction)
            assert last is not None, "only a last resource is ever intended"
            return [Hold(transaction.reason)] if _held(transaction) else [Commit(last.name)]
        case Status.COMMITTING:
            # Rows are released only when they are there: the database that holds them commits first.
            return _commits(transaction) or _releases(transaction)
        case Status.ABORTING:
            return [Abort(name) for name in transaction.branches if name not in transaction.endings]
        case Status.PARKED | Status.COMMITTED | Status.ABORTED:
            return []


def restored(transaction: Transaction) -> Transaction:
    """A transaction as the journal remembers it, with the endings that its record itself proves."""
    if transaction.status in (Status.COMMITTING, Status.ABORTING):
        return _decided(transaction, transaction.status)
    return transaction


def last_resource(transaction: Transaction) -> Branch | None:
    """The branch whose own ending is the decision, if it has anything to commit."""
    for branch in transaction.branches.values():
        if branch.role is Role.LAST and transaction.votes.get(branch.name) not in (Vote.READ_ONLY, Vote.NO):
            return branch
    return None


def decider(transaction: Transaction) -> Branch | None:
    """The branch whose own commit carries the decision, if there is one."""
    for branch in transaction.branches.values():
        if branch.role is Role.DECIDER:
            return branch
    return None


def _owed_before_the_decision(transaction: Transaction) -> Sequence[Action]:
    match _ballot(transaction):
        case Tally.LOST:
            return [Decide(Outcome.ABORT, forced=False)]
        case Tally.PENDING:
            return [Prepare(branch.name) for branch in _voters(transaction) if branch.name not in transaction.votes]
        case Tally.HELD:
            return [Hold(transaction.reason)]
        case Tally.WON:
            return [_the_deciding_step(transaction)]


def _the_deciding_step(transaction: Transaction) -> Action:
    carrier, last = decider(transaction), last_resource(transaction)
    if carrier is not None:
        return Decide(Outcome.COMMIT, through=carrier.name)
    if last is not None:
        # Alone, it needs no intent: nobody else waits to be told, and its own answer can be asked for again.
        return Commit(last.name) if _sole(transaction, last) else Intend()
    anything_to_commit = Vote.YES in transaction.votes.values()
    return Decide(Outcome.COMMIT, forced=anything_to_commit)


def _settle(transaction: Transaction, event: Settled) -> Transaction:
    branch, status = transaction.branches[event.branch], transaction.status
    before = transaction.endings.get(branch.name)
    endings = {**transaction.endings, branch.name: event.ending}
    settled = replace(transaction, endings=endings)
    match status:
        case Status.INTENDING if last_resource(transaction) == branch and before is None:
            return _after_last_resource(settled, branch, event.ending)
        case Status.PREPARING if _won(transaction) and _sole(transaction, branch) and before is None:
            return _after_last_resource(settled, branch, event.ending)
        case Status.COMMITTING if before is None or (before in _LOST and event.ending is Ending.DEFERRED):
            return _finish(settled)
        case Status.ABORTING if before is None:
            return _finish(settled)
    raise IllegalTransition(f"{event} cannot happen to {transaction.gid} while it is {status}")


def _after_last_resource(transaction: Transaction, branch: Branch, ending: Ending) -> Transaction:
    if ending is Ending.COMMITTED:
        return _decided(transaction, Status.COMMITTING)
    if ending is Ending.HAZARD:
        # Nobody can say what it did, so nobody may guess for the others: an operator decides.
        return replace(transaction, status=Status.INTENDING, reason=f"the outcome of {branch.name} is unreadable")
    return _decided(transaction, _AFTER_REFUSAL[branch.on_no], f"{branch.name} did not commit")


def _decided(transaction: Transaction, status: Status, reason: str = "") -> Transaction:
    """In *status*, with the endings that need no work: a branch that did nothing, and a decider, have ended with it."""
    committing = status is Status.COMMITTING
    reason = transaction.reason or reason
    if status is Status.INTENDING:
        return replace(transaction, status=status, reason=reason)
    carrier = decider(transaction)
    endings = dict(transaction.endings)
    for name, branch in transaction.branches.items():
        vote = transaction.votes.get(name)
        if vote is Vote.READ_ONLY:
            endings.setdefault(name, Ending.COMMITTED if committing else Ending.ABORTED)
        elif committing and branch is carrier:
            endings[name] = Ending.COMMITTED
        elif committing and vote is Vote.NO and carrier is not None:
            endings[name] = Ending.DEFERRED  # The deciding commit itself put its rows where the relay finds them.
    return _finish(replace(transaction, status=status, endings=endings, reason=reason))


def _finish(transaction: Transaction) -> Transaction:
    if transaction.endings.keys() != transaction.branches.keys() or owed(transaction):
        return transaction
    final = Status.COMMITTED if transaction.status is Status.COMMITTING else Status.ABORTED
    return replace(transaction, status=final)


def _commits(transaction: Transaction) -> list[Action]:
    return [
        Commit(name)
        for name in transaction.branches
        if name not in transaction.endings and transaction.votes.get(name) is not Vote.NO
    ]


def _releases(transaction: Transaction) -> list[Action]:
    """Branches that did not commit, but whose messages stand in the outbox of what did."""
    return [
        Release(name)
        for name, branch in transaction.branches.items()
        if branch.backed
        and (
            transaction.endings.get(name) in _LOST
            or (name not in transaction.endings and transaction.votes.get(name) is Vote.NO)
        )
    ]


def _voters(transaction: Transaction) -> list[Branch]:
    return [branch for branch in transaction.branches.values() if branch.role is not Role.DECIDER]


def _ballot(transaction: Transaction) -> Tally:
    carrier = decider(transaction)
    if carrier is not None and transaction.votes.get(carrier.name) is Vote.NO:
        return Tally.LOST
    return tally(_voters(transaction), transaction.votes)


def _won(transaction: Transaction) -> bool:
    return _ballot(transaction) is Tally.WON


def _held(transaction: Transaction) -> bool:
    """Whether only an operator can say how this goes on."""
    refused = {name for name, ending in transaction.endings.items() if ending is not Ending.COMMITTED}
    parked = any(transaction.branches[name].on_no is OnNo.PARK for name in refused)
    unreadable = Ending.HAZARD in transaction.endings.values()
    return _ballot(transaction) is Tally.HELD or parked or unreadable


def _may_vote(transaction: Transaction, event: Voted) -> bool:
    """A branch votes once; a decider never says yes, but its commit may be refused."""
    branch = transaction.branches.get(event.branch)
    if branch is None or event.branch in transaction.votes:
        return False
    return branch.role is not Role.DECIDER or event.vote is Vote.NO


def _may_commit(transaction: Transaction) -> bool:
    if transaction.status is Status.PARKED:
        return True
    return transaction.status is Status.PREPARING and _won(transaction) and last_resource(transaction) is None


def _sole(transaction: Transaction, branch: Branch) -> bool:
    """Whether *branch* is a last resource with nothing beside it to be told the decision."""
    if branch.role is not Role.LAST:
        return False
    others = [vote for name, vote in transaction.votes.items() if name != branch.name]
    return all(vote is Vote.READ_ONLY for vote in others) and decider(transaction) is None
