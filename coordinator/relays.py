"""The relays of one process: one per database that has an outbox, delivering through every registered broker."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from coordinator.engine.run import Participants
from coordinator.errors import Unavailable
from coordinator.ports import Ability, Publisher
from coordinator.protocol.model import BranchName
from coordinator.telemetry import Telemetry

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class RelaySet:
    """Relays, started and stopped together. Broken ones heal by themselves."""

    relays: dict[BranchName, Any] = field(default_factory=dict)

    async def start(self) -> None:
        """Start all. A database that is away now is a reason not to start: its participant has just been opened."""
        for relay in self.relays.values():
            await relay.start()

    async def stop(self) -> None:
        """Stop all. Idempotent."""
        for relay in self.relays.values():
            await relay.stop()

    def wake(self, poll_every_s: float) -> None:
        """There is something to deliver."""
        for relay in self.relays.values():
            relay.poll_every_s = min(relay.poll_every_s, poll_every_s)
            relay.wake()

    async def lag(self) -> Mapping[str, Mapping[str, Any]]:
        """Each outbox's lag, by its database."""
        found: dict[str, Mapping[str, Any]] = {}
        for name, relay in self.relays.items():
            try:
                found[name] = await relay.lag()
            except (OSError, TimeoutError, Unavailable) as failure:
                logger.warning("the outbox of %s cannot be read: %r", name, failure)
        return found


def open_relays(participants: Participants, *, lease_s: float, telemetry: Telemetry | None = None) -> RelaySet:
    """A relay for every database with an outbox, if there is anything to deliver to."""
    from participants.memory.database import MemoryDatabase
    from participants.memory.relay import MemoryRelay
    from participants.outbox.relay import Relay
    from participants.postgres.participant import Postgres

    brokers = {str(name): r.participant for name, r in participants.items() if r.publishes}
    relays: dict[BranchName, Any] = {}
    for name, registered in participants.items():
        database = registered.participant
        if not brokers or Ability.HOLDS_OUTBOX not in registered.abilities:
            continue
        if isinstance(database, Postgres):
            publishers: dict[str, Publisher] = {
                broker: participant.publisher()
                for broker, participant in brokers.items()
                if hasattr(participant, "publisher")
            }
            relays[name] = Relay(
                database.url,
                publishers,
                lease_s=lease_s,
                connect_options=database.connect_options,
                telemetry=telemetry,
            )
        elif isinstance(database, MemoryDatabase):
            relays[name] = MemoryRelay(database, brokers)
    return RelaySet(relays)
