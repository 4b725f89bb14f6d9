"""Sagas that were lost with several processes in a row: each perhaps killed them, and perhaps was only there.

They are tried one after the other, so that one that kills its process takes no other suspect with it.
"""

from dataclasses import dataclass

from coordinator import limits
from coordinator.engine.saga_run import SagaRun
from coordinator.ports import Clock


@dataclass(slots=True)
class Suspects:
    """The suspect that was last tried here."""

    _tried: SagaRun | None = None
    _position: int = 0
    _until_s: float = 0.0

    def are_cleared(self, now_s: float) -> bool:
        """Whether another one may be tried: something has come of the last one, or it has killed nobody for so long."""
        return self._tried is None or self._tried.position > self._position or now_s > self._until_s

    async def judge(self, run: SagaRun | None, clock: Clock) -> None:
        """Try *run*, which has just begun to be driven (None: it ended at once), and give it a moment to be cleared."""
        began_s = clock.monotonic_s()
        self._tried, self._until_s = run, began_s + limits.SAGA_SUSPECT_S
        self._position = 0 if run is None else run.position
        while not self.are_cleared(now_s := clock.monotonic_s()) and now_s < began_s + limits.SAGA_LOOK_S:
            await clock.sleep(limits.DRAIN_LOOK_S / 4)
