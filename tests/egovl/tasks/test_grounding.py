from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from egovl.data.configs import LoaderConfig
from egovl.data.datasets.nlq import NLQ
from egovl.data.loader import build_eval_loader
from egovl.engine.evaluator import Evaluation, evaluate
from egovl.losses.grounding import assign_points
from egovl.losses.grounding_configs import GroundingLossConfig
from egovl.metrics.configs import SpanDecodingConfig
from egovl.models.grounder.grounder import Grounder
from egovl.models.grounder.heads import points_of
from egovl.tasks.binding import bind
from egovl.tasks.grounding import Grounding
from egovl.tasks.grounding_configs import GroundingConfig
from egovl.tasks.grounding_submission import (
    QueryPrediction,
    SubmissionError,
    check_predictions,
    read_submission,
)
from tests.egovl.data.query_files import question, write_questions
from tests.egovl.models.grounder.test_grounder import TINY

LOADER = LoaderConfig(batch_size=4, eval_batch_size=4, num_workers=0)
CONFIG = GroundingConfig(decoding=SpanDecodingConfig(min_candidate_score=0.0))


def evaluation_of(
    dataset: NLQ, config: GroundingConfig = CONFIG, loader: LoaderConfig = LOADER
) -> Evaluation:
    batches = build_eval_loader(dataset, loader, None, rank=0, world_size=1)
    return Evaluation("nlq", bind(Grounding(config), dataset, None), batches)


def model() -> Grounder:
    torch.manual_seed(0)
    return replace(TINY, drop_path=0.0).build()


def test_a_few_steps_teach_the_questions_of_a_few_clips(tmp_path: Path) -> None:
    dataset = NLQ(write_questions(tmp_path, [question(n, 5.0 * n, 5.0 * n + 6) for n in range(6)]))
    task, grounder = bind(Grounding(CONFIG), dataset, None), model()
    optimizer = torch.optim.AdamW(grounder.parameters(), 1e-2)
    (batch, _) = list(build_eval_loader(dataset, LOADER, None, rank=0, world_size=1))
    losses = []
    for _ in range(60):
        output = task.train_step(grounder, batch)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append(output.loss.item() * grounder.normalizer.item())
    assert losses[-1] < losses[0] / 4
    positives = output.report["positives"].item() * len(batch.index)
    first = 0.9 * TINY.normalizer_init + 0.1 * positives
    assert grounder.normalizer.item() < first < TINY.normalizer_init
    found = evaluate(evaluation_of(dataset), grounder, torch.device("cpu"))
    assert found["R1_0.3"] >= 50
    assert found["answered"] == 100


def test_evaluation_leaves_the_normaliser_alone(tmp_path: Path) -> None:
    dataset, grounder = NLQ(write_questions(tmp_path, [question(0, 5, 9)])), model()
    before = grounder.normalizer.clone()
    evaluate(evaluation_of(dataset), grounder, torch.device("cpu"))
    assert torch.equal(grounder.normalizer, before)


def test_questions_that_could_not_be_asked_are_missed_unless_told_otherwise(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [question(0, 5, 9), question(1, 5, 9), question(2, 5, 9) | {"video_id": "nowhere"}]
    dataset = NLQ(write_questions(tmp_path, rows))
    right = {
        "spans": torch.tensor([[[5.0, 9.0]]] * 2, dtype=torch.float64),
        "scores": torch.ones(2, 1, dtype=torch.float64),
        "count": torch.tensor([1, 1]),
        "truth": torch.tensor([[5.0, 9.0]] * 2, dtype=torch.float64),
        "has_truth": torch.tensor([True, True]),
        "row": torch.tensor([0, 1]),
    }
    found = bind(Grounding(CONFIG), dataset, None).score(right)
    assert found["R1_0.5"] == pytest.approx(200 / 3)
    assert found["answered"] == pytest.approx(200 / 3)
    assert "1 of 3 queries have no answer; they count as missed" in caplog.text
    legacy = replace(CONFIG, legacy_coverage=True)
    assert bind(Grounding(legacy), dataset, None).score(right)["R1_0.5"] == 100


def test_a_test_split_is_answered_into_a_file_without_scores(tmp_path: Path) -> None:
    rows = [question(n, 1, 2) for n in range(5)]
    for row in rows:
        del row["timestamps"]
    out = tmp_path / "answers.json"
    dataset = NLQ(write_questions(tmp_path, rows))
    config = replace(CONFIG, submission=out, submission_scores=True)
    found = evaluate(evaluation_of(dataset, config), model(), torch.device("cpu"))
    assert found == {"answered": 100.0}
    predictions = read_submission(out)
    assert sorted(p.annotation_uid for p in predictions) == [f"ann{n}" for n in range(5)]
    for prediction in predictions:
        for start, end, score in prediction.times:
            assert 0 <= start <= end <= 40
            assert 0 <= score <= 1
    assert json.loads(out.read_text())["challenge"] == "ego4d_nlq_challenge"


def prediction(number: int, *times: list[float]) -> QueryPrediction:
    return QueryPrediction("clip", "ann", number, list(times))


def test_what_the_challenge_would_refuse_is_refused_before_it_is_written() -> None:
    good = prediction(0, [1.0, 2.0])
    durations = {good.key: 10.0, ("clip", "ann", 1): 10.0}
    for predictions, message in (
        ([good], "1 queries have no prediction, first ann_1 of clip clip"),
        ([good, good], "is there twice"),
        ([good, prediction(1)], "ann_1 has no span"),
        ([good, prediction(1, [3.0, 2.0])], "no stretch of its clip"),
        ([good, prediction(1, [3.0, 11.0])], "no stretch of its clip of 10.0 s"),
        ([good, prediction(1, [math.nan, 4.0])], "no stretch"),
        ([good, prediction(2, [1.0, 2.0])], "was never asked"),
    ):
        with pytest.raises(SubmissionError, match=message):
            check_predictions(predictions, durations)
    check_predictions([good, prediction(1, [0.0, 10.0])], durations)


def test_points_are_given_to_the_shortest_span_that_their_level_answers_for() -> None:
    rng = np.random.default_rng(0)
    points = torch.cat(points_of((64, 32, 16), (1, 2, 4), ((0, 4), (2, 8), (4, 10000))))
    start = rng.uniform(0, 60, (4, 3, 1))
    spans = np.concatenate([start, start + rng.exponential(6, (4, 3, 1))], axis=2)
    counts = [3, 1, 0, 2]
    hot = torch.ones(4, 3, 1)
    for rule in ("radius", "none"):
        config = GroundingLossConfig(center_sample=rule)  # type: ignore[arg-type]
        targets = assign_points(points, torch.from_numpy(spans), torch.tensor(counts), hot, config)
        for row, count in enumerate(counts):
            for place, (time, low, high, stride) in enumerate(points.tolist()):
                best = (math.inf, 0.0, 0.0)
                for a, b in spans[row, :count]:
                    left, right, middle = time - a, b - time, (a + b) / 2
                    inside = min(left, right) > 0
                    if rule == "radius":
                        near = max(middle - 1.5 * stride, a), min(middle + 1.5 * stride, b)
                        inside = near[0] < time < near[1]
                    if inside and low <= max(left, right) <= high:
                        best = min(best, (b - a, left / stride, right / stride))
                assert targets.classes[row, place, 0] == (best[0] < math.inf)
                if best[0] < math.inf:
                    assert targets.offsets[row, place].tolist() == pytest.approx(best[1:])
