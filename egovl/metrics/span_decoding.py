"""Point scores of a query to a few spans in seconds (GroundNLQ spec 6.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from egovl.metrics.configs import SpanDecodingConfig
from egovl.metrics.span_nms import Decay, ScoredSpans, hard_nms, no_spans, soft_nms, vote

_DECAYS: dict[str, Decay] = {"soft": "gaussian", "linear": "linear"}


@dataclass(frozen=True)
class TimeGrid:
    """How feature steps lie in time.

    Attributes:
        step_sec: seconds from one feature to the next.
        window_sec: seconds of video behind a feature.
    """

    step_sec: float
    window_sec: float = 0.0


def candidates(
    logits: Sequence[Tensor],
    offsets: Sequence[Tensor],
    masks: Sequence[Tensor],
    points: Sequence[Tensor],
    config: SpanDecodingConfig,
) -> ScoredSpans:
    """Spans of one query in feature steps before suppression, level by level, best first in each.

    Args:
        logits: ``[T, K]`` of each level.
        offsets: ``[T, 2]`` likewise, in strides.
        masks: ``[T]`` True where the video has the point.
        points: ``[T, 4]`` time, range and stride.
        config: thresholds.
    """
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for level_logits, reach, mask, point in zip(logits, offsets, masks, points, strict=True):
        num_classes = level_logits.shape[-1]
        scores = (level_logits.float().sigmoid() * mask[:, None]).flatten()
        places = torch.nonzero(scores > config.min_candidate_score).flatten()
        kept, order = scores[places].sort(descending=True, stable=not config.legacy_ties)
        count = min(config.candidates_per_level, len(places))
        places, kept = places[order[:count]], kept[:count]
        rows = torch.div(places, num_classes, rounding_mode="floor")
        time, stride, side = point[rows, 0], point[rows, 3], reach[rows].float()
        spans = torch.stack([time - side[:, 0] * stride, time + side[:, 1] * stride], dim=1)
        long_enough = spans[:, 1] - spans[:, 0] > config.min_length
        found.append((spans[long_enough], kept[long_enough], (places % num_classes)[long_enough]))
    spans, scores, labels = (torch.cat(parts).cpu().numpy() for parts in zip(*found, strict=True))
    return ScoredSpans(spans, scores, labels)


def suppress(found: ScoredSpans, config: SpanDecodingConfig) -> ScoredSpans:
    """The best spans that do not lie on each other, best first."""
    if not len(found):
        return no_spans()
    if config.nms == "none":
        return found.best(config.max_spans, legacy_ties=config.legacy_ties)
    if config.per_class:
        parts: list[ScoredSpans] = []
        for label in np.unique(found.labels):
            own = found.take(np.flatnonzero(found.labels == label))
            parts.append(_suppressed(own, config))
        whole = ScoredSpans(
            np.concatenate([part.spans for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.labels for part in parts]),
        )
        return whole.best(config.max_spans, legacy_ties=config.legacy_ties)
    kept = _suppressed(found, config)
    if config.voting_threshold > 0:
        spans = vote(kept.spans, found.spans, found.scores, config.voting_threshold)
        kept = ScoredSpans(spans, kept.scores, kept.labels)
    return kept.best(config.max_spans, legacy_ties=config.legacy_ties)


def _suppressed(found: ScoredSpans, config: SpanDecodingConfig) -> ScoredSpans:
    if config.nms == "hard":
        kept = hard_nms(
            found.spans,
            found.scores,
            iou_threshold=config.iou_threshold,
            min_score=config.min_score,
            max_kept=config.max_spans,
            legacy_ties=config.legacy_ties,
        )
    else:
        kept = soft_nms(
            found.spans,
            found.scores,
            decay=_DECAYS[config.nms],
            iou_threshold=config.iou_threshold,
            sigma=config.sigma,
            min_score=config.min_score,
            max_kept=config.max_spans,
        )
    return ScoredSpans(found.spans[kept.places], kept.scores, found.labels[kept.places])


def to_seconds(
    found: ScoredSpans, grid: TimeGrid, duration_sec: float, config: SpanDecodingConfig
) -> ScoredSpans:
    """Spans in seconds of the clip, cut at its ends."""
    shift = 0.5 * grid.window_sec if config.legacy_half_window else 0.0
    seconds = found.spans * np.float32(grid.step_sec) + np.float32(shift)
    seconds = np.clip(seconds, np.float32(0), np.float32(duration_sec)).astype(np.float32)
    return ScoredSpans(seconds, found.scores, found.labels)
