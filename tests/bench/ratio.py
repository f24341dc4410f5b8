"""Ours against a baseline in one process: interleaved runs, medians, one printed line."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Ratio:
    """Median milliseconds of both, and how many times faster ours is."""

    ours_ms: float
    baseline_ms: float

    @property
    def ratio(self) -> float:
        return self.baseline_ms / self.ours_ms


def report_ratio(
    name: str, ours: Callable[[], object], baseline: Callable[[], object], rounds: int = 7
) -> Ratio:
    """Time both in turn, so that a busy machine slows both alike, and print the ratio.

    Each runs once before, to warm up. A ratio above 1 means that ours is faster.
    """
    ours()
    baseline()
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds):
        pair = list(enumerate((ours, baseline)))
        for which, run in pair if turn % 2 == 0 else reversed(pair):
            start = time.perf_counter()
            run()
            times[which].append((time.perf_counter() - start) * 1e3)
    result = Ratio(*(statistics.median(t) for t in times))
    print(
        f"\n{name}: ours {result.ours_ms:.1f} ms, baseline {result.baseline_ms:.1f} ms, "
        f"ratio {result.ratio:.2f}"
    )
    return result
