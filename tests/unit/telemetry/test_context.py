"""A place in a trace, in headers and beside records."""

import json
from dataclasses import replace

from opentelemetry import baggage, trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider

from coordinator.journal.rows import branches_json
from coordinator.outbox_rows import headers_json
from coordinator.ports import Message, Record, Standing
from coordinator.protocol.model import Branch, BranchName, Gid, Recipe, Role
from coordinator.telemetry.context import context_in, headers_of_row, links_to, traceparent, with_context

PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def place(headers):
    return trace.get_current_span(context_in(headers)).get_span_context()


def test_the_state_that_vendors_keep_goes_along_and_baggage_does_not():
    """Who called may have put anything into its baggage: nobody at the other end of a topic is meant by it."""
    caller = context_in([("traceparent", PARENT), ("tracestate", b"vendor=1")])
    span = TracerProvider().get_tracer("t").start_span("s", baggage.set_baggage("user", "secret", caller))
    headers = with_context((("theirs", b"x"),), trace.set_span_in_context(span, baggage.set_baggage("user", "secret")))
    assert [name for name, _ in headers] == ["theirs", "traceparent", "tracestate"]
    assert dict(headers)["tracestate"] == b"vendor=1"
    assert place(headers).trace_id == int("0af7651916cd43dd8448eb211c80319c", 16)


def test_one_place_and_not_two():
    """Readers differ in which of two headers they take."""
    span = TracerProvider().get_tracer("t").start_span("s")
    headers = with_context((("traceparent", PARENT), ("tracestate", b"old=1")), trace.set_span_in_context(span))
    assert [name for name, _ in headers] == ["traceparent"]
    assert place(headers).span_id == span.get_span_context().span_id


def test_what_is_no_place_is_none():
    """Anything may stand in a header."""
    assert context_in([]) is None
    assert context_in([("traceparent", b"theirs")]) is None
    assert context_in([("traceparent", b"\xff\x00")]) is None
    assert links_to("") == []
    assert traceparent(Context()) == ""


def test_it_survives_the_outbox():
    """The row's headers are JSON, whose values are in base 64."""
    message = Message(
        id="1",
        participant=BranchName("events"),
        topic="t",
        value=None,
        headers=(("a", b"\xff"), ("traceparent", PARENT)),
    )
    assert place(headers_of_row(headers_json(message))).span_id == int("b7ad6b7169203331", 16)


def test_the_journal_keeps_it_with_the_first_branch_and_keeps_nothing_where_there_is_none():
    """So it costs nobody a byte who does not trace."""
    names = [BranchName("db"), BranchName("events")]
    record = Record(
        gid=Gid("g"),
        name="t",
        recipe=Recipe.TWO_PHASE,
        standing=Standing.COMMIT,
        branches={name: Branch(name=name, role=Role.PREPARED) for name in names},
    )
    told = json.loads(branches_json(replace(record, traceparent=PARENT.decode())))
    assert [branch.get("traceparent") for branch in told] == [PARENT.decode(), None]
    assert "traceparent" not in branches_json(record)
