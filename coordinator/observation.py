"""What gauges show: looked at now and then on the event loop, since an exporter's thread may not look for itself."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from coordinator.engine.performer import UNKNOWN
from coordinator.engine.service import TransactionEngine
from coordinator.errors import CoordinatorError
from coordinator.journal.memory import MemoryJournal
from coordinator.journal.postgres import PostgresJournal
from coordinator.ports import HasPools
from coordinator.relays import RelaySet
from coordinator.telemetry import names
from coordinator.telemetry.measures import Look, Measures

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Observation:
    """One look at everything that has a gauge, to be repeated."""

    measures: Measures
    engine: TransactionEngine
    journal: PostgresJournal | MemoryJournal
    relays: RelaySet

    async def once(self) -> None:
        """Look, and let the gauges show it."""
        lag, unfinished = await self.relays.lag(), await self._unfinished()
        self.measures.seen(
            self, [*self._engine(), *unfinished, *self._in_doubt(), *self._pools(), *self._calls(), *_outboxes(lag)]
        )

    def end(self) -> None:
        """There is nothing to look at any more."""
        self.measures.gone(self)

    async def _unfinished(self) -> Sequence[Look]:
        looks: list[Look] = []
        try:
            for standing, (records, oldest_s) in (await self.journal.unfinished()).items():
                looks += [(names.UNFINISHED, records, {names.STANDING: standing})]
                looks += [(names.UNFINISHED_AGE, oldest_s, {names.STANDING: standing})]
        except (CoordinatorError, *UNKNOWN) as failure:
            logger.warning("the journal cannot be looked at: %r", failure)  # The other gauges are wanted most then.
        return looks

    def _engine(self) -> Iterator[Look]:
        engine, watchdog = self.engine, self.engine.ownership.watchdog
        yield names.OPEN, len(engine.admission.open) + len(engine.driver.driving), {}
        for reason, refused in engine.admission.refused.items():
            yield names.REFUSALS, refused, {names.REASON: reason}
        yield names.STANDSTILLS, watchdog.stalls, {}
        yield names.LOOP_LAG, watchdog.lag_s, {}

    def _in_doubt(self) -> Iterator[Look]:
        for name, (branches, oldest_s) in self.engine.recovery.sweep.in_doubt.items():
            yield names.IN_DOUBT, branches, {names.PARTICIPANT: name}
            yield names.IN_DOUBT_AGE, oldest_s, {names.PARTICIPANT: name}

    def _pools(self) -> Iterator[Look]:
        for name, registered in self.engine.participants.items():
            if not isinstance(registered.participant, HasPools):
                continue
            for kind, pool in registered.participant.pools().items():
                labels = {names.PARTICIPANT: name, names.POOL: kind}
                yield names.POOL_SIZE, pool.size, labels
                yield names.POOL_RESTING, pool.resting, labels
                if pool.resting:
                    yield names.POOL_REST, pool.rest_s, labels

    def _calls(self) -> Iterator[Look]:
        performer = self.engine.driver.performer
        for name in self.engine.participants:
            labels = {names.PARTICIPANT: name}
            yield names.BREAKER_OPEN, int(performer.breakers.is_open(name)), labels
            yield names.RETRIES_REFUSED, performer.budgets.refused[name], labels


def _outboxes(lag: Mapping[str, Mapping[str, float]]) -> Iterator[Look]:
    for name, found in lag.items():
        for state in ("waiting", "ready", "dead"):
            yield names.OUTBOX_ROWS, found.get(state, 0), {names.PARTICIPANT: name, names.STATE: state}
        yield names.OUTBOX_AGE, found.get("age_s", 0.0), {names.PARTICIPANT: name}
