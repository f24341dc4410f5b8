from __future__ import annotations

import numpy as np
import pytest

from egovl.metrics.span_ensemble import ensemble_spans
from egovl.metrics.spans import format_table, score_spans, span_metrics
from tests.egovl.metrics.span_loops import recall_loop

THRESHOLDS, RANKS = (0.3, 0.5), (1, 3, 5)


def queries(seed: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    start = rng.uniform(0, 300, (count, 1))
    truth = np.concatenate([start, start + rng.exponential(10, (count, 1)) + 0.1], axis=1)
    noise = rng.normal(0, 6, (count, 5, 2))
    spans = np.sort(truth[:, None] + noise, axis=2)
    return spans, rng.integers(1, 6, count), truth


def test_recalls_are_those_of_a_loop_over_queries_and_spans() -> None:
    spans, counts, truth = queries(0, 300)
    found = score_spans(spans, counts, truth, thresholds=THRESHOLDS, ranks=RANKS)
    listed = [row[:n].tolist() for row, n in zip(spans, counts, strict=True)]
    recall, mean_iou = recall_loop(listed, truth.tolist(), THRESHOLDS, RANKS)
    np.testing.assert_allclose(found.recall, recall, rtol=1e-12)
    assert found.mean_iou == pytest.approx(mean_iou, rel=1e-12)


def test_queries_without_a_prediction_count_as_missed_if_told_how_many_were_asked() -> None:
    spans, counts, truth = queries(1, 40)
    here = score_spans(spans, counts, truth, thresholds=THRESHOLDS, ranks=RANKS)
    asked = score_spans(spans, counts, truth, thresholds=THRESHOLDS, ranks=RANKS, num_queries=80)
    np.testing.assert_allclose(asked.recall, here.recall / 2)
    assert asked.mean_iou == pytest.approx(here.mean_iou / 2)
    with pytest.raises(ValueError, match="40 predictions for 39 queries"):
        score_spans(spans, counts, truth, num_queries=39)


def test_an_overlap_at_the_threshold_is_a_miss_and_two_equal_points_are_one_too() -> None:
    spans = np.array([[[10.0, 15.0]], [[3.0, 3.0]]])
    truth = np.array([[10.0, 20.0], [3.0, 3.0]])
    found = score_spans(spans, np.array([1, 1]), truth, thresholds=(0.5,), ranks=(1,))
    assert found.recall.tolist() == [[0.0]]
    assert np.isnan(found.mean_iou)


def test_the_table_shows_percent_by_rank_then_threshold() -> None:
    spans, counts, truth = queries(2, 50)
    found = score_spans(spans, counts, truth, thresholds=THRESHOLDS, ranks=RANKS)
    table = format_table(found, THRESHOLDS, RANKS)
    assert "Rank@3" in table.splitlines()[1]
    metrics = span_metrics(found, THRESHOLDS, RANKS)
    assert f"{metrics['R1_0.3']:.02f}" in table
    assert metrics["mean_R1"] == pytest.approx((metrics["R1_0.3"] + metrics["R1_0.5"]) / 2)


def test_an_ensemble_of_equal_models_answers_what_they_answer() -> None:
    rows = [[0.0, 4.0, 0.9], [10.0, 14.0, 0.5], [20.0, 24.0, 0.3]]
    assert ensemble_spans([rows, rows, rows]) == [
        [0.0, 4.0],
        [10.0, 14.0],
        [20.0, 24.0],
        [20.0, 24.0],
        [20.0, 24.0],
    ]
    with pytest.raises(ValueError, match="have no span"):
        ensemble_spans([rows, []])
