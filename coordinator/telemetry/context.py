"""Where in a trace something is, in headers and beside records: W3C trace context, and nothing else.

Baggage is not passed on: it is the caller's, and what is in it is nobody's business at the other end of a topic.
"""

import base64
import json
from collections.abc import Iterable
from typing import TypeAlias

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

Headers: TypeAlias = "Iterable[tuple[str, bytes]]"
_W3C = TraceContextTextMapPropagator()
FIELDS = frozenset(_W3C.fields)


def with_context(headers: tuple[tuple[str, bytes], ...], context: Context) -> tuple[tuple[str, bytes], ...]:
    """*headers* with the place that *context* is; another place that they named is replaced by it."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier, context)
    others = tuple(header for header in headers if header[0] not in FIELDS)
    return (*others, *((name, value.encode()) for name, value in carrier.items()))


def current_headers() -> dict[str, str]:
    """The place where this is called, as headers; none where there is none."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier)
    return carrier


def context_in(headers: Headers) -> Context | None:
    """The place that *headers* name; None where they name none."""
    carrier = {name: value.decode("ascii", "replace") for name, value in headers if name in FIELDS and value}
    context = _W3C.extract(carrier, Context())
    return context if trace.get_current_span(context).get_span_context().is_valid else None


def headers_of_row(headers: str) -> Headers:
    """The headers in an outbox row's JSON."""
    return [(name, base64.b64decode(value)) for name, value in json.loads(headers) if name in FIELDS]


def traceparent(context: Context) -> str:
    """The place as one line, as the journal keeps it."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier, context)
    return carrier.get("traceparent", "")


def links_to(recorded: str) -> list[Link]:
    """A link to the recorded place, if it is one."""
    context = context_in([("traceparent", recorded.encode())])
    return [] if context is None else [Link(trace.get_current_span(context).get_span_context())]
