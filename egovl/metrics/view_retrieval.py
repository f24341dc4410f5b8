"""Recalls of cross-view retrieval, where row i belongs to column i (Egoinstructor spec 6.2)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from egovl.metrics.arrays import Array, refuse_nan, to_numpy


def diagonal_ranks(similarity: Array, *, legacy_ties: bool = False) -> NDArray[np.int64]:
    """Ranks, from 0, of the diagonal of ``[N, N]`` among its rows.

    Args:
        similarity: row i belongs to column i.
        legacy_ties: a value that equals the diagonal's adds its own place to the list, row after
            row, so that the list is longer than N (parity: egoinstructor ``retrieval_metrics``).

    Raises:
        ValueError: not square, or a NaN score.
    """
    values = to_numpy(similarity)
    if values.ndim != 2 or values.shape[0] != values.shape[1] or not len(values):
        raise ValueError(f"similarity is {values.shape}: need [N, N], row i belongs to column i")
    refuse_nan(values, "queries")
    own = values.diagonal()[:, None]
    above: NDArray[np.int64] = (values > own).sum(axis=1)
    if not legacy_ties:
        return above
    equal: NDArray[np.int64] = (values == own).sum(axis=1)
    first = np.cumsum(equal) - equal
    row = np.repeat(np.arange(len(values)), equal)
    return (above - first)[row] + np.arange(len(row))


def rank_metrics(ranks: NDArray[Any]) -> dict[str, float]:
    """``R1 R5 R10`` in percent, ``MedianR`` and ``MeanR`` from 1."""
    found = {f"R{k}": 100 * float((ranks < k).mean()) for k in (1, 5, 10)}
    found["MedianR"] = float(np.median(ranks)) + 1
    found["MeanR"] = float(ranks.mean()) + 1
    return found


def pair_recalls(
    similarity: Array, names: tuple[str, str] = ("v2t", "t2v"), *, legacy_ties: bool = False
) -> dict[str, float]:
    """`rank_metrics` of both directions of ``[N, N]``, prefixed by their names."""
    values = to_numpy(similarity)
    return {
        f"{name}_{key}": value
        for name, scores in zip(names, (values, values.T), strict=True)
        for key, value in rank_metrics(diagonal_ranks(scores, legacy_ties=legacy_ties)).items()
    }
