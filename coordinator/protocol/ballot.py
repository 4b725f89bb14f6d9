"""Counting votes: a pure question with four answers.

Pending until it cannot change any more; lost as soon as one branch that all depend on said no; won when every branch
said yes, had nothing to do, or may be delivered later; held when all have answered and one NO is an operator's to
judge. (The shape is etcd's quorum; the rule is unanimity, Gray and Lamport 2006, section 3.)
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum

from coordinator.protocol.model import Branch, BranchName, OnNo, Vote


class Tally(StrEnum):
    """What the votes so far amount to."""

    PENDING = "pending"
    WON = "won"
    LOST = "lost"
    HELD = "held"


def tally(branches: Iterable[Branch], votes: Mapping[BranchName, Vote]) -> Tally:
    """What *votes* amount to among *branches*; a branch missing from *votes* has not answered."""
    pending = held = False
    for branch in branches:
        vote = votes.get(branch.name)
        if vote is None:
            pending = True
        elif vote is Vote.NO:
            if branch.on_no is OnNo.ABORT:
                return Tally.LOST
            held = held or branch.on_no is OnNo.PARK
    if pending:
        return Tally.PENDING
    return Tally.HELD if held else Tally.WON
