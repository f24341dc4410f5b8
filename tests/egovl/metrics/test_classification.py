from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from egovl.metrics.classification import (
    class_accuracy,
    confusion_matrix,
    label_precision,
    marginal_scores,
    topk_accuracy,
)


def test_top_k_counts_targets_among_the_k_best() -> None:
    scores = torch.tensor([[0.1, 0.5, 0.4], [0.3, 0.3, 0.4], [0.2, 0.2, 0.6]])
    found = topk_accuracy(scores, torch.tensor([2, 1, 0]), (1, 2, 3))
    # row 1: class 2 is best, 0 and 1 are equal and 0 comes first
    assert found == pytest.approx({"top1": 0, "top2": 200 / 3, "top3": 100})


def test_mean_class_accuracy_counts_predicted_classes_without_target_as_zero() -> None:
    scores = np.eye(5)[[0, 0, 1, 3]]
    found = class_accuracy(scores, np.array([0, 0, 2, 1]))
    # classes 0: 2 of 2; 1: 0 of 1; 2: 0 of 1; 3: only predicted; 4 is left out
    assert found == pytest.approx({"mean_class": 25.0, "top1": 50.0})
    counts = confusion_matrix(np.array([0, 0, 1, 3]), np.array([0, 0, 2, 1]), 5)
    assert counts[2, 1] == 1
    assert counts.sum() == 4


def test_marginals_sum_over_the_actions_of_a_verb() -> None:
    probabilities = np.array([[0.5, 0.2, 0.3]])
    verbs = np.array([2, 0, 2])
    assert marginal_scores(probabilities, verbs, 3) == pytest.approx(np.array([[0.2, 0, 0.8]]))
    legacy = marginal_scores(probabilities, verbs, 3, legacy_absent=True)
    assert legacy == pytest.approx(np.array([[0.2, 0.5, 0.8]]))


def average_precision(scores: list[float], truth: list[int]) -> float:
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    hits = [truth[i] for i in order]
    return float(np.mean([sum(hits[: k + 1]) / (k + 1) for k in range(len(hits)) if hits[k]]))


def test_label_precision_equals_a_loop_and_samples_without_a_label_come_last() -> None:
    generator = np.random.default_rng(0)
    scores, truth = generator.random((50, 4)), (generator.random((50, 4)) < 0.2).astype(int)
    masked = np.where(truth.any(axis=1, keepdims=True), scores, -9.0)
    expected = [average_precision(masked[:, c].tolist(), truth[:, c].tolist()) for c in range(4)]
    found = label_precision(scores, truth)
    assert found.per_class == pytest.approx(expected)
    assert found.weighted.sum() == pytest.approx(np.average(expected, weights=truth.sum(axis=0)))
    assert label_precision(scores, truth, mask_empty=False).per_class != pytest.approx(expected)


def test_a_class_without_a_positive_is_left_out_and_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    truth = np.array([[1, 0], [0, 0], [1, 0]])
    found = label_precision(np.random.default_rng(0).random((3, 2)), truth)
    with caplog.at_level(logging.WARNING):
        assert found.mean() == pytest.approx(1.0)
    assert "1 of 2 classes have no positive" in caplog.text
    assert np.isnan(found.mean(legacy_nan=True))


def test_broken_input_is_refused() -> None:
    with pytest.raises(ValueError, match="targets reach from 0 to 3, there are 3 classes"):
        topk_accuracy(np.eye(3), np.array([0, 1, 3]))
    with pytest.raises(ValueError, match="there is no sample"):
        class_accuracy(np.empty((0, 3)), np.empty(0, dtype=int))
    with pytest.raises(ValueError, match="samples have a NaN score"):
        label_precision(np.array([[np.nan]]), np.array([[1]]))
