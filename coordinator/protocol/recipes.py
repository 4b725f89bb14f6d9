"""Which recipe makes a transaction's participants one: a pure choice from what they can do, and what was asked for.

    one database that also holds the journal             commit record
    several databases, or a journal elsewhere
        and every publisher can be truly prepared        two-phase
        and one publisher that cannot                    last resource

The user may name another; what cannot keep the promise is refused here, with what would make it possible.
"""

from collections.abc import Mapping

from coordinator.errors import InvalidDefinition
from coordinator.protocol.model import BranchName, OnNo, Recipe, Role


def choose(
    *, databases: Mapping[BranchName, bool], publishers: Mapping[BranchName, bool], asked: Recipe | None, on_no: OnNo
) -> Recipe:
    """The recipe for transactions among these participants.

    *databases* says for each whether it holds the journal; *publishers* says for each whether it can be truly prepared.
    Raises `InvalidDefinition` where *asked* cannot keep the promise.
    """
    one_with_journal = any(databases.values())
    if asked is None:
        asked = _default(databases, publishers, on_no)
    match asked:
        case Recipe.COMMIT_RECORD | Recipe.OUTBOX if not one_with_journal and databases:
            raise InvalidDefinition(
                f"{asked} needs the journal in the same database as the business rows; point `journal` at it, "
                "or let the transaction be two-phase or last-resource"
            )
        case Recipe.COMMIT_RECORD | Recipe.OUTBOX if on_no is OnNo.PARK:
            raise InvalidDefinition(f"{asked} never holds anything prepared, so it cannot park; use last-resource")
        case Recipe.TWO_PHASE if not all(publishers.values()):
            missing = ", ".join(sorted(name for name, prepares in publishers.items() if not prepares))
            raise InvalidDefinition(
                f"two-phase needs brokers that prepare (KIP-939), and {missing} does not: set "
                "transaction.two.phase.commit.enable on the broker, or use last-resource"
            )
    return asked


def _default(databases: Mapping[BranchName, bool], publishers: Mapping[BranchName, bool], on_no: OnNo) -> Recipe:
    alone = len(databases) == 1 and all(databases.values())
    if (alone or not databases) and on_no is not OnNo.PARK:
        return Recipe.COMMIT_RECORD
    return Recipe.TWO_PHASE if all(publishers.values()) else Recipe.LAST_RESOURCE


def database_role(recipe: Recipe) -> Role:
    """What a database's branch promises under *recipe*."""
    return Role.DECIDER if recipe in (Recipe.COMMIT_RECORD, Recipe.OUTBOX) else Role.PREPARED


def publisher_role(recipe: Recipe, *, with_database: bool) -> Role:
    """What a publisher's branch promises under *recipe*.

    Without a database beside it nothing waits for it, so what it did may always be the decision.
    """
    if not with_database and recipe is not Recipe.TWO_PHASE:
        return Role.LAST
    return Role.LAST if recipe is Recipe.LAST_RESOURCE else Role.PREPARED
