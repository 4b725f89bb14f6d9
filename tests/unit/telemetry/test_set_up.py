"""The set-up that the page shows, as it stands there, with exporters that keep what they are given."""

import subprocess
import sys

from tests.docs.pages import ROOT, part

EXPORTERS = """
import sys
from types import ModuleType
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

spans, out = InMemorySpanExporter(), []


class Written(ConsoleMetricExporter):
    def export(self, metrics_data, timeout_millis=10_000, **options):
        out.append(metrics_data.to_json())
        return super().export(metrics_data, timeout_millis, **options)


for name, exporter in {
    "metric_exporter": {"OTLPMetricExporter": Written},
    "trace_exporter": {"OTLPSpanExporter": lambda: spans},
}.items():
    module = ModuleType(name)
    module.__dict__.update(exporter)
    sys.modules[f"opentelemetry.exporter.otlp.proto.grpc.{name}"] = module
"""
SERVICE = """
import asyncio
from coordinator import Coordinator
from participants import MemoryBroker, MemoryDatabase


async def serve():
    participants = {"db": MemoryDatabase(), "events": MemoryBroker()}
    async with Coordinator(journal="memory://set-up", participants=participants) as coordinator:
        async with coordinator.transaction("create-post") as transaction:
            (await transaction.enlist("db")).insert("t", 1)
            await transaction.publish("events", topic="posts", value="x")


asyncio.run(serve())
tracers.force_flush()
metrics.get_meter_provider().force_flush()
assert {span.name for span in spans.get_finished_spans()} >= {"transaction create-post", "commit events"}
assert all(span.resource.attributes["service.name"] == "posts" for span in spans.get_finished_spans())
assert "unanimity.transaction.outcomes" in "".join(out)
"""


def test_the_set_up_of_the_page_is_all_that_is_needed():
    """In a process of its own: OpenTelemetry's providers are a process' for ever."""
    set_up = part(ROOT / "docs" / "telemetry.md", "set-up")
    command = [sys.executable, "-c", EXPORTERS + set_up + SERVICE]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
