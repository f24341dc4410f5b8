"""The random numbers of one sample: a pure function of (seed, epoch, index).

So any process can make any sample, the number of loading processes changes nothing, and resuming
needs a counter only.
"""

from __future__ import annotations

import numpy as np

ORDER = 1 << 62  # the order of an epoch
REPLACEMENT = 1 << 61  # what stands in for an unreadable sample, plus the number of the try
PARTNER = 1 << 60  # the sample that accompanies another


class SampleRandom:
    """Numbers keyed by (seed, epoch, index, purpose), drawn in a fixed order by the caller."""

    __slots__ = ("generator",)

    def __init__(self, seed: int, epoch: int, index: int, purpose: int = 0) -> None:
        bits = np.random.Philox(key=[seed, epoch], counter=[0, 0, index, purpose])
        self.generator = np.random.Generator(bits)

    def integer(self, low: int, high: int) -> int:
        """Integer of the closed range."""
        return int(self.generator.integers(low, high, endpoint=True))

    def uniform(self, low: float, high: float) -> float:
        """Number of ``[low, high)``."""
        return low + (high - low) * self.generator.random()
