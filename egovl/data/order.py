"""The order of an epoch: a permutation that keeps samples of one file close together.

Under a global shuffle of 100,000 files an open reader is almost never used twice. Here the samples
of a chunk are cut into groups of ``clips_per_chunk``, the groups are shuffled, and the result is
shuffled again inside windows of ``shuffle_window`` samples. In a batch, samples of one chunk are
neighbours, so that one rank and one process reads them.

Up to a million samples the order is made at once (`epoch_order`). A larger table keeps its rows in
the order of time, and its epochs are drawn window by window (`WindowedOrder`): the first batch of
forty million rows is there as soon, and takes as little memory, as that of four hundred thousand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from egovl.data.types import ClipDataset, NumbersChunks, OrderedByTime

WHOLE_ORDER_LIMIT = 1 << 20  # samples whose order is made at once
_GROUPS_PER_STRETCH = 16  # groups that are cut from one stretch of neighbouring clips


class SampleOrder(Protocol):
    """Sample indices of all epochs, by position."""

    def __len__(self) -> int: ...

    def rows(self, epoch: int, start: int, stop: int) -> np.ndarray:
        """Samples at some positions of an epoch, ``[stop - start]`` int64."""
        ...

    def chunks(self, rows: np.ndarray) -> np.ndarray:
        """Equal numbers for samples read from the same file."""
        ...


def sample_order(
    dataset: ClipDataset, *, seed: int, clips_per_chunk: int, shuffle_window: int
) -> SampleOrder:
    """The order in which a dataset is trained on."""
    if isinstance(dataset, OrderedByTime) and len(dataset) > WHOLE_ORDER_LIMIT:
        return WindowedOrder(dataset, seed, clips_per_chunk, shuffle_window)
    return WholeOrder(chunk_numbers(dataset), seed, clips_per_chunk, shuffle_window)


def chunk_numbers(dataset: ClipDataset) -> np.ndarray:
    """``[N]`` int64: equal numbers for samples read from the same file."""
    if isinstance(dataset, NumbersChunks):
        return dataset.chunk_numbers()
    seen: dict[object, int] = {}
    numbers = (seen.setdefault(dataset.chunk_of(i), len(seen)) for i in range(len(dataset)))
    return np.fromiter(numbers, dtype=np.int64, count=len(dataset))


@dataclass
class WholeOrder:
    """Orders made at once from the chunk number of every sample."""

    chunk_of: np.ndarray
    seed: int
    clips_per_chunk: int
    shuffle_window: int
    _made: tuple[int, np.ndarray] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.chunk_of)

    def rows(self, epoch: int, start: int, stop: int) -> np.ndarray:
        """Samples at some positions of an epoch."""
        if self._made is None or self._made[0] != epoch:
            order = epoch_order(
                self.chunk_of,
                seed=self.seed,
                epoch=epoch,
                clips_per_chunk=self.clips_per_chunk,
                shuffle_window=self.shuffle_window,
            )
            self._made = epoch, order
        return self._made[1][start:stop]

    def chunks(self, rows: np.ndarray) -> np.ndarray:
        """Chunk numbers of samples."""
        return self.chunk_of[rows]


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


@dataclass
class WindowedOrder:
    """Orders drawn window by window from the rows in the order of time.

    The rows, from an offset that changes with the epoch, are cut into stretches of 16 groups. In a
    stretch they stand by chunk, in random order in each, and every ``clips_per_chunk`` of them are
    a group. A keyed permutation of all groups, computed for the asked ones alone, gives the groups
    of a window. Rows that fill no group, fewer than ``clips_per_chunk``, are left out of an epoch.
    """

    dataset: OrderedByTime
    seed: int
    clips_per_chunk: int
    shuffle_window: int
    _made: dict[tuple[int, int], np.ndarray] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._in_time = self.dataset.time_order
        self._num_groups = len(self._in_time) // self.clips_per_chunk
        self._groups_per_window = max(1, self.shuffle_window // self.clips_per_chunk)

    def __len__(self) -> int:
        return self._num_groups * self.clips_per_chunk

    def rows(self, epoch: int, start: int, stop: int) -> np.ndarray:
        """Samples at some positions of an epoch."""
        size = self._groups_per_window * self.clips_per_chunk
        windows = [self._window(epoch, w) for w in range(start // size, -(-stop // size))]
        first = start // size * size
        return np.concatenate(windows)[start - first : stop - first]

    def chunks(self, rows: np.ndarray) -> np.ndarray:
        """Chunk numbers of samples."""
        return self.dataset.chunk_numbers(rows)

    def _window(self, epoch: int, number: int) -> np.ndarray:
        made = self._made.get((epoch, number))
        if made is None:
            if len(self._made) > 4:
                self._made.clear()
            made = self._made[epoch, number] = self._draw_window(epoch, number)
        return made

    def _draw_window(self, epoch: int, number: int) -> np.ndarray:
        key = _mix_one(self.seed, epoch)
        first = number * self._groups_per_window
        last = min(first + self._groups_per_window, self._num_groups)
        groups = _permuted(np.arange(first, last, dtype=np.uint64), self._num_groups, key)
        rows = np.concatenate(self._members(groups.astype(np.int64), key))
        generator = np.random.Generator(np.random.Philox(key=[self.seed, epoch << 32 | number]))
        return rows[generator.permutation(len(rows))]

    def _members(self, groups: np.ndarray, key: int) -> list[np.ndarray]:
        """Rows of each group."""
        size, count = self.clips_per_chunk, len(self._in_time)
        length = size * _GROUPS_PER_STRETCH
        offset = key % count
        stretch, part = np.divmod(groups, _GROUPS_PER_STRETCH)
        wanted, which = np.unique(stretch, return_inverse=True)
        places = [np.arange(s * length, min((s + 1) * length, len(self))) for s in wanted.tolist()]
        rows = self._in_time[(np.concatenate(places) + offset) % count].astype(np.int64)
        chunks = self.dataset.chunk_numbers(rows)
        noise = _mix(rows.astype(np.uint64), key)
        of_stretch = np.repeat(np.arange(len(places)), [len(place) for place in places])
        ordered = rows[np.lexsort((noise, chunks, of_stretch))]
        starts = np.cumsum([0, *(len(place) for place in places)])
        begins = starts[which] + part * size
        return [ordered[begin : begin + size] for begin in begins.tolist()]


def _mix(values: np.ndarray, key: int) -> np.ndarray:
    """Well spread 64-bit numbers of (value, key): the finaliser of splitmix64, twice."""
    with np.errstate(over="ignore"):
        mixed = values.astype(np.uint64)
        for salt in (np.uint64(key), np.uint64(0x9E3779B97F4A7C15)):
            mixed = mixed + salt
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            mixed = mixed ^ (mixed >> np.uint64(31))
    return mixed


def _mix_one(value: int, key: int) -> int:
    return int(_mix(np.array([value], dtype=np.uint64), key)[0])


def _permuted(places: np.ndarray, count: int, key: int) -> np.ndarray:
    """Places under a keyed permutation of ``0 .. count - 1``, each computed by itself.

    A Feistel network on the next even number of bits; results of ``count`` or more go through it
    again until they fall inside.
    """
    half = np.uint64(max(1, -(-max(count - 1, 1).bit_length() // 2)))
    mask = np.uint64((1 << int(half)) - 1)
    found = places.copy()
    outside = np.ones(len(found), dtype=bool)
    while outside.any():
        left, right = found[outside] >> half, found[outside] & mask
        for turn in range(4):
            left, right = right, left ^ (_mix(right, _mix_one(turn, key)) & mask)
        found[outside] = left << half | right
        outside = found >= count
    return found


def global_batches(
    order: SampleOrder, *, start_sample: int, batch_size: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Endless ``(epoch, indices [batch_size])`` from a count of samples consumed so far.

    The last, incomplete batch of an epoch is dropped.

    Raises:
        ValueError: Fewer samples than one batch, or a count that is no multiple of the batch.
    """
    per_epoch = len(order) // batch_size
    if not per_epoch:
        raise ValueError(f"{len(order)} samples do not fill one batch of {batch_size}")
    if start_sample % batch_size:
        raise ValueError(
            f"cannot resume after {start_sample} samples with batch_size {batch_size}: "
            "keep the global batch size of the run"
        )
    epoch, step = divmod(start_sample // batch_size, per_epoch)
    while True:
        for start in range(step * batch_size, per_epoch * batch_size, batch_size):
            batch = order.rows(epoch, start, start + batch_size)
            yield epoch, batch[np.argsort(order.chunks(batch), kind="stable")]
        epoch, step = epoch + 1, 0
