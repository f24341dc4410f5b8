from __future__ import annotations

import itertools
from typing import ClassVar

import numpy as np
import pytest

from egovl.data import order as order_module
from egovl.data.order import WholeOrder, WindowedOrder, epoch_order, global_batches, sample_order

CHUNKS = np.random.default_rng(0).integers(0, 40, 500)


def order(epoch: int = 0, seed: int = 0, clips: int = 4, window: int = 64) -> np.ndarray:
    return epoch_order(CHUNKS, seed=seed, epoch=epoch, clips_per_chunk=clips, shuffle_window=window)


@pytest.mark.parametrize("clips", [1, 4, 1000])
@pytest.mark.parametrize("window", [1, 64, 1000])
def test_an_epoch_is_a_permutation(clips: int, window: int) -> None:
    assert sorted(order(clips=clips, window=window)) == list(range(500))


def test_epochs_and_seeds_differ_and_repeat() -> None:
    assert (order(0) == order(0)).all()
    assert (order(0) != order(1)).any()
    assert (order(0) != order(0, seed=1)).any()


def test_a_window_holds_several_clips_of_each_opened_chunk() -> None:
    opened = [len(set(CHUNKS[part])) for part in np.array_split(order(), 8)]
    scattered = [len(set(CHUNKS[part])) for part in np.array_split(order(clips=1), 8)]
    assert np.mean(opened) < 0.6 * np.mean(scattered)


def test_neighbours_change_from_epoch_to_epoch() -> None:
    def together(epoch: int) -> set[tuple[int, ...]]:
        batches = order(epoch)[:480].reshape(-1, 16)
        return {pair for b in batches.tolist() for pair in itertools.combinations(sorted(b), 2)}

    first, second = together(0), together(1)
    assert len(first & second) < 0.15 * len(first)


def batches(start: int, count: int, batch_size: int = 32) -> list[tuple[int, list[int]]]:
    whole = WholeOrder(CHUNKS, seed=3, clips_per_chunk=4, shuffle_window=64)
    stream = global_batches(whole, start_sample=start, batch_size=batch_size)
    return [(epoch, b.tolist()) for epoch, b in itertools.islice(stream, count)]


def test_resuming_from_a_count_continues_the_same_batches() -> None:
    unbroken = batches(0, 40)
    for step in (1, 14, 15, 16, 31):
        assert batches(step * 32, 40 - step) == unbroken[step:]


def test_an_epoch_drops_its_incomplete_batch_and_repeats_nothing() -> None:
    stream = batches(0, 45)
    for epoch in range(3):
        seen = [i for e, b in stream if e == epoch for i in b]
        assert len(seen) == len(set(seen)) == 480


def test_clips_of_a_chunk_are_neighbours_in_a_batch() -> None:
    for _, batch in batches(0, 10):
        chunks = CHUNKS[batch]
        assert (np.diff(chunks) != 0).sum() == len(set(chunks)) - 1


def test_a_count_between_two_batches_is_refused() -> None:
    with pytest.raises(ValueError, match="keep the global batch size"):
        batches(33, 1)
    with pytest.raises(ValueError, match="do not fill one batch"):
        batches(0, 1, batch_size=501)


class TimeOrdered:
    """Rows of a table too large for orders made at once, as the windowed order sees it."""

    label_sizes: ClassVar[dict[str, int]] = {}

    def __init__(self, count: int = 5003, chunks: int = 40) -> None:
        generator = np.random.default_rng(1)
        self.chunk = np.sort(generator.integers(0, chunks, count))
        self.time_order = generator.permutation(count).astype(np.int32)
        self.chunk_of_row = np.empty(count, dtype=np.int64)
        self.chunk_of_row[self.time_order] = self.chunk
        self.asked = 0

    def chunk_numbers(self, rows: np.ndarray | None = None) -> np.ndarray:
        assert rows is not None, "a windowed order asks for the rows of a window only"
        self.asked += len(rows)
        return self.chunk_of_row[rows]

    def chunk_of(self, index: int) -> int:
        return int(self.chunk_of_row[index])

    def __len__(self) -> int:
        return len(self.chunk)

    def __getitem__(self, index: int) -> object:
        raise AssertionError("no order reads a sample")


def windowed(seed: int = 0) -> WindowedOrder:
    return WindowedOrder(TimeOrdered(), seed, clips_per_chunk=4, shuffle_window=64)


def test_a_windowed_epoch_has_every_row_once_but_for_an_incomplete_group() -> None:
    for epoch in range(3):
        rows = windowed().rows(epoch, 0, len(windowed()))
        assert len(rows) == 5000
        assert len(set(rows.tolist())) == 5000
        assert set(rows.tolist()) <= set(range(5003))


def test_windowed_epochs_and_seeds_differ_and_any_part_can_be_asked_for() -> None:
    whole = windowed().rows(2, 0, 5000)
    for start, stop in ((0, 1), (60, 70), (63, 300), (4990, 5000)):
        assert windowed().rows(2, start, stop).tolist() == whole[start:stop].tolist()
    assert (windowed().rows(3, 0, 5000) != whole).any()
    assert (windowed(seed=1).rows(2, 0, 5000) != whole).any()


def test_a_window_of_a_large_table_opens_few_chunks_and_reads_few_rows() -> None:
    table = TimeOrdered()
    order = WindowedOrder(table, 0, clips_per_chunk=4, shuffle_window=64)
    opened = [len(set(table.chunk_of_row[order.rows(0, w, w + 64)])) for w in range(0, 4800, 64)]
    assert np.mean(opened) <= 16  # 16 groups of 4
    scattered = np.random.default_rng(0).permutation(5003)[:4800].reshape(-1, 64)
    assert np.mean(opened) < 0.6 * np.mean([len(set(table.chunk_of_row[w])) for w in scattered])
    table.asked = 0
    WindowedOrder(table, 0, 4, 64).rows(0, 0, 32)
    assert table.asked <= 16 * 64


def test_positions_of_neighbours_are_spread_over_the_whole_epoch() -> None:
    order = windowed()
    place = np.empty(5003)
    place[order.rows(0, 0, 5000)] = np.arange(5000)
    rows = order.dataset.time_order[100:4900]
    apart = np.abs(place[rows[:-400]] - place[rows[400:]])
    assert 0.25 < np.mean(apart) / 5000 < 0.42  # a third for independent places


def test_only_large_tables_are_ordered_by_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"seed": 0, "clips_per_chunk": 4, "shuffle_window": 64}
    monkeypatch.setattr(order_module, "WHOLE_ORDER_LIMIT", 5000)
    large = sample_order(TimeOrdered(), **options)  # type: ignore[arg-type]
    assert isinstance(large, WindowedOrder)
    stream = global_batches(large, start_sample=64, batch_size=32)
    again = global_batches(large, start_sample=0, batch_size=32)
    skipped = list(itertools.islice(again, 4))[2:]
    for (_, a), (_, b) in zip(itertools.islice(stream, 2), skipped, strict=True):
        assert a.tolist() == b.tolist()
