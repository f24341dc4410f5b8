"""The random numbers of one sample: a pure function of (seed, epoch, index).

So any process can make any sample, the number of loading processes changes nothing, and resuming
needs a counter only.
"""

from __future__ import annotations

from random import Random

REPLACEMENT = 1 << 32  # what stands in for an unreadable sample, plus the number of the try
PARTNER = 1 << 33  # the sample that accompanies another
SHUFFLE = 1 << 34  # the order of a clip's frames, where they are shuffled
VISIT = 1 << 35  # what a dataset draws for a training sample: its text, its window


class SampleRandom:
    """Numbers keyed by (seed, epoch, index, purpose), drawn in a fixed order by the caller."""

    __slots__ = ("_random",)

    def __init__(self, seed: int, epoch: int, index: int, purpose: int = 0) -> None:
        # Python's generator: made per clip, numpy's would cost more than the crop
        self._random = Random((((seed << 64 | epoch) << 64 | index) << 64) | purpose)

    def integer(self, low: int, high: int) -> int:
        """Integer of the closed range."""
        return self._random.randint(low, high)

    def order(self, count: int) -> list[int]:
        """Permutation of ``0 .. count - 1``."""
        return self.choose(count, count)

    def choose(self, count: int, wanted: int) -> list[int]:
        """``wanted`` different numbers of ``0 .. count - 1``, in random order."""
        return self._random.sample(range(count), wanted)

    def uniform(self, low: float, high: float) -> float:
        """Number of ``[low, high)``."""
        return low + (high - low) * self._random.random()
