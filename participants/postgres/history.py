"""Which history of which server a connection sees: what transaction ids belong to, and what a failover changes.

A promoted standby goes on under a new timeline. What its primary did after the standby last heard of it is not part of
that history, whoever was told so: commits are undone, prepared transactions are gone or stand again.
"""

from dataclasses import dataclass
from typing import Any

import asyncpg

from coordinator.errors import Unavailable
from coordinator.protocol.model import NO_EVIDENCE, Evidence

# The timeline of what is written now: `pg_control_checkpoint` says the old one until the first checkpoint.
_HISTORY = """
    SELECT
        (SELECT system_identifier::text FROM pg_control_system()) AS system,
        CASE WHEN pg_is_in_recovery() THEN 0
            ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END AS timeline
"""


@dataclass(frozen=True, slots=True)
class History:
    """One history of one server; empty where the role may not read it."""

    system: str = ""
    timeline: int = 0

    @property
    def known(self) -> bool:
        """Whether it names one."""
        return bool(self.system)

    @property
    def evidence(self) -> Evidence:
        """It, as part of the evidence of the branches that are prepared in it."""
        return {"system": self.system, "timeline": self.timeline} if self.known else NO_EVIDENCE


def history_in(evidence: Evidence) -> History:
    """The history that a branch was prepared in, as its *evidence* has it."""
    return History(system=str(evidence.get("system") or ""), timeline=int(evidence.get("timeline") or 0))


async def history_of(connection: Any) -> History:
    """The history that *connection*'s server follows now. Raises `Unavailable` where it is a standby: none yet."""
    try:
        row = await connection.fetchrow(_HISTORY)
    except asyncpg.InsufficientPrivilegeError:
        return History()
    if row["timeline"] == 0:
        raise Unavailable("the server is a standby: transactions begin on the primary")
    return History(system=row["system"], timeline=row["timeline"])
