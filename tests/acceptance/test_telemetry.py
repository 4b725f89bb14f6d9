"""One trace from the caller to the consumer, and every metric, on real servers; what is exported stays in memory."""

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from coordinator import Coordinator, Settings
from coordinator.telemetry import configured
from examples.social_post.observer import until
from participants import Kafka, Postgres
from participants.inbox import Inbox

SETTINGS = Settings(observe_s=0.1, recovery_s=0.2, lease_s=1.0)
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

        await until(there, 30)
        return self.spans(name)


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
    """The consumer, in another process as far as its spans know."""
    inbox = Inbox("notifier", telemetry=seen.telemetry)
    await inbox.create(connection)
    with inbox.handling(record.topic, record.headers):
        async with connection.transaction():
            assert await inbox.first_time(connection, "m1", record.value)


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
