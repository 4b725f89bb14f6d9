"""What the composition root hands in where an SDK listens. Where none does, there is None, and None is the check.

configured()  ─►  None: nobody listens, and every hook is one comparison
              ─►  Telemetry: spans, metrics, or both
"""

import asyncio
import contextlib
from collections.abc import Iterator
from functools import cache
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import NoOpTracer, SpanKind, Tracer, TracerProvider

from coordinator.protocol.model import Transaction
from coordinator.records import OutboxRow
from coordinator.telemetry import names
from coordinator.telemetry.context import Headers, context_in, headers_of_row, links_to
from coordinator.telemetry.following import Following, failed
from coordinator.telemetry.measures import Measures


class Telemetry:
    """Where this process' spans and metrics go. Either may be missing."""

    def __init__(self, tracer: Tracer | None, measures: Measures | None) -> None:
        self.traces = tracer is not None
        self.measures = measures
        self._tracer = tracer or NoOpTracer()

    # ── transactions ──

    def begun(self, transaction: Transaction, *, policy: str, now_s: float) -> Following:
        """Follow a new transaction, below the caller's span."""
        name = names.TRANSACTION.name.format(name=transaction.name)
        return self._follow(name, transaction, policy, now_s)

    def resumed(self, transaction: Transaction, *, recorded: str, now_s: float) -> Following:
        """Follow a transaction that was begun elsewhere, whose first place in a trace was *recorded*."""
        name = names.RECOVERY.name.format(name=transaction.name)
        return self._follow(name, transaction, "recovered", now_s, recorded)

    def _follow(
        self, name: str, transaction: Transaction, policy: str, now_s: float, recorded: str | None = None
    ) -> Following:
        attributes = {
            names.GID.name: transaction.gid,
            names.TRANSACTION_NAME.name: transaction.name,
            names.RECIPE.name: transaction.recipe,
            names.POLICY.name: policy,
        }
        if recorded is None:
            span = self._tracer.start_span(name, attributes=attributes)
        else:
            # A trace of its own: the loop that recovers may have been started inside any span.
            span = self._tracer.start_span(name, Context(), attributes=attributes, links=links_to(recorded))
        return Following(
            span=span,
            tracer=self._tracer,
            measures=self.measures,
            recipe=transaction.recipe,
            policy=policy,
            begun_s=now_s,
        )

    # ── messages ──

    def delivering(self, row: OutboxRow, acknowledged: "asyncio.Future[Any]") -> None:
        """The relay has sent *row*: a span until it is *acknowledged*, below the one that published it."""
        context = context_in(headers_of_row(row["headers"])) if self.traces else None
        if context is None:
            return
        attributes = {
            names.TOPIC.name: row["topic"],
            names.MESSAGE_ID.name: row["message_id"],
            names.PARTICIPANT.name: row["participant"],
        }
        name = names.DELIVERING.name.format(topic=row["topic"])
        span = self._tracer.start_span(name, context, SpanKind.PRODUCER, attributes)

        def landed(future: "asyncio.Future[Any]") -> None:
            failure = asyncio.CancelledError() if future.cancelled() else future.exception()
            if failure is not None:
                failed(span, failure)
            span.end()

        acknowledged.add_done_callback(landed)

    @contextlib.contextmanager
    def handling(self, consumer: str, topic: str, identifier: str, headers: Headers) -> Iterator[None]:
        """A span around the handling of a message, below the one that published it; current inside of the block."""
        attributes = {names.TOPIC.name: topic, names.MESSAGE_ID.name: identifier, names.CONSUMER.name: consumer}
        name = names.HANDLING.name.format(topic=topic)
        with self._tracer.start_as_current_span(
            name,
            context_in(headers),
            SpanKind.CONSUMER,
            attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except BaseException as failure:
                failed(span, failure)
                raise

    # ── figures ──

    def flushed(self, queue: str, size: int) -> None:
        """The journal wrote *size* records of *queue* at once."""
        if self.measures is not None:
            self.measures.record(names.JOURNAL_BATCH, size, {names.QUEUE: queue})

    def alerted(self, kind: str) -> None:
        """An alert was raised, by this process first."""
        if self.measures is not None:
            self.measures.count(names.ALERTS, {names.ALERT: kind})

    async def replaced(self) -> None:
        """This process was replaced as an owner."""
        if self.measures is not None:
            self.measures.count(names.OWNER_LOSSES, {})


def configured(
    tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
) -> Telemetry | None:
    """Telemetry on these providers, by default the process' own; None where neither of them does anything."""
    traces, measures = tracer_provider or trace.get_tracer_provider(), meter_provider or metrics.get_meter_provider()
    tracer = traces.get_tracer(names.SCOPE) if _does_something(traces) else None
    instruments = _measures_of(measures) if _does_something(measures) else None
    return None if tracer is None and instruments is None else Telemetry(tracer, instruments)


@cache
def _measures_of(provider: MeterProvider) -> Measures:
    """A provider has each instrument once, however many coordinators are started on it."""
    return Measures(provider.get_meter(names.SCOPE))


def _does_something(provider: TracerProvider | MeterProvider) -> bool:
    """Whether it came with an SDK: the API's own providers, until one is set, are only there to do nothing."""
    return not type(provider).__module__.startswith(("opentelemetry.trace", "opentelemetry.metrics"))
