"""The order of an epoch: a permutation that keeps samples of one file close together.

Under a global shuffle of 100,000 files an open reader is almost never used twice. Here the samples
of a chunk are cut into groups of ``clips_per_chunk``, the groups are shuffled, and the result is
shuffled again inside windows of ``shuffle_window`` samples. In a batch, samples of one chunk are
neighbours, so that one rank and one process reads them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from egovl.data.types import ClipDataset, NumbersChunks


def chunk_numbers(dataset: ClipDataset) -> np.ndarray:
    """``[N]`` int64: equal numbers for samples read from the same file."""
    if isinstance(dataset, NumbersChunks):
        return dataset.chunk_numbers()
    seen: dict[object, int] = {}
    numbers = (seen.setdefault(dataset.chunk_of(i), len(seen)) for i in range(len(dataset)))
    return np.fromiter(numbers, dtype=np.int64, count=len(dataset))


def epoch_order(
    chunks: np.ndarray, *, seed: int, epoch: int, clips_per_chunk: int, shuffle_window: int
) -> np.ndarray:
    """Sample indices of an epoch, ``[N]`` int64, each once."""
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    count = len(chunks)
    if clips_per_chunk == 1 or count <= shuffle_window:
        return generator.permutation(count)
    order = _shuffled_within(chunks, generator)
    in_order = chunks[order]
    starts = np.flatnonzero(np.concatenate(([True], in_order[1:] != in_order[:-1])))
    rank_in_chunk = np.arange(count) - np.repeat(starts, np.diff(starts, append=count))
    group_starts = np.flatnonzero(rank_in_chunk % clips_per_chunk == 0)
    sizes = np.diff(group_starts, append=count)
    # groups in random order: where each begins, then every sample moves with its group
    sequence = generator.permutation(len(sizes))
    new_starts = np.empty_like(group_starts)
    new_starts[sequence] = np.cumsum(sizes[sequence]) - sizes[sequence]
    grouped = np.empty_like(order)
    grouped[np.arange(count) + np.repeat(new_starts - group_starts, sizes)] = order
    return grouped[_shuffled_within(np.arange(count) // shuffle_window, generator)]


def _shuffled_within(parts: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Indices sorted by part, in random order inside each part."""
    # keys are unique, so that every sorting algorithm gives the same result
    return np.argsort((parts.astype(np.int64) << 32) | generator.permutation(len(parts)))


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
