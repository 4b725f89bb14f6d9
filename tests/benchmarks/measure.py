"""Measuring side by side: rounds are interleaved, medians are compared, and ratios come first."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Series:
    """One contender's results: transactions a second per round, and the latencies of its transactions in ms."""

    name: str
    rates: list[float] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """The median rate."""
        return statistics.median(self.rates)

    def percentile_ms(self, share: float) -> float:
        """The latency below which *share* of the transactions stayed."""
        ordered = sorted(self.latencies_ms)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def line(self) -> str:
        """For people."""
        low, high = min(self.rates), max(self.rates)
        p50, p99 = self.percentile_ms(0.5), self.percentile_ms(0.99)
        return f"{self.name:34s} {self.rate:8.0f}/s ({low:.0f}..{high:.0f})   p50 {p50:6.2f} ms   p99 {p99:6.2f} ms"


async def drive(series: Series, work: Callable[[int], Awaitable[None]], *, concurrency: int, seconds: float) -> int:
    """Run *work(worker)* in *concurrency* loops for *seconds*; record the rate and latencies; return how many."""
    done = 0
    until = time.perf_counter() + seconds

    async def worker(number: int) -> None:
        nonlocal done
        while (began := time.perf_counter()) < until:
            await work(number)
            series.latencies_ms.append((time.perf_counter() - began) * 1000)
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(worker(number) for number in range(concurrency)))
    series.rates.append(done / (time.perf_counter() - began))
    return done
