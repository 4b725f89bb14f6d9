"""The instruments: counters and histograms that are told, and gauges that show what was last looked at."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from opentelemetry.metrics import CallbackOptions, Counter, Histogram, Meter, Observation

from coordinator.telemetry import names
from coordinator.telemetry.names import Attribute, Kind, Metric

Labels: TypeAlias = "Mapping[Attribute, str]"
Look: TypeAlias = "tuple[Metric, float, Labels]"
"""One value of one gauge."""


class Measures:
    """All instruments of `names`, on one meter."""

    def __init__(self, meter: Meter) -> None:
        self._seen: Mapping[object, Mapping[Metric, list[Observation]]] = {}
        self._counters: dict[Metric, Counter] = {}
        self._histograms: dict[Metric, Histogram] = {}
        for metric in names.METRICS:
            match metric.kind:
                case Kind.COUNTER:
                    self._counters[metric] = meter.create_counter(metric.name, metric.unit, metric.description)
                case Kind.HISTOGRAM:
                    self._histograms[metric] = meter.create_histogram(
                        metric.name,
                        metric.unit,
                        metric.description,
                        explicit_bucket_boundaries_advisory=metric.bounds,
                    )
                case Kind.GAUGE:
                    meter.create_observable_gauge(
                        metric.name, [self._last_seen(metric)], metric.unit, metric.description
                    )
                case Kind.TOTAL:
                    meter.create_observable_counter(
                        metric.name, [self._last_seen(metric)], metric.unit, metric.description
                    )

    def count(self, metric: Metric, labels: Labels) -> None:
        """One more."""
        self._counters[metric].add(1, _attributes(metric, labels))

    def record(self, metric: Metric, value: float, labels: Labels) -> None:
        """A value for a histogram."""
        self._histograms[metric].record(value, _attributes(metric, labels))

    def seen(self, by: object, looks: Iterable[Look]) -> None:
        """What the gauges show of *by* from now on, all of it. (They are read by the exporter's own thread.)"""
        seen: dict[Metric, list[Observation]] = defaultdict(list)
        for metric, value, labels in looks:
            seen[metric].append(Observation(value, _attributes(metric, labels)))
        self._seen = {**self._seen, by: seen}

    def gone(self, by: object) -> None:
        """There is nothing of *by* to be seen any more."""
        self._seen = {other: seen for other, seen in self._seen.items() if other is not by}

    def _last_seen(self, metric: Metric) -> Callable[[CallbackOptions], Iterable[Observation]]:
        return lambda _: [observation for seen in self._seen.values() for observation in seen.get(metric, ())]


def _attributes(metric: Metric, labels: Labels) -> dict[str, str]:
    assert tuple(labels) == metric.attributes, f"{metric.name} is told with the attributes that it declares"
    return {attribute.name: value for attribute, value in labels.items()}
