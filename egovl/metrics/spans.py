"""Recall of spans in time and their mean overlap, as the Ego4D challenge counts (GroundNLQ 6.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from egovl.metrics.arrays import Array, to_numpy

Floats = NDArray[np.float64]

IOU_THRESHOLDS = (0.3, 0.5)
RANKS = (1, 5)


@dataclass(frozen=True)
class SpanScores:
    """What an evaluation finds.

    Attributes:
        recall: ``[thresholds, ranks]`` share of queries.
        mean_iou: of the first spans.
        first_iou: ``[Q]`` of the first span of each query.
    """

    recall: Floats
    mean_iou: float
    first_iou: Floats


def span_iou(predicted: Floats, truth: Floats) -> Floats:
    """Overlap over the hull: the IoU where spans overlap, 0 elsewhere; NaN for two equal points.

    Args:
        predicted: ``[..., 2]``.
        truth: ``[..., 2]``, broadcast against it.
    """
    inter = np.minimum(predicted[..., 1], truth[..., 1]) - np.maximum(
        predicted[..., 0], truth[..., 0]
    )
    hull = np.maximum(predicted[..., 1], truth[..., 1]) - np.minimum(
        predicted[..., 0], truth[..., 0]
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.maximum(inter, 0.0) / hull


def score_spans(
    predicted: Array,
    counts: Array,
    truth: Array,
    *,
    thresholds: Sequence[float] = IOU_THRESHOLDS,
    ranks: Sequence[int] = RANKS,
    num_queries: int | None = None,
) -> SpanScores:
    """Recall at ranks and thresholds: is any of the first K spans above the IoU?

    Args:
        predicted: ``[Q, N, 2]`` spans, best first.
        counts: ``[Q]`` how many of them there are.
        truth: ``[Q, 2]``.
        thresholds: an IoU must be above, not at it.
        ranks: the K.
        num_queries: queries asked; those without a prediction count as missed. None: only those
            that are here, as the published evaluators do.

    Raises:
        ValueError: shapes that do not fit, or no query.
    """
    spans: Floats = to_numpy(predicted).astype(np.float64)
    there: NDArray[np.int64] = to_numpy(counts).astype(np.int64)
    true: Floats = to_numpy(truth).astype(np.float64)
    if spans.ndim != 3 or true.shape != (len(spans), 2) or there.shape != (len(spans),):
        raise ValueError(
            f"spans {spans.shape}, counts {there.shape}, truth {true.shape}: need [Q, N, 2], [Q] "
            "and [Q, 2]"
        )
    total = len(spans) if num_queries is None else num_queries
    if total < max(1, len(spans)):
        raise ValueError(f"{len(spans)} predictions for {total} queries: at least one, no more")
    iou = span_iou(spans, true[:, None])
    places: NDArray[np.int64] = np.arange(int(spans.shape[1]), dtype=np.int64)
    exists: NDArray[np.bool_] = np.less(places, there[:, None])
    recall = np.zeros((len(thresholds), len(ranks)))
    for t, threshold in enumerate(thresholds):
        hits: NDArray[np.bool_] = np.greater(iou, threshold) & exists  # a NaN is above nothing
        for k, rank in enumerate(ranks):
            recall[t, k] = float(np.any(hits[:, :rank], axis=1).sum()) / total
    first = np.where(there > 0, iou[:, 0], 0.0) if spans.shape[1] else np.zeros(len(spans))
    return SpanScores(recall, float(first.sum() / total), first)


def span_metrics(
    scores: SpanScores, thresholds: Sequence[float], ranks: Sequence[int]
) -> dict[str, float]:
    """In percent: ``R1_0.3`` and so on, ``mIoU``, and the mean R@1 that the challenge ranks by."""
    found = {
        f"R{rank}_{threshold:g}": 100 * float(scores.recall[t, k])
        for k, rank in enumerate(ranks)
        for t, threshold in enumerate(thresholds)
    }
    if 1 in ranks:
        found["mean_R1"] = 100 * float(scores.recall[:, list(ranks).index(1)].mean())
    return found | {"mIoU": 100 * scores.mean_iou}


def format_table(
    scores: SpanScores,
    thresholds: Sequence[float],
    ranks: Sequence[int],
    *,
    mean_iou: bool = True,
) -> str:
    """The challenge's printed table, in percent; columns by rank, then threshold."""
    columns = [
        (f"Rank@{rank}", f"mIoU@{threshold}", f"{100 * scores.recall[t, k]:.02f}")
        for k, rank in enumerate(ranks)
        for t, threshold in enumerate(thresholds)
    ]
    widths = [max(map(len, column)) for column in columns]
    lines = [
        [cell.center(w) for cell, w in zip(row, widths, strict=True)]
        for row in zip(*columns, strict=True)
    ]
    if mean_iou:
        last = ("mIoU", "", f"{100 * scores.mean_iou:.02f}")
        for line, cell in zip(lines, last, strict=True):
            line.append(cell.ljust(max(map(len, last))))
        widths.append(max(map(len, last)))
    rule = "+" + "+".join("-" * (width + 2) for width in widths) + "+"
    shown = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([rule, *shown[:2], rule, shown[2], rule])
