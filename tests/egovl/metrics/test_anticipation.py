"""Edit distance with exchanged neighbours, and the nearest of several sequences."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import pytest

from egovl.metrics.anticipation import edit_distance, nearest_edit_distance


def by_recursion(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    @cache
    def distance(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        best = min(
            distance(i - 1, j) + 1,
            distance(i, j - 1) + 1,
            distance(i - 1, j - 1) + (first[i - 1] != second[j - 1]),
        )
        if i > 1 and j > 1 and first[i - 1] == second[j - 2] and first[i - 2] == second[j - 1]:
            best = min(best, distance(i - 2, j - 2) + 1)
        return best

    return distance(len(first), len(second))


def test_the_distance_is_that_of_its_definition_for_all_short_sequences() -> None:
    sequences = [tuple(s) for s in itertools.product(range(3), repeat=4)]
    pairs = list(itertools.product(sequences[::5], sequences[::3]))
    first, second = (np.array(x) for x in zip(*pairs, strict=True))
    expected = [by_recursion(a, b) for a, b in pairs]
    assert edit_distance(first, second).tolist() == expected


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [([1, 2, 3], [1, 2, 3], 0), ([1, 2, 3], [2, 1, 3], 1), ([1, 2, 3, 4], [2, 3, 4, 1], 2)],
)
def test_exchanged_neighbours_cost_one(first: list[int], second: list[int], distance: int) -> None:
    assert edit_distance(np.array(first), np.array(second)) == distance


def test_the_nearest_of_the_drawn_sequences_counts_as_a_share_of_the_length() -> None:
    drawn = np.array([[[1, 1, 1, 1], [4, 3, 2, 1]], [[1, 2, 4, 3], [9, 9, 9, 9]]])
    true = np.array([[1, 2, 3, 4], [1, 2, 3, 4]])
    assert nearest_edit_distance(drawn, true).tolist() == [0.75, 0.25]
    with pytest.raises(ValueError, match=r"need \[N, K, Z\]"):
        nearest_edit_distance(drawn, true[:, :3])
