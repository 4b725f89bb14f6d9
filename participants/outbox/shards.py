"""Which shards a relay delivers: each has one owner at a time, by a lease of the database's clock and a term.

Order per key holds across relays because a key lives in one shard, and a new owner starts only when the old one's lease
has expired; the old one stops sending some time before that, by its own clock.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from coordinator import limits
from coordinator.faults.points import boundary


@dataclass(slots=True, kw_only=True)
class Shards:
    """The shards of one relay."""

    relay: str
    sql: Mapping[str, str]
    lease_s: float
    terms: dict[int, int] = field(default_factory=dict)
    """The term of each shard that is ours."""
    leaving: list[int] = field(default_factory=list)
    """Shards that are ours until what is under way of them has arrived: nothing more of them is sent."""
    _until_s: float = 0.0

    @property
    def safe(self) -> bool:
        """Whether sends that begin now are certain to be over before anybody else may begin."""
        return asyncio.get_running_loop().time() < self._until_s

    @property
    def sendable(self) -> set[int]:
        """The shards whose rows may be sent."""
        return self.terms.keys() - self.leaving

    async def look_after(self, connection: Any) -> None:
        """Prolong what is ours, and take or give back shards until every relay has a fair share."""
        asked_s = asyncio.get_running_loop().time()
        relays = await connection.fetchval(self.sql["alive"], self.relay, self.lease_s)
        share = -(-limits.OUTBOX_SHARDS // relays)
        rows = await connection.fetch(self.sql["renew"], self.relay, self.lease_s)
        self.terms = {row["shard"]: row["term"] for row in rows}
        if len(self.terms) < share:
            arguments = (self.relay, self.lease_s, share - len(self.terms))
            claimed = await boundary("outbox.claim", lambda: connection.fetch(self.sql["claim"], *arguments))
            self.terms |= {row["shard"]: row["term"] for row in claimed}
        self._until_s = asked_s + self.lease_s / 2

    async def leave_surplus(self, connection: Any) -> None:
        """Begin to leave shards above our fair share: they can be given back once nothing of them is in flight."""
        relays = await connection.fetchval(self.sql["alive"], self.relay, self.lease_s)
        share = -(-limits.OUTBOX_SHARDS // relays)
        self.leaving = sorted(self.terms)[share:]

    async def give_back(self, connection: Any, shards: list[int]) -> None:
        """Let others have *shards*."""
        await connection.execute(self.sql["release"], self.relay, shards)
        for shard in shards:
            self.terms.pop(shard, None)
        self.leaving = []
