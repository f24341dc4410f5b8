"""Grounding: inference in buckets, suppression and evaluation against the straightforward way.

The baselines are the published rules: every video padded to 2,560 steps, all rounds of soft-NMS,
recalls query by query. Same weights, threads and types; equal answers are checked.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from egovl.metrics.span_nms import soft_nms
from egovl.metrics.spans import score_spans
from egovl.models.grounder.configs import GrounderConfig
from tests.bench.ratio import report_ratio
from tests.egovl.metrics.span_loops import recall_loop, soft_nms_loop

STEPS = 900  # of a clip of 480 s, the median
SOFT = {"iou_threshold": 0.1, "sigma": 0.75, "min_score": 0.001}


def test_inference_of_a_query_in_its_bucket_against_full_padding(
    benchmark: BenchmarkFixture,
) -> None:
    torch.manual_seed(0)
    config = GrounderConfig(legacy_text_padding=True, legacy_video_padding=True)
    model = config.build().eval()
    with torch.no_grad():
        for param in model.parameters():
            param.add_(0.02 * torch.randn_like(param))
    video, text = torch.randn(1, STEPS, config.video_dim), torch.randn(1, 9, config.text_dim)
    mask, text_mask = torch.ones(1, STEPS).bool(), torch.ones(1, 9).bool()
    full = torch.zeros(1, config.max_length, config.video_dim)
    full[:, :STEPS] = video
    full_mask = torch.arange(config.max_length)[None] < STEPS

    @torch.no_grad()
    def ours() -> object:
        return model(video, mask, text, text_mask)

    @torch.no_grad()
    def baseline() -> object:
        return model(full, full_mask, text, text_mask)

    for a, b in zip(ours(), baseline(), strict=True):  # type: ignore[call-overload]
        count = int(a.mask.sum())
        for name in ("logits", "offsets"):
            worst = (getattr(a, name) - getattr(b, name)[:, : len(a.mask[0])])[:, :count]
            assert worst.abs().max().item() < 1e-4, name
    report_ratio(f"one query of {STEPS} steps, bucket against 2560", ours, baseline, 3)
    benchmark.pedantic(ours, rounds=1)


def round_by_round(spans: np.ndarray, scores: np.ndarray) -> tuple[list[int], list[float]]:
    """All rounds, each vectorised: the stronger of the straightforward ways."""
    kept = soft_nms(spans, scores, **SOFT)
    return kept.places.tolist(), kept.scores.tolist()


@pytest.mark.parametrize("count", [500, 2000, 5000])
def test_suppression_of_candidates_against_all_rounds(
    benchmark: BenchmarkFixture, count: int
) -> None:
    rng = np.random.default_rng(count)
    start = rng.uniform(0, 900, count)
    spans = np.stack([start, start + rng.exponential(20, count)], axis=1).astype(np.float32)
    scores = rng.uniform(0.001, 1, count).astype(np.float32)

    def ours() -> object:
        return soft_nms(spans, scores, max_kept=5, **SOFT)

    places, decayed = round_by_round(spans, scores)
    kept = soft_nms(spans, scores, max_kept=5, **SOFT)
    assert kept.places.tolist() == places[:5]
    assert kept.scores.tolist() == decayed[:5]
    if count == 500:  # in plain Python all rounds take seconds
        loop, _ = soft_nms_loop(spans, scores, method=2, **SOFT)
        assert loop[:5] == places[:5]
    report_ratio(
        f"soft-NMS of {count}, 5 kept, against all rounds",
        ours,
        lambda: round_by_round(spans, scores),
        rounds=3,
    )
    benchmark.pedantic(ours, rounds=1)


def test_evaluation_of_queries_against_a_loop(benchmark: BenchmarkFixture) -> None:
    rng = np.random.default_rng(0)
    truth = np.sort(rng.uniform(0, 480, (4000, 2)), axis=1)
    spans = np.sort(truth[:, None] + rng.normal(0, 20, (4000, 5, 2)), axis=2)
    counts = np.full(4000, 5)
    listed, true = spans.tolist(), truth.tolist()
    thresholds, ranks = (0.3, 0.5), (1, 5)

    def ours() -> object:
        return score_spans(spans, counts, truth, thresholds=thresholds, ranks=ranks)

    def baseline() -> object:
        return recall_loop(listed, true, thresholds, ranks)

    found = score_spans(spans, counts, truth, thresholds=thresholds, ranks=ranks)
    recall, mean_iou = recall_loop(listed, true, thresholds, ranks)
    np.testing.assert_allclose(found.recall, recall, rtol=1e-12)
    assert abs(found.mean_iou - mean_iou) < 1e-12
    report_ratio("recall of 4,000 queries against a loop", ours, baseline, rounds=5)
    benchmark.pedantic(ours, rounds=1)
