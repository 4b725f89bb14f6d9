"""Slots for prepared transactions: fewer transactions begin at once than the server can hold prepared.

Without a free slot `PREPARE TRANSACTION` fails, and then every vote flips to NO at once. So a transaction waits for its
slot before it does any work. Other processes' slots are not counted here: size `max_prepared_transactions` for all.
"""

from collections.abc import Container

from coordinator.protocol.model import BranchName, Gid
from participants.postgres.room import Room

_SHARE = 0.8


class Slots:
    """A bound on how many transactions of this process are, or may become, prepared in one database."""

    def __init__(self, name: BranchName, server_has: int) -> None:
        size = max(1, int(server_has * _SHARE)) if server_has else 0
        full = f"all {size} slots for prepared transactions are taken: raise max_prepared_transactions, or slow down"
        self._room = Room(name, size, full)
        self._held: dict[Gid, bool] = {}
        """Transactions that hold a slot, and whether they are prepared already."""

    def crowded(self) -> str | None:
        """Why nobody else should come; None while few wait."""
        return self._room.crowded()

    async def take(self, gid: Gid) -> None:
        """Wait for a slot. Raises `Overloaded` when none is free in time."""
        await self._room.enter()
        self._held[gid] = False

    def prepared(self, gid: Gid) -> None:
        """It has (or may have) become prepared: its slot is free again when it is finished, by whoever it is."""
        if gid in self._held:
            self._held[gid] = True

    def leave(self, gid: Gid) -> None:
        """The transaction needs no slot any more. Idempotent."""
        if self._held.pop(gid, None) is not None:
            self._room.leave()

    def prepared_now(self) -> list[Gid]:
        """Transactions of ours that the server should list as prepared."""
        return [gid for gid, prepared in self._held.items() if prepared]

    def leave_finished(self, believed: list[Gid], listed: Container[Gid]) -> None:
        """Of those *believed* to be prepared before a look, those it did not find were finished by another process."""
        for gid in believed:
            if gid not in listed:
                self.leave(gid)
