from __future__ import annotations

import itertools

import numpy as np
import pytest

from egovl.data.order import WholeOrder, epoch_order, global_batches

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
