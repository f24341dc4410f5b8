from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest

import jobs.metrics_file
from jobs.metrics_file import CURVE_POINTS, RunMetrics, is_lower_better, parse_metrics
from tests.jobs.run_folders import eval_line, train_line


def parse(lines: list[dict[str, Any]], tail: str = "") -> RunMetrics:
    return parse_metrics(("".join(json.dumps(line) + "\n" for line in lines) + tail).encode())


def points(metrics: RunMetrics, name: str = "loss") -> list[tuple[int, float]]:
    return list(zip(*metrics.curves[name], strict=True))


def test_the_highest_attempt_wins_for_each_step_in_any_order() -> None:
    lines = [
        train_line(step, 10 * attempt + step, attempt)
        for attempt, steps in ((1, range(1, 6)), (2, range(4, 9)), (3, range(7, 8)))
        for step in steps
    ]
    expected = [(1, 11), (2, 12), (3, 13), (4, 24), (5, 25), (6, 26), (7, 37), (8, 28)]
    for seed in range(5):
        random.Random(seed).shuffle(lines)
        assert points(parse(lines)) == expected


def test_progress_is_that_of_the_newest_attempt() -> None:
    lines = [train_line(step, 1.0, 1) for step in (1, 2, 3)] + [train_line(2, 1.0, 2)]
    metrics = parse([{**line, "steps": 50} for line in lines])
    assert (metrics.step, metrics.steps) == (2, 50)
    assert metrics.starts == [(1, 1), (2, 2)]
    assert metrics.updated == 1.7e9 + 3


def test_last_and_both_ends_of_every_metric_are_kept_with_their_steps() -> None:
    lines = [train_line(1, 3.0), eval_line(1, 40, 30), eval_line(2, 70, 55), eval_line(3, 60, 56)]
    metrics = parse(lines)
    assert metrics.extents == {
        "loss": [3.0, 3.0, 1, 3.0, 1],
        "egomcq/inter_video": [60, 40, 1, 70, 2],
        "egomcq/intra_video": [56, 30, 1, 56, 3],
    }


def test_values_that_are_not_finite_are_no_ends() -> None:
    lines = [train_line(step, value) for step, value in enumerate((math.nan, 2.0, math.inf, 1.0))]
    assert parse(lines).extents["loss"] == [1.0, 1.0, 3, 2.0, 1]
    last, low, low_step, _, _ = parse([train_line(1, math.nan)]).extents["loss"]
    assert math.isnan(last) and math.isnan(low) and low_step is None


def test_hours_are_summed_over_the_attempts_without_the_gaps() -> None:
    lines = [
        train_line(1, 1, 1, time=0),
        train_line(2, 1, 1, time=3600),
        train_line(2, 1, 2, time=90000),
        train_line(3, 1, 2, time=97200),
    ]
    assert parse(lines).hours == pytest.approx(3.0)


@pytest.mark.parametrize(
    "damage",
    ['{"kind": "train", "st', "nonsense", "[1, 2]", '{"kind": "train"}', '{"step": "x"}', "1, 2"],
)
def test_damaged_lines_are_counted_and_the_rest_is_read(damage: str) -> None:
    lines = [json.dumps(train_line(step, 1.0 * step)) for step in (1, 2)]
    metrics = parse_metrics(f"{lines[0]}\n{damage}\n{lines[1]}\n{damage}".encode())
    assert (metrics.damaged, metrics.first_damaged) == (2, 2)
    assert points(metrics) == [(1, 1.0), (2, 2.0)]


def test_bytes_that_are_no_text_are_one_damaged_line() -> None:
    metrics = parse_metrics(b"\xff\xfe\x00\n" + json.dumps(train_line(1, 2.0)).encode() + b"\n")
    assert metrics.damaged == 1 and points(metrics) == [(1, 2.0)]


def test_an_empty_file_is_no_progress_yet() -> None:
    metrics = parse([])
    assert metrics.step is None and metrics.curves == {} and metrics.damaged == 0


def test_long_curves_are_thinned_and_keep_their_ends() -> None:
    metrics = parse([train_line(step, float(step)) for step in range(1, 1001)])
    curve = points(metrics)
    assert len(curve) == CURVE_POINTS and curve[0] == (1, 1.0) and curve[-1] == (1000, 1000.0)
    assert metrics.extents["loss"][1] == 1.0 and metrics.step == 1000


def test_a_sample_of_a_long_file_says_what_the_whole_file_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines: list[dict[str, Any]] = []
    for attempt, steps in ((1, range(1, 701)), (2, range(612, 1401)), (3, range(1377, 2001))):
        for step in steps:
            lines.append(train_line(step, 1000.0 * attempt + step, attempt, time=10.0 * step))
            if step % 50 == 0:
                lines.append(eval_line(step, step / 7, attempt, attempt))
    text = "".join(json.dumps(line) + "\n" for line in lines)
    text = text.replace("\n", "\n{half\n", 1) + '{"kind": "train", "st'
    whole = parse_metrics(text.encode())
    monkeypatch.setattr(jobs.metrics_file, "SAMPLED_LINES", 100)
    sampled = parse_metrics(text.encode())
    assert sampled.curves["egomcq/inter_video"] == whole.curves["egomcq/inter_video"]
    for field in ("step", "hours", "starts", "damaged", "first_damaged"):
        assert getattr(sampled, field) == getattr(whole, field), field
    known = dict(zip(*whole.curves["loss"], strict=True))
    shown = points(sampled)
    assert 50 < len(shown) <= CURVE_POINTS and shown[-1] == (2000, 5000.0)
    assert all(value == known[step] for step, value in shown if step in known)
    # no point of an attempt that a later one repeats
    assert all(value // 1000 - step // 1000 == attempt_of(step) for step, value in shown)


def attempt_of(step: int) -> int:
    return 1 if step < 612 else 2 if step < 1377 else 3


@pytest.mark.parametrize(
    "name", ["loss", "val/loss", "loss_verb", "pnr/error_sec", "x/mean_rank", "vloss", "lm/ppl"]
)
def test_losses_errors_and_ranks_are_best_low(name: str) -> None:
    assert is_lower_better(name)


@pytest.mark.parametrize("name", ["egomcq/intra_video", "ek100_mir/map", "lossy/top1", "top5"])
def test_scores_are_best_high(name: str) -> None:
    assert not is_lower_better(name)
