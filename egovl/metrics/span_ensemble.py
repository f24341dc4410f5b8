"""Spans of several models for one query, joined into five (GroundNLQ spec 6.6)."""

from __future__ import annotations

from collections.abc import Sequence

Row = list[float]
"""Start, end, score, and what else a row carries."""

CLUSTER_GAP_SEC = 2.0
MAX_IOU = 0.5
MAX_SPANS = 5
POOL_SIZE = 4
"""First spans of each model that take part."""


def temporal_nms(
    rows: Sequence[Sequence[float]], max_iou: float = MAX_IOU, max_kept: int = MAX_SPANS
) -> list[Sequence[float]]:
    """Best rows whose overlap (over the hull) with a better one is at most ``max_iou``.

    A single row is returned as it is.
    """
    if len(rows) <= 1:
        return list(rows)
    kept: list[Sequence[float]] = []
    for row in sorted(rows, key=lambda row: -row[2]):
        if all(_hull_iou(better, row) <= max_iou for better in kept):
            kept.append(row)
        if len(kept) == max_kept:
            break
    return kept


def _hull_iou(a: Sequence[float], b: Sequence[float]) -> float:
    hull = max(a[1], b[1]) - min(a[0], b[0])
    inter = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    return inter / hull if hull > 0 else 0.0


def join_first_spans(first: Sequence[Sequence[float]]) -> list[Row]:
    """New spans from the models' first ones: clusters of near centres, each the mean of two.

    Returns:
        Rows ``[start, end, mean score, 0, total score of the cluster]``, the highest total first.
    """
    by_center = {(row[0] + row[1]) / 2: list(row) for row in first}
    centers = sorted(by_center)
    clusters: list[list[Row]] = []
    for number, center in enumerate(centers):
        if number and center - centers[number - 1] < CLUSTER_GAP_SEC:
            clusters[-1].append(by_center[center])
        else:
            clusters.append([by_center[center]])
    joined: list[Row] = []
    for rows in clusters:
        best, middle = max(rows, key=lambda row: row[2]), _middle(rows)
        mean = [(a + b) / 2 for a, b in zip(middle[:3], best[:3], strict=True)]
        joined.append([*mean, 0, sum(row[2] for row in rows)])
    return sorted(joined, key=lambda row: -row[4])


def _middle(rows: list[Row]) -> Row:
    """The window of the median centre; of two the better one, the first of equal ones."""
    half = len(rows) // 2
    if len(rows) % 2:
        return rows[half]
    return max(rows[half - 1 : half + 1], key=lambda row: row[2])


def ensemble_spans(models: Sequence[Sequence[Sequence[float]]]) -> list[list[float]]:
    """Five spans ``[start, end]`` for a query from the scored spans of each model.

    The published formula ranks joined spans by their mean score. Where fewer than five are left the
    last one is repeated.

    Raises:
        ValueError: a model has no span.
    """
    empty = [number for number, rows in enumerate(models) if not rows]
    if empty or not models:
        raise ValueError(f"models {empty} of {len(models)} have no span for this query")
    pool: list[Sequence[float]] = [row for rows in models for row in rows[:POOL_SIZE]]
    pool += join_first_spans([rows[0] for rows in models])
    kept = [list(row[:2]) for row in temporal_nms(pool)]
    return kept + [list(kept[-1]) for _ in range(MAX_SPANS - len(kept))]
