"""Suppression of overlapping spans in time, exact and vectorised (GroundNLQ spec 6.2).

The published loop picks the best of the live spans, swaps it to the front and walks over the rest.
After as many rounds as spans are kept nothing changes any more, and within a round the order of the
walk shows only where scores are equal: the decayed scores of all are computed at once, and the
spans stand where the loop would have left them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Decay = Literal["gaussian", "linear", "hard"]

_MIN_AREA = np.float32(1e-6)


@dataclass(frozen=True)
class ScoredSpans:
    """Spans of one query.

    Attributes:
        spans: ``[N, 2]`` float32 start and end.
        scores: ``[N]`` float32.
        labels: ``[N]`` class of each.
    """

    spans: Floats
    scores: Floats
    labels: Ints

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, places: NDArray[np.intp] | slice) -> ScoredSpans:
        """Some of them, in that order."""
        return ScoredSpans(self.spans[places], self.scores[places], self.labels[places])

    def best(self, count: int | None, *, legacy_ties: bool = False) -> ScoredSpans:
        """The highest scores first, at most ``count``; for ties see `descending`."""
        return self.take(descending(self.scores, legacy_ties=legacy_ties)[:count])


def descending(scores: Floats, *, legacy_ties: bool = False) -> NDArray[np.intp]:
    """Places of the scores, the highest first; equal ones keep their order.

    Args:
        scores: ``[N]``.
        legacy_ties: equal ones as torch's unstable sort leaves them, which depends on the processor
            (parity: groundnlq ``nms``, whose scores tie on purpose).
    """
    if legacy_ties:
        return torch.tensor(scores).sort(descending=True).indices.numpy()
    return np.argsort(-scores, kind="stable")


def no_spans() -> ScoredSpans:
    """Nothing."""
    return ScoredSpans(np.zeros((0, 2), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))


@dataclass(frozen=True)
class Kept:
    """What a suppression keeps: places in its input, best first, with their decayed scores."""

    places: NDArray[np.intp]
    scores: Floats


def soft_nms(
    spans: Floats,
    scores: Floats,
    *,
    decay: Decay = "gaussian",
    iou_threshold: float = 0.1,
    sigma: float = 0.75,
    min_score: float = 0.001,
    max_kept: int | None = None,
) -> Kept:
    """Keep the best span, lower the scores of those that overlap it, and so on.

    Args:
        spans: ``[N, 2]`` start and end.
        scores: ``[N]``.
        decay: ``gaussian``: times ``exp(-iou^2 / sigma)``; ``linear``: times ``1 - iou`` where the
            IoU reaches the threshold; ``hard``: to 0 there.
        iou_threshold: of linear and hard.
        sigma: of gaussian.
        min_score: a span that falls below it is dropped; the first one never is.
        max_kept: stop after so many; the rest does not change them.
    """
    table = _Table(spans, scores)
    last = len(scores) if max_kept is None else min(max_kept, len(scores))
    kept = 0
    while kept < min(last, table.live):
        table.swap(kept, kept + int(table.score[kept : table.live].argmax()))
        rest = slice(kept + 1, table.live)
        iou = table.iou(kept, rest)
        if decay == "gaussian":
            table.score[rest] *= np.exp(-(iou * iou) / np.float32(sigma))
        else:
            near = iou >= np.float32(iou_threshold)
            left = 1 - iou if decay == "linear" else np.float32(0)
            table.score[rest] *= np.where(near, left, np.float32(1))
        table.drop_below(kept + 1, min_score)
        kept += 1
    return Kept(table.place[:kept].copy(), table.score[:kept].copy())


def hard_nms(
    spans: Floats,
    scores: Floats,
    *,
    iou_threshold: float,
    min_score: float = -np.inf,
    max_kept: int | None = None,
    legacy_ties: bool = False,
) -> Kept:
    """Keep the best span, drop those that overlap it by the threshold or more, and so on.

    Only scores above ``min_score`` take part; ``max_kept`` of them are enough. For
    ties see `descending`.
    """
    order = np.flatnonzero(scores > np.float32(min_score))
    order = order[descending(scores[order], legacy_ties=legacy_ties)]
    table = _Table(spans[order], scores[order])
    alive = np.ones(len(order), dtype=bool)
    kept: list[int] = []
    for place in range(len(order)):
        if alive[place]:
            kept.append(place)
            rest = slice(place + 1, len(order))
            alive[rest] &= table.iou(place, rest) < np.float32(iou_threshold)
        if len(kept) == max_kept:
            break
    return Kept(order[kept], scores[order[kept]])


class _Table:
    """Columns of the spans, rearranged as the published loop does."""

    def __init__(self, spans: Floats, scores: Floats) -> None:
        spans = np.asarray(spans, dtype=np.float32)
        self.start, self.end = spans[:, 0].copy(), spans[:, 1].copy()
        self.area: Floats = self.end - self.start + _MIN_AREA
        self.score = np.array(scores, dtype=np.float32)
        self.place = np.arange(len(self.score))
        self.live = len(self.score)

    def iou(self, one: int, rest: slice) -> Floats:
        start = np.maximum(self.start[rest], self.start[one])
        inter = np.maximum(np.minimum(self.end[rest], self.end[one]) - start, np.float32(0))
        return inter / (self.area[rest] + self.area[one] - inter)

    def swap(self, first: int, second: int) -> None:
        if first != second:
            for column in self._columns():
                column[first], column[second] = column[second], column[first]

    def drop_below(self, first: int, min_score: float) -> None:
        """Fill the places of dropped spans from the end, the last live one first."""
        alive = self.score[first : self.live] >= np.float32(min_score)
        count = int(np.count_nonzero(alive))
        if count == len(alive):
            return
        holes = first + np.flatnonzero(~alive[:count])
        tail = first + count + np.flatnonzero(alive[count:])[::-1]
        for column in self._columns():
            column[holes] = column[tail]
        self.live = first + count

    def _columns(self) -> tuple[NDArray[np.generic], ...]:
        return self.start, self.end, self.area, self.score, self.place


def vote(kept: Floats, spans: Floats, scores: Floats, iou_threshold: float) -> Floats:
    """Kept spans as the mean of all that overlap them enough, weighted by score times IoU.

    A span that nothing overlaps (one of no length does not even overlap itself) stays as it is,
    where the published code gives NaN.

    Args:
        kept: ``[M, 2]``.
        spans: ``[N, 2]`` all candidates.
        scores: ``[N]`` theirs.
        iou_threshold: overlap from which a candidate has a vote.
    """
    start = np.maximum(kept[:, None, 0], spans[None, :, 0])
    inter = np.maximum(np.minimum(kept[:, None, 1], spans[None, :, 1]) - start, np.float32(0))
    area = spans[:, 1] - spans[:, 0]
    union = (kept[:, 1] - kept[:, 0])[:, None] + area[None] - inter
    iou = np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)
    weight = np.where(iou >= np.float32(iou_threshold), scores[None] * iou, np.float32(0))
    total = weight.sum(axis=1, keepdims=True)
    mean = np.divide(weight @ spans, total, out=kept.copy(), where=total > 0)
    return mean.astype(np.float32)
