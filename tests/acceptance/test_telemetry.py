"""One trace from the caller to the consumer, and every metric, on real servers; what is exported stays in memory."""

import asyncio
import os
import secrets
import sys
import textwrap
import time
from collections import defaultdict
from contextlib import asynccontextmanager
from functools import partial

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from coordinator import (
    BackupPolling,
    Coordinator,
    CoordinatorError,
    Overloaded,
    Park,
    Parked,
    Retry,
    Rollback,
    Settings,
)
from coordinator.faults.injectors import ArmedFaults, Fault
from coordinator.faults.points import Cell
from coordinator.protocol.model import BranchName
from coordinator.telemetry import configured, names
from examples.social_post.observer import until
from participants import Kafka, Postgres
from participants.inbox import Inbox, message_id
from tests.docs.pages import ROOT, part

SETTINGS = Settings(observe_s=0.1, recovery_s=0.2, lease_s=4.0)
PATIENT = Settings(lease_s=60, recovery_s=0.2)
OUTCOMES = names.OUTCOMES.name
PROVOKED = {
    ("committed", "retry"),
    ("deferred", "backup-polling"),
    ("aborted", "rollback"),
    ("parked", "park"),
    ("aborted", "recovered"),  # What was parked, when nobody may hold it any longer.
}
SECRET = "a payload that nobody may see in a trace"


class Seen:
    """What an exporter would have sent."""

    def __init__(self):
        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.meters = MeterProvider([self.reader])
        self.telemetry = configured(self.tracers, self.meters)

    def caller(self):
        """The caller's own span, current inside of the block."""
        return self.tracers.get_tracer("caller").start_as_current_span("request")

    def spans(self, name):
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    def span(self, name):
        (span,) = self.spans(name)
        return span

    async def ended(self, name, count=1):
        """Wait until *count* spans of this name have ended."""

        async def there():
            return len(self.spans(name)) >= count

        assert await until(there, 30) is not None, (name, [span.name for span in self.exporter.get_finished_spans()])
        return self.spans(name)

    def values(self):
        """Every point of every metric, by its name: (attributes, value), the value of a histogram being its count."""
        data = self.reader.get_metrics_data()
        found = defaultdict(set)
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for point in metric.data.data_points:
                        value = point.count if hasattr(point, "count") else point.value
                        found[metric.name].add((tuple(point.attributes.items()), value))
        return found


@pytest.fixture
def seen():
    return Seen()


@pytest.fixture
async def connection(database):
    connection = await asyncpg.connect(database)
    await connection.execute("CREATE TABLE t (n int)")
    yield connection
    await connection.close()


def coordinator_of(database, kafka, seen, **options):
    participants = {"db": Postgres(database), "events": Kafka(kafka.bootstrap)}
    options = {"settings": SETTINGS, "telemetry": seen.telemetry, **options}
    return Coordinator(journal=database, participants=participants, **options)


async def write(coordinator, topic, **options):
    """One transaction, with a row and a message."""
    async with coordinator.transaction("create-post", **options) as transaction:
        await (await transaction.enlist("db")).execute("INSERT INTO t VALUES (1)")
        await transaction.publish("events", topic=topic, value=SECRET, key="k", headers={"traceparent": "theirs"})
    return transaction


async def consume(kafka, topic):
    """The one message that is visible to readers of what was committed."""
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=kafka.bootstrap, auto_offset_reset="earliest", isolation_level="read_committed"
    )
    await consumer.start()
    try:
        return await consumer.getone()
    finally:
        await consumer.stop()


async def handle(connection, record, seen):
    """The consumer as the page shows it, with exporters of its own."""
    await connection.execute("CREATE TABLE effects (value bytea)")
    await Inbox("notifier").create(connection)
    block = textwrap.indent(part(ROOT / "docs" / "telemetry.md", "consumer"), "    ")
    names = {"Inbox": partial(Inbox, telemetry=seen.telemetry), "message_id": message_id}
    exec(f"async def handle(consumer, connection):\n{block}", names)
    await names["handle"](one(record), connection)
    assert await connection.fetchval("SELECT count(*) FROM effects") == 1


async def one(record):
    """A consumer that gets one record."""
    yield record


def assert_child(child, parent):
    assert child.context.trace_id == parent.context.trace_id, child.name
    assert child.parent.span_id == parent.context.span_id, child.name


@pytest.mark.parametrize(
    ("recipe", "actions"),
    [
        ("commit-record", ["prepare events", "decide db", "commit events"]),
        ("two-phase", ["prepare db", "prepare events", "decide", "commit db", "commit events"]),
        ("last-resource", ["prepare db", "prepare events", "intend", "commit events", "commit db"]),
    ],
)
async def test_one_trace_from_the_caller_to_the_consumer(database, connection, kafka, topic, seen, recipe, actions):
    """Caller, transaction, everything done for it, the message, and its handling."""
    async with coordinator_of(database, kafka, seen) as coordinator:
        with seen.caller():
            transaction = await write(coordinator, topic, recipe=recipe)
        await seen.ended("transaction create-post")
        await handle(connection, await consume(kafka, topic), seen)
    root = seen.span("transaction create-post")
    assert_child(root, seen.span("request"))
    assert root.attributes["unanimity.gid"] == transaction.outcome.gid
    assert root.attributes["unanimity.outcome"] == "committed"
    for action in actions:
        assert_child(seen.span(action), root)
    assert_child(seen.span(f"publish {topic}"), root)
    assert_child(seen.span(f"process {topic}"), seen.span(f"publish {topic}"))
    assert SECRET not in "".join(span.to_json() for span in seen.exporter.get_finished_spans())


async def test_the_relay_delivers_inside_of_the_same_trace(database, connection, kafka, topic, seen):
    """The context stands in the row; the relay's span and the consumer's have the publishing one as parent."""
    async with coordinator_of(database, kafka, seen) as coordinator:
        with seen.caller():
            await write(coordinator, topic, recipe="outbox")
        await handle(connection, await consume(kafka, topic), seen)
        await seen.ended(f"deliver {topic}")
    published = seen.span(f"publish {topic}")
    assert_child(published, seen.span("transaction create-post"))
    assert_child(seen.span(f"deliver {topic}"), published)
    assert_child(seen.span(f"process {topic}"), published)


@pytest.mark.parametrize("recipe", ["commit-record", "two-phase", "last-resource"])
async def test_another_process_links_what_it_finishes_to_the_first_span(
    database, connection, kafka, topic, seen, recipe
):
    """A is held before it may tell the broker, and loses its lease; B finishes it, in a trace that is linked to A's."""
    other = Seen()
    a_goes_on = asyncio.Event()
    held = Fault(point="kafka.end.commit", cell=Cell.BEFORE, action="call", call=a_goes_on.wait, times=1)
    async with (
        coordinator_of(database, kafka, seen, settings=PATIENT) as a,
        coordinator_of(database, kafka, other) as b,
    ):
        with ArmedFaults(faults=[held]):
            writing = asyncio.create_task(write(a, topic, recipe=recipe))
            assert await until(lambda: asyncio.sleep(0, held.fired), 30) is not None
            owner = a.engine.ownership.lease.owner
            await connection.execute("UPDATE unanimity.owners SET lease_until = '-infinity' WHERE owner = $1", owner)
            (recovered,) = await other.ended("recover create-post")
            a_goes_on.set()
            await writing
        first = (await seen.ended("transaction create-post"))[0]
    (link,) = recovered.links
    assert (link.context.trace_id, link.context.span_id) == (first.context.trace_id, first.context.span_id)
    assert recovered.parent is None
    assert recovered.attributes["unanimity.gid"] == first.attributes["unanimity.gid"]
    assert recovered.attributes["unanimity.outcome"] == "committed"
    assert_child(other.span("commit events"), recovered)
    del b


async def test_what_a_killed_process_left_is_linked_to_the_trace_of_its_caller(
    database, connection, kafka, topic, seen
):
    """Killed after the decision: its own spans are lost with it, and the journal's word leads to the caller's trace."""
    caller = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
    script = f"""
import asyncio
from opentelemetry.sdk.trace import TracerProvider
from tests.acceptance.test_telemetry import Kafka, Postgres, Coordinator, write
from coordinator.telemetry import configured
from coordinator.telemetry.context import context_in
from opentelemetry.context import attach

async def main():
    attach(context_in([("traceparent", b"{caller}")]))
    participants = {{"db": Postgres({database!r}), "events": Kafka({kafka.bootstrap!r})}}
    async with Coordinator(
        journal={database!r}, participants=participants, telemetry=configured(TracerProvider())
    ) as coordinator:
        await write(coordinator, {topic!r})

asyncio.run(main())
"""
    environment = {**os.environ, "COORDINATOR_FAULTS": "kafka.end.commit:before=crash", "COORDINATOR_LEASE_S": "1"}
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", script, env=environment, cwd=ROOT)
    assert await child.wait() == -9
    async with coordinator_of(database, kafka, seen):
        (recovered,) = await seen.ended("recover create-post")
        await handle(connection, await consume(kafka, topic), seen)
    (link,) = recovered.links
    assert f"{link.context.trace_id:032x}" == caller.split("-")[1]
    assert f"{seen.span(f'process {topic}').context.trace_id:032x}" == caller.split("-")[1]


async def test_every_metric_is_seen_with_a_value(database, connection, kafka, topic, seen):
    """Each is provoked, and what is exported is what is declared: names, units and attributes."""
    async with coordinator_of(database, kafka, seen) as coordinator, watched(seen) as values:
        await provoke(coordinator, connection, topic)

        async def all_seen():
            return not missing(values) and told(values) >= PROVOKED

        await until(all_seen, 20)
    assert missing(values) == []
    assert told(values) >= PROVOKED
    assert set(values) == {metric.name for metric in names.METRICS}
    for metric in names.METRICS:
        for attributes, _ in values[metric.name]:
            assert {name for name, _ in attributes} == {attribute.name for attribute in metric.attributes}, metric.name
    retried = {tuple(value for _, value in labels) for labels, _ in values[names.RETRIES.name]}
    assert retried >= {("events", "prepare"), ("db", "commit")}


def told(values):
    """The outcomes of transactions that were counted, by policy."""
    return {(dict(labels)["unanimity.outcome"], dict(labels)["unanimity.policy"]) for labels, _ in values[OUTCOMES]}


def missing(values):
    """Metrics that never had a value above zero."""
    return [metric.name for metric in names.METRICS if not any(value > 0 for _, value in values[metric.name])]


@asynccontextmanager
async def watched(seen):
    """What an exporter sees that looks often: every (attributes, value) that any metric ever had."""
    values = defaultdict(set)

    async def look():
        while True:
            for name, points in seen.values().items():
                values[name] |= points
            await asyncio.sleep(0.05)

    looking = asyncio.create_task(look())
    yield values
    looking.cancel()


async def exhaust(coordinator):
    """No room, no retries left, and no event loop for longer than a third of a lease."""
    engine = coordinator.engine
    bound, engine.admission.transactions_max = engine.admission.transactions_max, 0
    with pytest.raises(Overloaded):
        await write(coordinator, "nowhere")
    engine.admission.transactions_max = bound
    while engine.driver.performer.budgets.spend(BranchName("events")):
        continue
    time.sleep(SETTINGS.lease_s / 2)  # noqa: ASYNC251 - that is what it provokes.


async def provoke(coordinator, connection, topic):
    """Something of everything that a metric is about."""
    held = Fault(point="pg.prepare", cell=Cell.AFTER, action="delay", argument="600", times=1)  # The sweep finds it.
    slow = Fault(point="kafka.produce", action="delay", argument="1500", times=1)
    unanswered = Fault(point="pg.commit_prepared", cell=Cell.REPLY_LOST, times=1)
    with ArmedFaults(faults=[held, slow, unanswered]):
        await write(coordinator, topic, recipe="two-phase", policy=Retry(then=Rollback(within_s=1)))
    with ArmedFaults(faults=[Fault(point="kafka.produce")]):
        await write(coordinator, topic, recipe="commit-record", policy=BackupPolling(push_within_s=0.3))
        with pytest.raises(Parked):
            await write(coordinator, topic, recipe="two-phase", policy=Park(within_s=0.3, hold_s=0.5))
        breakers = coordinator.engine.driver.performer.breakers
        for _ in range(10):
            if not breakers.is_open(BranchName("events")):
                with pytest.raises(CoordinatorError):
                    await write(coordinator, topic, recipe="commit-record", policy=Rollback(within_s=0.3))
        assert breakers.is_open(BranchName("events"))
    await write(coordinator, "nowhere", recipe="outbox")
    await exhaust(coordinator)
    await connection.execute("UPDATE unanimity.owners SET term = term + 1")
