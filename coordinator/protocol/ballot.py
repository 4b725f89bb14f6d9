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
    answers = [(branch, votes.get(branch.name)) for branch in branches]
    refusals = {branch.on_no for branch, vote in answers if vote is Vote.NO}
    if OnNo.ABORT in refusals:
        return Tally.LOST
    if any(vote is None for _, vote in answers):
        return Tally.PENDING
    return Tally.HELD if OnNo.PARK in refusals else Tally.WON
