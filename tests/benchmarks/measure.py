"""What is measured and what it comes to: sides with one value a round, their medians, and the ratios of those."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Samples = dict[str, list[float]]
"""Per measure (rate, p50_ms, p99_ms, cpu_us, ...) one value a round."""


@dataclass(slots=True)
class Book:
    """Everything that one run measured, by side."""

    sides: dict[str, Samples] = field(default_factory=dict)
    postgres_version: str = "unknown"
    """By the server's own word."""
    remarks: list[str] = field(default_factory=list)
    """What a table of ratios has no room for."""

    def note(self, side: str, values: Mapping[str, float]) -> None:
        """Enter one round of *side*."""
        samples = self.sides.setdefault(side, {})
        for measure, value in values.items():
            samples.setdefault(measure, []).append(value)

    def say(self, remark: str) -> None:
        """Add a remark."""
        self.remarks.append(remark)

    def median(self, side: str, measure: str) -> float | None:
        """The median over the rounds; None where it was not measured."""
        samples = self.sides.get(side, {}).get(measure)
        return statistics.median(samples) if samples else None

    def summary(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Median, minimum, maximum and every round, of every measure of every side."""
        return {
            side: {measure: summarised(values) for measure, values in samples.items()}
            for side, samples in self.sides.items()
        }


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median of one side's measure ÷ the median of another's, and what it ought to reach."""

    name: str
    above: tuple[str, str]
    below: tuple[str, str]
    at_least: float | None
    meaning: str

    def of(self, book: Book) -> float | None:
        """The ratio of medians; None where a side was not measured."""
        above, below = book.median(*self.above), book.median(*self.below)
        return None if above is None or not below else above / below

    def by_round(self, book: Book) -> list[float]:
        """The ratio within each round, which tells how far the rounds agree."""
        above, below = (book.sides.get(side, {}).get(measure, []) for side, measure in (self.above, self.below))
        return [a / b for a, b in zip(above, below, strict=False) if b]

    def met(self, book: Book) -> bool | None:
        """Whether the target was reached; None without a target or a measurement."""
        ratio = self.of(book)
        return None if ratio is None or self.at_least is None else ratio >= self.at_least


def summarised(values: Sequence[float]) -> dict[str, Any]:
    """Median, minimum, maximum, and the rounds themselves in their order."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "rounds": list(values)}


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which *share* of all values stay."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def there_and_back(sides: Sequence[str], number: int) -> list[str]:
    """The order of the sides in round *number*: forwards, backwards, forwards, ..., so that a drift favours nobody."""
    return list(sides) if number % 2 == 0 else list(reversed(sides))


async def drive(work: Callable[[int], Awaitable[None]], *, concurrency: int, seconds: float) -> dict[str, float]:
    """Run *work(worker)* in *concurrency* loops for *seconds*; what came of it, for a round of the book.

    The rate, the latencies' percentiles, and the CPU time of this process for each; `count` is how many were done.
    """
    latencies: list[float] = []
    clock = time.perf_counter
    began, cpu_s = clock(), time.process_time()
    until = began + seconds

    async def worker(number: int) -> None:
        while (started := clock()) < until:
            await work(number)
            latencies.append(clock() - started)

    await asyncio.gather(*(worker(number) for number in range(concurrency)))
    elapsed_s, cpu_s = clock() - began, time.process_time() - cpu_s
    return {
        "rate": len(latencies) / elapsed_s,
        "p50_ms": 1000 * percentile(latencies, 0.5),
        "p99_ms": 1000 * percentile(latencies, 0.99),
        "cpu_us": 1e6 * cpu_s / len(latencies),
        "count": len(latencies),
    }
