from __future__ import annotations

import numpy as np
import pytest

from egovl.metrics.span_nms import Decay, hard_nms, soft_nms, vote
from tests.egovl.metrics.span_loops import soft_nms_loop

METHODS: tuple[Decay, ...] = ("hard", "linear", "gaussian")


def random_spans(seed: int, count: int, *, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    start = rng.uniform(0, 100, count)
    spans = np.stack([start, start + rng.exponential(8, count)], axis=1).astype(np.float32)
    scores = rng.uniform(0, 1, count)
    return spans, (np.round(scores, 1) if ties else scores).astype(np.float32)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("method", [0, 1, 2])
def test_soft_nms_keeps_what_the_published_loop_keeps_in_its_order(method: int, ties: bool) -> None:
    for seed in range(25):
        spans, scores = random_spans(seed, 3 + 7 * seed, ties=ties)
        options = {"iou_threshold": 0.3, "sigma": 0.5, "min_score": 0.05}
        places, decayed = soft_nms_loop(spans, scores, method=method, **options)
        kept = soft_nms(spans, scores, decay=METHODS[method], **options)
        assert kept.places.tolist() == places, (seed, method)
        np.testing.assert_allclose(kept.scores, decayed, rtol=1e-5, atol=1e-7)


def test_stopping_after_some_rounds_changes_none_of_the_kept_spans() -> None:
    for seed in range(25):
        spans, scores = random_spans(seed, 120, ties=seed % 2 == 0)
        whole = soft_nms(spans, scores)
        for count in (1, 5, 50):
            part = soft_nms(spans, scores, max_kept=count)
            assert part.places.tolist() == whole.places.tolist()[:count]
            assert part.scores.tolist() == whole.scores.tolist()[:count]


def test_the_first_span_is_kept_even_below_the_least_score() -> None:
    spans = np.array([[0, 1], [0, 1]], dtype=np.float32)
    kept = soft_nms(spans, np.array([1e-5, 1e-6], dtype=np.float32), min_score=0.1)
    assert kept.places.tolist() == [0]


def test_hard_nms_keeps_no_two_spans_that_overlap_by_the_threshold() -> None:
    spans, scores = random_spans(3, 200, ties=False)
    kept = hard_nms(spans, scores, iou_threshold=0.2, min_score=0.1)
    assert (np.diff(kept.scores) <= 0).all()
    for i, one in enumerate(spans[kept.places]):
        for other in spans[kept.places][i + 1 :]:
            inter = max(0.0, min(one[1], other[1]) - max(one[0], other[0]))
            assert inter / (np.ptp(one) + np.ptp(other) - inter + 1e-6) < 0.2
    assert kept.scores.min() > 0.1
    few = hard_nms(spans, scores, iou_threshold=0.2, min_score=0.1, max_kept=3)
    assert few.places.tolist() == kept.places.tolist()[:3]


def test_votes_move_a_span_to_the_mean_of_those_that_overlap_it() -> None:
    spans = np.array([[0, 10], [1, 11], [50, 60], [5, 5]], dtype=np.float32)
    scores = np.array([0.9, 0.3, 0.8, 0.7], dtype=np.float32)
    voted = vote(spans, spans, scores, 0.5)
    assert 0 < voted[0, 0] < 1
    assert 10 < voted[0, 1] < 11
    np.testing.assert_array_equal(voted[2:], spans[2:])  # alone, and of no length
