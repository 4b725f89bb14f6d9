"""Where nobody listens nothing is told: counted by the calls that are made, since a clock would only guess."""

import sys
from collections import Counter
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import opentelemetry.trace
import pytest
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NoOpTracerProvider, TraceFlags

import coordinator.telemetry
from coordinator import Coordinator
from coordinator.telemetry import configured
from participants import MemoryBroker, MemoryDatabase
from participants.inbox import Inbox
from tests.benchmarks.telemetry_cost import measured

TELLING = (str(Path(coordinator.telemetry.__file__).parent), str(Path(opentelemetry.trace.__file__).parent.parent))
numbers = count()


@contextmanager
def calls_counted():
    """Every call into telemetry, ours or OpenTelemetry's, by function."""
    calls = Counter()

    def called(frame, event, _):
        if event == "call" and frame.f_code.co_filename.startswith(TELLING):
            calls[frame.f_code.co_qualname] += 1

    sys.setprofile(called)
    try:
        yield calls
    finally:
        sys.setprofile(None)


async def run(telemetry=None, *, transactions=3, recipe=None):
    """Transactions on participants in memory: the calls into telemetry while they ran, and the messages' headers."""
    broker = MemoryBroker()
    participants = {"db": MemoryDatabase(), "events": broker}
    async with Coordinator(
        journal=f"memory://{next(numbers)}", participants=participants, telemetry=telemetry
    ) as running:
        with calls_counted() as calls:
            for number in range(transactions):
                async with running.transaction("t", recipe=recipe) as transaction:
                    (await transaction.enlist("db")).insert("t", number)
                    await transaction.publish("events", topic="t", value="x", headers={"theirs": "x"})
    assert len(broker.topics.messages) == transactions
    return calls, [message.headers for message in broker.topics.messages]


@pytest.mark.parametrize("recipe", ["commit-record", "last-resource"])
async def test_without_an_sdk_no_code_of_telemetry_runs_at_all(recipe):
    """No span, no context, no attribute, no header: nothing is called that could make one."""
    calls, headers = await run(recipe=recipe)
    assert calls == Counter()
    assert headers == [(("theirs", b"x"),)] * 3


def test_the_hooks_are_a_hundredth_of_the_engine_s_steps():
    """Bytecodes of the engine for one transaction, beside the same sources with the hooks cut out: exact, and small."""
    absent, disabled = measured("absent"), measured("disabled")
    assert absent["cut"] >= 10, "otherwise nothing was compared"
    assert 0 < disabled["steps"] - absent["steps"] <= 0.015 * absent["steps"]


async def test_with_an_sdk_the_same_count_is_not_zero():
    """Otherwise the test before this one would prove nothing."""
    calls, headers = await run(configured(TracerProvider(), MeterProvider()))
    assert calls["Following.__init__"] == 3
    assert calls["Following._told"] >= 3 * 3
    assert [name for name, _ in headers[0]] == ["theirs", "traceparent"]


async def test_a_trace_that_is_not_sampled_is_passed_on_and_nothing_below_it_is_told():
    """The consumer has to know that it is not sampled; spans of actions would be thrown away."""
    calls, headers = await run(configured(TracerProvider(sampler=ALWAYS_OFF), NoOpMeterProvider()))
    assert calls["Following._told"] == 0
    flags = [int(dict(of)["traceparent"].rpartition(b"-")[2], 16) for of in headers]
    assert [flag & TraceFlags.SAMPLED for flag in flags] == [0, 0, 0]


def test_providers_that_do_nothing_are_nobody_who_listens():
    """The API's own, whether they were never set or set to do nothing."""
    assert configured() is None
    assert configured(NoOpTracerProvider(), NoOpMeterProvider()) is None
    assert configured(TracerProvider(), NoOpMeterProvider()).measures is None
    assert not configured(NoOpTracerProvider(), MeterProvider()).traces


def test_a_consumer_without_an_sdk_makes_nothing_per_message():
    """It finds out at the first message, and then hands out one and the same block that does nothing."""
    inbox = Inbox("notifier")
    first = inbox.handling("t", [("message-id", b"1")])
    with calls_counted() as calls:
        assert inbox.handling("t", [("message-id", b"2")]) is first
    assert calls == Counter()
