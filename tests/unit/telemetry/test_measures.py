"""Gauges show what was last looked at, by everybody who looks."""

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from coordinator.telemetry import configured, names

BREAKER = names.BREAKER_OPEN.name


@pytest.fixture
def reader():
    return InMemoryMetricReader()


def shown(reader):
    """Each participant's value of one gauge."""
    data = reader.get_metrics_data()
    found = {}
    for resource in data.resource_metrics if data is not None else ():
        for metric in resource.scope_metrics[0].metrics:
            if metric.name == BREAKER:
                found |= {point.attributes["unanimity.participant"]: point.value for point in metric.data.data_points}
    return found


def test_two_coordinators_on_one_provider_share_its_instruments(reader, caplog):
    """A provider has each instrument once: a second one would be dropped, with a warning."""
    provider = MeterProvider([reader])
    first, second = configured(meter_provider=provider).measures, configured(meter_provider=provider).measures
    a, b = object(), object()
    first.seen(a, [(names.BREAKER_OPEN, 1, {names.PARTICIPANT: "events"})])
    second.seen(b, [(names.BREAKER_OPEN, 0, {names.PARTICIPANT: "db"})])
    assert shown(reader) == {"events": 1, "db": 0}
    first.seen(a, [])
    second.gone(b)
    assert shown(reader) == {}
    assert not caplog.records


def test_a_metric_is_told_with_the_attributes_that_it_declares(reader):
    """One more would be a series more for every value of it."""
    measures = configured(meter_provider=MeterProvider([reader])).measures
    with pytest.raises(AssertionError, match="declares"):
        measures.count(names.ALERTS, {names.ALERT: "parked", names.GID: "g"})
