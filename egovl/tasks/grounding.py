"""Find the spans of a video that answer a query: training, evaluation, the challenge's file.

Letters: B queries, T points of a level, P points of all levels, N spans, K classes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from egovl import dist
from egovl.data.datasets.nlq import NLQ, QueryBatch
from egovl.engine.task import StepOutput
from egovl.losses.grounding import advance_normalizer, assign_points, grounding_loss
from egovl.metrics.span_decoding import TimeGrid, candidates, suppress, to_seconds
from egovl.metrics.span_nms import ScoredSpans
from egovl.metrics.spans import score_spans, span_metrics
from egovl.models.grounder.grounder import Grounder, PointScores
from egovl.tasks.binding import take
from egovl.tasks.grounding_configs import GroundingConfig
from egovl.tasks.grounding_submission import (
    QueryPrediction,
    check_predictions,
    write_submission,
)

logger = logging.getLogger(__name__)


class Grounding:
    """``TrainTask`` and ``EvalTask`` of a `Grounder` on batches of queries."""

    def __init__(self, config: GroundingConfig) -> None:
        self.config = config
        self._dataset: NLQ | None = None

    def bind(self, dataset: Any, tokenizer: Any) -> None:
        """Take the rows, whose ids the challenge's file needs."""
        take(dataset, "rows", "grounding")
        self._dataset = dataset

    def train_step(self, model: nn.Module, batch: QueryBatch) -> StepOutput:
        """Loss of this rank's queries, over the running number of positives of all ranks."""
        levels = score_points(model, batch)
        points = torch.cat([level.points for level in levels])
        targets = assign_points(
            points, batch.spans, batch.span_counts, batch.span_classes, self.config.loss
        )
        valid = torch.cat([level.mask for level in levels], dim=1)
        positives = (targets.is_positive & valid).sum().float()
        grounder = _grounder_of(model)
        with torch.no_grad():
            mean = dist.mean_over_ranks(positives)
            grounder.normalizer.copy_(advance_normalizer(grounder.normalizer, mean))
        losses = grounding_loss(
            torch.cat([level.logits for level in levels], dim=1),
            torch.cat([level.offsets for level in levels], dim=1),
            valid,
            targets,
            grounder.normalizer[0].clone(),
            self.config.loss,
        )
        report = {
            "cls_loss": losses.classification.detach(),
            "reg_loss": losses.regression.detach(),
            "positives": positives / len(batch.index),
        }
        return StepOutput(losses.total, report)

    def after_step(self, model: nn.Module) -> None:
        """Nothing to keep in range."""

    def eval_step(self, model: nn.Module, batch: QueryBatch) -> dict[str, Tensor]:
        """Spans of every query in seconds, best first; rows beyond ``count`` are zero."""
        found = answer_queries(score_points(model, batch), batch, self.config)
        most = self.config.decoding.max_spans
        spans, scores = np.zeros((len(found), most, 2)), np.zeros((len(found), most))
        for row, own in enumerate(found):
            spans[row, : len(own)], scores[row, : len(own)] = own.spans, own.scores
        device = batch.index.device
        step_sec = batch.labels["step_sec"]
        first = batch.spans[:, 0] if batch.spans.shape[1] else torch.zeros_like(batch.spans.sum(1))
        return {
            "spans": torch.from_numpy(spans).to(device),
            "scores": torch.from_numpy(scores).to(device),
            "count": torch.tensor([len(own) for own in found], device=device),
            "truth": first.double() * step_sec[:, None],
            "has_truth": batch.span_counts > 0,
            "row": batch.index,
        }

    def score(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        """Percent: ``R1_0.3`` and so on, ``mean_R1``, ``mIoU``, and the share that was answered."""
        asked = self._asked(len(rows["row"]))
        self._write_submission(rows)
        answered = {"answered": 100 * len(rows["row"]) / asked}
        known = rows["has_truth"].cpu()
        if not known.any():
            return answered
        thresholds, ranks = self.config.thresholds, self.config.ranks
        scores = score_spans(
            rows["spans"].cpu()[known],
            rows["count"].cpu()[known],
            rows["truth"].cpu()[known],
            thresholds=thresholds,
            ranks=ranks,
            num_queries=None if self.config.legacy_coverage else asked - int((~known).sum()),
        )
        return span_metrics(scores, thresholds, ranks) | answered

    def _asked(self, answered: int) -> int:
        asked = answered if self._dataset is None else self._dataset.num_asked
        if asked > answered:
            counted = "do not count" if self.config.legacy_coverage else "count as missed"
            logger.warning(
                "%d of %d queries have no answer; they %s", asked - answered, asked, counted
            )
        return asked

    def _write_submission(self, rows: Mapping[str, Tensor]) -> None:
        path = self.config.submission
        if path is None:
            return
        assert self._dataset is not None
        predictions, durations = [], {}
        columns = (rows[name].cpu().numpy() for name in ("row", "spans", "scores", "count"))
        for row, spans, scores, count in zip(*columns, strict=True):
            annotated = self._dataset.rows[int(row)]
            annotation_uid, query_idx = annotated.annotation
            times = _times(spans[:count], scores[:count], self.config.submission_scores)
            prediction = QueryPrediction(annotated.video_id, annotation_uid, query_idx, times)
            predictions.append(prediction)
            durations[prediction.key] = annotated.duration_sec
        check_predictions(predictions, durations)
        write_submission(path, predictions)
        logger.info("%s: %d queries", path, len(predictions))


def _times(spans: np.ndarray, scores: np.ndarray, with_scores: bool) -> list[list[float]]:
    """Spans as the file holds them; a query without one gets an empty span at the beginning."""
    rows = np.concatenate([spans, scores[:, None]], axis=1) if len(spans) else np.zeros((1, 3))
    return rows[:, : 3 if with_scores else 2].tolist()


def _grounder_of(network: nn.Module) -> Grounder:
    """The model inside what a training step calls (DDP, compiled)."""
    while not isinstance(network, Grounder):
        inner = getattr(network, "module", None) or getattr(network, "_orig_mod", None)
        if inner is None:
            raise ValueError(f"task grounding needs a grounder, not a {type(network).__name__}")
        network = cast(nn.Module, inner)
    return network


def score_points(model: nn.Module, batch: QueryBatch) -> list[PointScores]:
    """Scores of all points; the features of a clip that several queries ask about are read once."""
    if not isinstance(batch, QueryBatch):
        raise ValueError("task grounding needs a dataset of queries, such as nlq")
    return model(
        batch.features, batch.feature_mask, batch.text, batch.text_mask, batch.video_of_row
    )


def answer_queries(
    levels: list[PointScores], batch: QueryBatch, config: GroundingConfig
) -> list[ScoredSpans]:
    """Spans of every query in seconds, best first."""
    facts = {
        name: batch.labels[name].tolist() for name in ("step_sec", "window_sec", "duration_sec")
    }
    moved = [
        PointScores(
            level.logits.float().cpu(),
            level.offsets.float().cpu(),
            level.mask.cpu(),
            level.points.cpu(),
        )
        for level in levels
    ]
    answers = []
    for row, (step, window, duration) in enumerate(zip(*facts.values(), strict=True)):
        found = candidates(
            [level.logits[row] for level in moved],
            [level.offsets[row] for level in moved],
            [level.mask[row] for level in moved],
            [level.points for level in moved],
            config.decoding,
        )
        kept = suppress(found, config.decoding)
        answers.append(to_seconds(kept, TimeGrid(step, window), duration, config.decoding))
    return answers
