"""Where a coordinator remembers: the journal and what stands beside it, by URL."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from coordinator.errors import InvalidDefinition
from coordinator.journal.memory import (
    MemoryAlerts,
    MemoryJournal,
    MemoryOwners,
    MemoryTransactionalIds,
    MemoryWorld,
)
from coordinator.journal.memory_sagas import MemorySagas
from coordinator.journal.owners import PostgresAlerts, PostgresOwners, PostgresTransactionalIds
from coordinator.journal.postgres import PostgresJournal
from coordinator.journal.sagas import PostgresSagas
from coordinator.ports import Alerts, Owners, Participant, TransactionalIds
from coordinator.settings import Settings

_SHARED_MEMORY: dict[str, MemoryWorld] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """The journal, owners, ids and alerts of one coordinator."""

    journal: PostgresJournal | MemoryJournal
    owners: Owners
    ids: TransactionalIds
    alerts: Alerts
    sagas: PostgresSagas | MemorySagas
    identity: str
    prefix: str
    """What all ids of this application begin with."""

    def introduce(self, participant: Any) -> None:
        """Hand a participant what it needs of the stores before it is opened."""
        if hasattr(participant, "ids"):
            participant.ids = self.ids
        if hasattr(participant, "prefix"):
            participant.prefix = self.prefix
        if hasattr(participant, "world") and isinstance(self.journal, MemoryJournal):
            participant.world = self.journal.world

    def watch(self, *, flushed: Callable[[str, int], None], raised: Callable[[str], None]) -> None:
        """Tell *flushed* of every write of the journal that records shared, and *raised* of every alert."""
        if isinstance(self.journal, PostgresJournal):
            self.journal.watch(flushed)
        if isinstance(self.alerts, PostgresAlerts):
            self.alerts.raised = raised

    async def lives_with(self, participant: Participant) -> bool:
        """Whether *participant* is the very database that holds the journal."""
        identity = getattr(participant, "identity", None)
        return identity is not None and await identity() == self.identity


@asynccontextmanager
async def open_stores(url: str, settings: Settings) -> AsyncIterator[Stores]:
    """Open the journal at *url*. Raises `InvalidDefinition` for a URL of another kind."""
    journal: PostgresJournal | MemoryJournal
    sagas: PostgresSagas | MemorySagas
    if url.startswith(("postgresql://", "postgres://")):
        journal = PostgresJournal(url)
        sagas = PostgresSagas(journal, url)
    elif url.startswith("memory://"):
        journal = MemoryJournal(_SHARED_MEMORY.setdefault(url, MemoryWorld()))
        sagas = MemorySagas(journal)
    else:
        raise InvalidDefinition(f"the journal is a postgresql:// or memory:// URL, not {url.partition(':')[0]!r}:…")
    await journal.open()
    try:
        await sagas.open()
        owners, ids, alerts = _beside(journal, prefix := settings.prefix or await journal.prefix(), settings.lease_s)
        identity = await journal.identity()
        yield Stores(
            journal=journal, owners=owners, ids=ids, alerts=alerts, sagas=sagas, identity=identity, prefix=prefix
        )
    finally:
        await asyncio.gather(sagas.close(), journal.close())


def _beside(
    journal: PostgresJournal | MemoryJournal, prefix: str, lease_s: float
) -> tuple[Owners, TransactionalIds, Alerts]:
    owner = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}"
    if isinstance(journal, PostgresJournal):
        return (
            PostgresOwners(journal, owner_id=owner, lease_s=lease_s),
            PostgresTransactionalIds(journal, prefix=prefix),
            PostgresAlerts(journal),
        )
    return (
        MemoryOwners(journal, owner_id=owner, lease_s=lease_s),
        MemoryTransactionalIds(journal, prefix=prefix),
        MemoryAlerts(journal.world),
    )
