from __future__ import annotations

import numpy as np
import pytest
import torch

from egovl.metrics.retrieval import class_relevancy, dual_softmax, mir_metrics, recall_metrics


def make(queries: int = 40, items: int = 30, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    scores = generator.standard_normal((queries, items))
    relevancy = generator.choice([0.0, 0.25, 0.5, 1.0], p=[0.6, 0.15, 0.15, 0.1], size=scores.shape)
    relevancy[np.arange(queries), np.arange(queries) % items] = 1.0
    return scores, relevancy


def by_hand(scores: np.ndarray, relevancy: np.ndarray) -> tuple[float, float]:
    """mAP and nDCG in percent, query by query and rank by rank."""
    precisions, gains = [], []
    for row, rel in zip(scores.tolist(), relevancy.tolist(), strict=True):
        ranked = [rel[i] for i in sorted(range(len(row)), key=lambda i: -row[i])]
        summed, found, hits = 0.0, 0.0, 0
        for place, gain in enumerate(ranked, 1):
            summed += gain
            if gain == 1:
                found, hits = found + summed / place, hits + 1
        precisions.append(found / hits)
        count = sum(gain > 0 for gain in rel)
        discounts = [1 / np.log2(place + 1) for place in range(1, count + 1)]
        ideal = sorted(rel, reverse=True)
        gains.append(np.dot(discounts, ranked[:count]) / np.dot(discounts, ideal[:count]))
    return 100 * float(np.mean(precisions)), 100 * float(np.mean(gains))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shape", [(40, 30), (3, 2000)])
def test_mir_equals_a_loop_over_queries_and_ranks(
    shape: tuple[int, int], dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("egovl.metrics.retrieval._BLOCK_SCORES", 100)  # several blocks
    scores, relevancy = make(*shape)
    relevancy[0, :] = np.where(relevancy[0] == 0, 0.5, relevancy[0])  # every item is relevant
    relevancy[0, relevancy.max(axis=0) < 1] = 1.0  # every item has a query that wants it
    scores = scores.astype(dtype)
    found = mir_metrics(scores, relevancy)
    assert (found["mAP_v2t"], found["nDCG_v2t"]) == pytest.approx(by_hand(scores, relevancy))
    assert (found["mAP_t2v"], found["nDCG_t2v"]) == pytest.approx(by_hand(scores.T, relevancy.T))
    assert found["mAP"] == pytest.approx((found["mAP_v2t"] + found["mAP_t2v"]) / 2)


@pytest.mark.parametrize("values", [1, 4, 100])
@pytest.mark.parametrize("few", [0, 16])
def test_equal_scores_rank_by_index_and_tensors_are_accepted(
    values: int, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("egovl.metrics.retrieval._FEW_EQUALS", few)
    _, relevancy = make()
    tied = np.random.default_rng(1).integers(0, values, relevancy.shape).astype(np.float64)
    found = mir_metrics(torch.tensor(tied), torch.tensor(relevancy))
    # python's sort in the loop is stable: equal scores stay in the order of their index
    assert (found["mAP_v2t"], found["nDCG_v2t"]) == pytest.approx(by_hand(tied, relevancy))


def test_scores_that_float32_cannot_tell_apart_are_ranked_in_float64() -> None:
    relevancy = np.array([[0.0, 1.0], [1.0, 0.0]])
    scores = np.array([[1.0, 1.0 + 1e-12], [1.0, 1.0 - 1e-12]])
    assert mir_metrics(scores, relevancy)["mAP_v2t"] == 100.0
    assert mir_metrics(scores.astype(np.float32), relevancy)["mAP_v2t"] == 75.0


def test_a_perfect_ranking_has_full_gain_and_an_affine_change_changes_nothing() -> None:
    scores, relevancy = make()
    assert mir_metrics(relevancy, relevancy)["nDCG"] == pytest.approx(100)
    assert mir_metrics(3 * scores + 7, relevancy) == mir_metrics(scores, relevancy)


def test_a_query_without_anything_to_find_is_refused_or_left_out() -> None:
    scores, relevancy = make()
    relevancy[5] = 0
    with pytest.raises(ValueError, match=r"mAP v2t: 1 of 40 queries .* first 5"):
        mir_metrics(scores, relevancy)
    kept = np.arange(40) != 5
    left_out = mir_metrics(scores, relevancy, on_empty="skip")
    assert left_out["mAP_v2t"] == pytest.approx(by_hand(scores[kept], relevancy[kept])[0])
    assert np.isnan(mir_metrics(scores, relevancy, on_empty="legacy_nan")["nDCG_v2t"])


def test_broken_input_is_refused() -> None:
    scores, relevancy = make()
    with pytest.raises(ValueError, match=r"\[Q, N\] twice"):
        mir_metrics(scores[:, 1:], relevancy)
    scores[3, 4] = np.nan
    with pytest.raises(ValueError, match="1 queries have a NaN score"):
        mir_metrics(scores, relevancy)


def test_relevancy_is_the_mean_overlap_of_verbs_and_nouns() -> None:
    verbs = np.array([[1, 0], [0, 1], [1, 0]])
    nouns = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 1]])
    found = class_relevancy(verbs, nouns, np.array([0, 1]))
    assert found == pytest.approx(np.array([[1.0, 0.25], [0.25, 1.0], [0.5, 0.0]]))
    with pytest.raises(ValueError, match="video 1 has no noun class"):
        class_relevancy(verbs, nouns * [[1], [0], [1]], np.array([0, 1]))


def test_recalls_and_ranks_of_pairs_equal_a_loop() -> None:
    generator = np.random.default_rng(2)
    scores = generator.integers(0, 9, (30, 12)).astype(np.float64)
    owner = np.concatenate([np.arange(12), generator.integers(0, 12, 18)])
    texts = [sum(s > row[v] for s in row) for row, v in zip(scores, owner, strict=True)]
    videos = []
    for v in range(12):
        column = scores[:, v]
        own = [column[t] for t in np.flatnonzero(owner == v)]
        videos.append(min((column > s).sum() + ((column == s).sum() - 1) / 2 for s in own))
    found = recall_metrics(scores, owner)
    assert found["t2v_R5"] == pytest.approx(100 * np.mean(np.array(texts) < 5))
    assert found["t2v_MedR"] == pytest.approx(np.median(texts) + 1)
    assert found["v2t_R1"] == pytest.approx(100 * np.mean(np.array(videos) < 1))
    assert found["v2t_MeanR"] == pytest.approx(np.mean(videos) + 1)
    assert recall_metrics(np.eye(5))["v2t_geometric_mean"] == pytest.approx(100)
    with pytest.raises(ValueError, match=r"videos \[3\] have no text"):
        recall_metrics(scores[:3, :4], np.array([0, 1, 2]))


def test_dual_softmax_sharpens_the_best_pairs() -> None:
    matrix = dual_softmax(50 * torch.eye(4) + torch.rand(4, 4))
    assert matrix.sum(dim=0) == pytest.approx(torch.ones(4))
    assert (matrix.argmax(dim=0) == torch.arange(4)).all()
