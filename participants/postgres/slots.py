"""Slots for prepared transactions: fewer transactions begin at once than the server can hold prepared.

Without a free slot `PREPARE TRANSACTION` fails, and then every vote flips to NO at once. So a transaction waits for its
slot before it does any work. Other processes' slots are not counted here: size `max_prepared_transactions` for all.
"""

import asyncio
from collections.abc import Container

from coordinator import limits
from coordinator.errors import Overloaded
from coordinator.protocol.model import BranchName, Gid

_SHARE = 0.8


class Slots:
    """A bound on how many transactions of this process are, or may become, prepared in one database."""

    def __init__(self, name: BranchName, server_has: int) -> None:
        self._name = name
        self._free = asyncio.Semaphore(max(1, int(server_has * _SHARE)) if server_has else 0)
        self._held: dict[Gid, bool] = {}
        """Transactions that hold a slot, and whether they are prepared already."""

    async def take(self, gid: Gid) -> None:
        """Wait for a slot. Raises `Overloaded` when none is free in time."""
        try:
            async with asyncio.timeout(limits.PARTICIPANT_CALL_S):
                await self._free.acquire()
        except TimeoutError as error:
            raise Overloaded(
                f"{self._name} has no slot for another prepared transaction: raise max_prepared_transactions",
                participant=self._name,
            ) from error
        self._held[gid] = False

    def prepared(self, gid: Gid) -> None:
        """It has (or may have) become prepared: its slot is free again when it is finished, by whoever it is."""
        if gid in self._held:
            self._held[gid] = True

    def leave(self, gid: Gid) -> None:
        """The transaction needs no slot any more. Idempotent."""
        if self._held.pop(gid, None) is not None:
            self._free.release()

    def prepared_now(self) -> list[Gid]:
        """Transactions of ours that the server should list as prepared."""
        return [gid for gid, prepared in self._held.items() if prepared]

    def leave_finished(self, believed: list[Gid], listed: Container[Gid]) -> None:
        """Of those *believed* to be prepared before a look, those it did not find were finished by another process."""
        for gid in believed:
            if gid not in listed:
                self.leave(gid)
