"""One transaction as telemetry follows it in this process: its span, the spans below it, and how it ended."""

from collections.abc import Awaitable
from dataclasses import replace

from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer

from coordinator.protocol.actions import Action, name_of, participant_of
from coordinator.protocol.events import Decided, Event, Settled, Voted
from coordinator.protocol.model import BranchName, Ending, Status, Transaction
from coordinator.records import Message
from coordinator.telemetry import names
from coordinator.telemetry.context import traceparent, with_context
from coordinator.telemetry.measures import Measures


class Following:
    """What is told about one transaction. Made by `Telemetry` where somebody listens, and only there."""

    def __init__(
        self, *, span: Span, tracer: Tracer, measures: Measures | None, recipe: str, policy: str, begun_s: float
    ) -> None:
        self.context = trace.set_span_in_context(span, Context())
        self.traceparent = traceparent(self.context)
        self._span, self._tracer, self._measures = span, tracer, measures
        self._recipe, self._policy, self._begun_s = recipe, policy, begun_s
        self._recording = span.is_recording()
        self._over = False

    def published(self, message: Message) -> Message:
        """*message* with its place in the trace in its headers."""
        if not self.traceparent:
            return message
        context = self.context
        if self._recording:
            attributes = {
                names.TOPIC.name: message.topic,
                names.MESSAGE_ID.name: message.id,
                names.PARTICIPANT.name: message.participant,
            }
            name = names.PUBLISHING.name.format(topic=message.topic)
            span = self._tracer.start_span(name, context, SpanKind.PRODUCER, attributes)
            span.end()
            context = trace.set_span_in_context(span, context)
        return replace(message, headers=with_context(message.headers, context))

    def performing(self, action: Action, done: Awaitable[Event]) -> Awaitable[Event]:
        """*done*, inside a span where spans are recorded."""
        return self._told(action, done) if self._recording else done

    async def _told(self, action: Action, done: Awaitable[Event]) -> Event:
        what, participant = name_of(action), participant_of(action)
        attributes = {names.ACTION.name: what}
        if participant is not None:
            attributes[names.PARTICIPANT.name] = participant
        name = names.PERFORMING.name.format(action=what, participant=participant or "").strip()
        span = self._tracer.start_span(name, self.context, SpanKind.INTERNAL, attributes)
        token = attach(trace.set_span_in_context(span))
        try:
            event = await done
            _tell(span, event)
        except BaseException as failure:
            failed(span, failure)
            raise
        else:
            return event
        finally:
            detach(token)
            span.end()

    def retried(self, action: str, participant: BranchName | None) -> None:
        """*action* is asked for again."""
        if self._measures is not None:
            self._measures.count(names.RETRIES, {names.PARTICIPANT: participant or "(journal)", names.ACTION: action})

    def ended(self, transaction: Transaction, now_s: float, failure: BaseException | None) -> None:
        """This process drives it no longer. Once: later words about it change nothing."""
        if self._over:
            return
        self._over = True
        outcome = outcome_label(transaction)
        if self._measures is not None:
            labels = {names.OUTCOME: outcome, names.POLICY: self._policy, names.RECIPE: self._recipe}
            self._measures.count(names.OUTCOMES, labels)
            self._measures.record(names.DURATION, now_s - self._begun_s, labels)
        if self._recording:
            self._span.set_attribute(names.OUTCOME.name, outcome)
            if failure is not None and outcome not in ("committed", "deferred"):
                failed(self._span, failure)
        self._span.end()


def outcome_label(transaction: Transaction) -> str:
    """How it ended, in one of a few words."""
    if transaction.heuristic:
        return "heuristic"
    match transaction.status:
        case Status.COMMITTED:
            return "deferred" if Ending.DEFERRED in transaction.endings.values() else "committed"
        case Status.ABORTED:
            return "aborted"
        case Status.PARKED:
            return "parked"
        case _:
            return "unfinished"


def failed(span: Span, failure: BaseException) -> None:
    """*span* ended by *failure*: its class is told. Its text is not, since a server's error may quote rows."""
    span.set_attribute(names.ERROR.name, type(failure).__qualname__)
    span.set_status(StatusCode.ERROR)


def _tell(span: Span, event: Event) -> None:
    match event:
        case Voted():
            span.set_attribute(names.VOTE.name, event.vote)
        case Settled():
            span.set_attribute(names.ENDING.name, event.ending)
        case Decided():
            span.set_attribute(names.OUTCOME.name, event.outcome)
        case _:
            return
