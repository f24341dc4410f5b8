"""The order of an epoch: a permutation that keeps samples of one file close together.

Under a global shuffle of 100,000 files an open reader is almost never used twice. Here the samples of a
chunk are cut into groups of ``clips_per_chunk``, the groups are shuffled, and the result is shuffled
again inside windows of ``shuffle_window`` samples. In a batch, samples of one chunk are neighbours, so
that one rank and one process reads them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from egovl.data.randomness import ORDER, SampleRandom
from egovl.data.types import ClipDataset


def chunk_numbers(dataset: ClipDataset) -> np.ndarray:
    """``[N]`` int64: equal numbers for samples read from the same file.

    A large dataset offers them at once as ``chunk_numbers()``.
    """
    at_once = getattr(dataset, "chunk_numbers", None)
    if at_once is not None:
        return at_once()
    seen: dict[object, int] = {}
    numbers = (seen.setdefault(dataset.chunk_of(i), len(seen)) for i in range(len(dataset)))
    return np.fromiter(numbers, dtype=np.int64, count=len(dataset))


def epoch_order(
    chunks: np.ndarray, *, seed: int, epoch: int, clips_per_chunk: int, shuffle_window: int
) -> np.ndarray:
    """Sample indices of an epoch, ``[N]`` int64, each once."""
    generator = SampleRandom(seed, epoch, 0, ORDER).generator
    count = len(chunks)
    order = generator.permutation(count)
    if clips_per_chunk == 1 or count <= shuffle_window:
        return order
    order = order[np.argsort(chunks[order], kind="stable")]  # by chunk, random within
    chunk_starts = np.flatnonzero(np.diff(chunks[order], prepend=chunks[order[0]] - 1))
    lengths = np.diff(chunk_starts, append=count)
    rank_in_chunk = np.arange(count) - np.repeat(chunk_starts, lengths)
    group = np.cumsum(rank_in_chunk % clips_per_chunk == 0) - 1
    place_of_group = generator.permutation(group[-1] + 1)
    order = order[np.argsort(place_of_group[group], kind="stable")]
    window = np.arange(count) // shuffle_window
    return order[np.lexsort((generator.random(count), window))]


def global_batches(
    chunks: np.ndarray,
    *,
    seed: int,
    start_sample: int,
    batch_size: int,
    clips_per_chunk: int,
    shuffle_window: int,
) -> Iterator[tuple[int, np.ndarray]]:
    """Endless ``(epoch, indices [batch_size])`` from a count of samples consumed so far.

    The last, incomplete batch of an epoch is dropped.

    Raises:
        ValueError: Fewer samples than one batch, or a count that is no multiple of the batch.
    """
    per_epoch = len(chunks) // batch_size
    if not per_epoch:
        raise ValueError(f"{len(chunks)} samples do not fill one batch of {batch_size}")
    if start_sample % batch_size:
        raise ValueError(
            f"cannot resume after {start_sample} samples with batch_size {batch_size}: "
            "keep the global batch size of the run"
        )
    epoch, step = divmod(start_sample // batch_size, per_epoch)
    while True:
        order = epoch_order(
            chunks,
            seed=seed,
            epoch=epoch,
            clips_per_chunk=clips_per_chunk,
            shuffle_window=shuffle_window,
        )
        for start in range(step * batch_size, per_epoch * batch_size, batch_size):
            batch = order[start : start + batch_size]
            yield epoch, batch[np.argsort(chunks[batch], kind="stable")]
        epoch, step = epoch + 1, 0
