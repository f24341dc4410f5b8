"""The published algorithms as plain loops over plain numbers, to compare with and to time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

F = np.float32


def soft_nms_loop(
    spans: np.ndarray,
    scores: np.ndarray,
    *,
    method: int,
    iou_threshold: float,
    sigma: float,
    min_score: float,
) -> tuple[list[int], list[float]]:
    """All rounds of the published loop, in float32: the best to the front, then the rest."""
    start, end = [F(x) for x in spans[:, 0]], [F(x) for x in spans[:, 1]]
    area = [e - s + F(1e-6) for s, e in zip(start, end, strict=True)]
    score, place = [F(x) for x in scores], list(range(len(scores)))
    live, i = len(score), 0
    columns = (start, end, area, score, place)
    while i < live:
        best = max(range(i, live), key=lambda k: (score[k], -k))
        for column in columns:
            column[i], column[best] = column[best], column[i]  # type: ignore[index]
        k = i + 1
        while k < live:
            inter = max(F(0), min(end[i], end[k]) - max(start[i], start[k]))
            iou = inter / (area[i] + area[k] - inter)
            if method == 2:
                score[k] = score[k] * F(math.exp(-(iou * iou) / F(sigma)))
            elif iou >= F(iou_threshold):
                score[k] = score[k] * (F(1) - iou) if method == 1 else F(0)
            if score[k] < F(min_score):
                live -= 1
                for column in columns:
                    column[k] = column[live]  # type: ignore[index]
            else:
                k += 1
        i += 1
    return place[:live], [float(x) for x in score[:live]]


def recall_loop(
    predictions: Sequence[Sequence[Sequence[float]]],
    truth: Sequence[Sequence[float]],
    thresholds: Sequence[float],
    ranks: Sequence[int],
) -> tuple[np.ndarray, float]:
    """Recalls and mean IoU, query by query and span by span."""
    hits = [[0 for _ in ranks] for _ in thresholds]
    first = []
    for spans, (low, high) in zip(predictions, truth, strict=True):
        overlaps = []
        for start, end in (span[:2] for span in spans):
            inter = max(0.0, min(end, high) - max(start, low))
            overlaps.append(inter / (max(end, high) - min(start, low)))
        first.append(overlaps[0])
        for t, threshold in enumerate(thresholds):
            for k, rank in enumerate(ranks):
                hits[t][k] += any(iou > threshold for iou in overlaps[:rank])
    return np.array(hits) / len(truth), float(np.mean(first))
