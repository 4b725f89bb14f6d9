"""The alerts about sagas: of one that waits for an operator, and of one that the code which is here cannot go on with.

The first is open for as long as the saga waits, and no longer. It is raised before the saga is let go, and closed after
what lets it go on is durable. A process that dies in between leaves an alert too many, never one too few; and whoever
takes the saga up does again what its predecessor may not have.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from coordinator.alerts import AlertKind
from coordinator.engine.saga_run import SagaRun
from coordinator.engine.saga_signals import word
from coordinator.errors import InvalidDefinition
from coordinator.ports import Alerts, Lease
from coordinator.protocol.model import Gid
from coordinator.sagas.log import Loaded, Signal


@dataclass(slots=True, kw_only=True)
class Parking:
    """Raises and closes them, under the lease that the saga was taken up under: not once another process has it."""

    alerts: Alerts

    async def begins(self, run: SagaRun) -> None:
        """It waits: one alert is open, whether or not there was one before."""
        detail = f"{run.saga.name}: {run.state.reason}"
        await self.alerts.raise_alert(Gid(run.gid), AlertKind.PARKED_SAGA, detail, under=run.lease)

    async def cannot_go_on(self, loaded: Loaded, failure: Exception, *, under: Lease) -> None:
        """It is left as it stands. A person closes this alert: other code may go on with the saga, and this never."""
        detail = str(failure) if isinstance(failure, InvalidDefinition) else f"{loaded.definition}: {failure!r}"
        await self.alerts.raise_alert(Gid(loaded.gid), AlertKind.UNREADABLE_SAGA, detail, under=under)

    async def ends(self, run: SagaRun, sent: Sequence[Signal]) -> None:
        """It goes on because of the word that let it out; *sent* has it. Who said it and why is kept with the alert."""
        said = next(word(signal) for signal in sent if signal.id == run.freed)
        assert said is not None, "what lets a saga go on was understood"
        reason = said.why or "no reason was given"
        gid = Gid(run.gid)
        await self.alerts.resolve_alert(gid, AlertKind.PARKED_SAGA, by=said.by, reason=reason, under=run.lease)
