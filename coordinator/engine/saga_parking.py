"""The alerts about sagas: of one that waits for an operator, and of one that the code which is here cannot go on with.

The first is open for as long as the saga waits, and no longer. It is raised before the saga is let go (again, where a
predecessor may not have), and the log closes it in the same commit as what lets the saga go on.
"""

from dataclasses import dataclass

from coordinator.alerts import AlertKind
from coordinator.engine.saga_run import SagaRun
from coordinator.engine.saga_signals import word
from coordinator.errors import InvalidDefinition
from coordinator.ports import Alerts, Lease
from coordinator.protocol.model import Gid
from coordinator.sagas.log import Freed, Loaded


@dataclass(slots=True, kw_only=True)
class Parking:
    """Raises them, under the lease that the saga was taken up under: not once another process has it."""

    alerts: Alerts

    async def begins(self, run: SagaRun) -> None:
        """It waits: one alert is open, whether or not there was one before."""
        detail = f"{run.saga.name}: {run.state.reason}"
        await self.alerts.raise_alert(Gid(run.gid), AlertKind.PARKED_SAGA, detail, under=run.lease)

    async def cannot_go_on(self, loaded: Loaded, failure: Exception, *, under: Lease) -> None:
        """It is left as it stands. A person closes this alert: other code may go on with the saga, and this never."""
        detail = str(failure) if isinstance(failure, InvalidDefinition) else f"{loaded.definition}: {failure!r}"
        await self.alerts.raise_alert(Gid(loaded.gid), AlertKind.UNREADABLE_SAGA, detail, under=under)


def freed(run: SagaRun, signal: int | None) -> Freed:
    """Who said the word that lets a parked saga go on, and why: the alert keeps both. *signal* is the word's id."""
    said = next(word(each) for each in run.signals if each.id == signal)
    assert said is not None, "what lets a saga go on was understood"
    return Freed(said.by, said.why or "no reason was given")
