"""Edit distance of sequences of coming actions: Ego4D's long-term anticipation (HierVL 6.6)."""

from __future__ import annotations

import numpy as np

from egovl.metrics.arrays import Array, to_numpy


def edit_distance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Damerau-Levenshtein distance of sequences, row by row.

    Insertion, deletion, substitution and the exchange of two neighbours cost 1; a pair that was
    exchanged is not edited again.

    Args:
        first: ``[..., Z]`` class ids.
        second: ``[..., Y]``, the same leading sizes.

    Returns:
        ``[...]`` int64.
    """
    rows = first.shape[-1]
    columns = second.shape[-1]
    table = np.zeros((*first.shape[:-1], rows + 1, columns + 1), dtype=np.int64)
    table[..., :, 0] = np.arange(rows + 1)
    table[..., 0, :] = np.arange(columns + 1)
    for i in range(1, rows + 1):
        for j in range(1, columns + 1):
            differs = first[..., i - 1] != second[..., j - 1]
            best = np.minimum(table[..., i - 1, j], table[..., i, j - 1]) + 1
            best = np.minimum(best, table[..., i - 1, j - 1] + differs)
            if i > 1 and j > 1:
                crossed = (first[..., i - 1] == second[..., j - 2]) & (
                    first[..., i - 2] == second[..., j - 1]
                )
                exchanged = table[..., i - 2, j - 2] + 1
                best = np.where(crossed, np.minimum(best, exchanged), best)
            table[..., i, j] = best
    return table[..., rows, columns]


def nearest_edit_distance(drawn: Array, true: Array) -> np.ndarray:
    """Distance of the nearest of several sequences, as a share of their length: ``ED@Z``.

    Args:
        drawn: ``[N, K, Z]`` class ids of K sequences for each sample.
        true: ``[N, Z]``.

    Returns:
        ``[N]``, 0 .. 1.

    Raises:
        ValueError: Shapes that do not fit.
    """
    sequences, truth = to_numpy(drawn), to_numpy(true)
    if sequences.ndim != 3 or truth.shape != (len(sequences), sequences.shape[2]):
        raise ValueError(f"drawn {sequences.shape}, true {truth.shape}: need [N, K, Z] and [N, Z]")
    spread = np.broadcast_to(truth[:, None], sequences.shape)
    return edit_distance(sequences, spread).min(axis=1) / sequences.shape[2]
