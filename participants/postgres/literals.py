"""The one place that renders SQL from an id: `PREPARE TRANSACTION` and its kin take literals, never parameters.

An id gets here only through `prepared_id`, which accepts nothing but what we make ourselves.
(PostgreSQL documentation, "PREPARE TRANSACTION": the identifier is a string literal of less than 200 bytes.)
"""

import re
from typing import NewType

from coordinator.errors import InvalidDefinition
from coordinator.gids import valid_branch, valid_gid
from coordinator.protocol.model import BranchName, Gid

PreparedId = NewType("PreparedId", str)
_PREPARED = re.compile(r"^([a-z0-9]{4,12}:[0-9A-HJKMNP-TV-Z]{26}):([a-z0-9_-]{1,32})\Z")


def prepared_id(gid: str, branch: str) -> PreparedId:
    """The prepared transaction's id of a branch. Raises `InvalidDefinition` for anything that is not ours."""
    return PreparedId(f"{valid_gid(gid)}:{valid_branch(branch)}")


def parse(text: str) -> tuple[Gid, BranchName] | None:
    """The gid and branch of a prepared transaction's id; None where it is not one of ours."""
    match = _PREPARED.match(text)
    return (Gid(match[1]), BranchName(match[2])) if match else None


def begin_transaction(gid: str) -> str:
    """`BEGIN`, with the gid as a setting that lasts as long as the transaction: it tells whether it is still the same.

    (The block's own statements and triggers may read it: `current_setting('unanimity.gid', true)`.)
    """
    return f"BEGIN; SET LOCAL unanimity.gid = '{valid_gid(gid)}'"


def _rendered(command: str, identifier: PreparedId) -> str:
    if _PREPARED.match(identifier) is None:
        raise InvalidDefinition(f"{identifier!r} is no id of a prepared transaction of ours")
    return f"{command} '{identifier}'"


def prepare_transaction(identifier: PreparedId) -> str:
    """`PREPARE TRANSACTION`, which ends the session's transaction and keeps it in doubt."""
    return _rendered("PREPARE TRANSACTION", identifier)


def commit_prepared(identifier: PreparedId) -> str:
    """`COMMIT PREPARED`, outside of a transaction, in the same database, by the same role."""
    return _rendered("COMMIT PREPARED", identifier)


def rollback_prepared(identifier: PreparedId) -> str:
    """`ROLLBACK PREPARED`, under the same conditions."""
    return _rendered("ROLLBACK PREPARED", identifier)
