from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest

from jobs.metrics_file import CURVE_POINTS, find_best, read_metrics
from tests.jobs.run_folders import eval_line, train_line


def write_lines(tmp_path: Path, lines: list[dict[str, object]], tail: str = "") -> Path:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)
    return path


def test_the_highest_attempt_wins_for_each_step_in_any_order(tmp_path: Path) -> None:
    lines = [
        train_line(step, 10 * attempt + step, attempt)
        for attempt, steps in ((1, range(1, 6)), (2, range(4, 9)), (3, range(7, 8)))
        for step in steps
    ]
    expected = [(1, 11), (2, 12), (3, 13), (4, 24), (5, 25), (6, 26), (7, 37), (8, 28)]
    for seed in range(5):
        random.Random(seed).shuffle(lines)
        assert read_metrics(write_lines(tmp_path, lines)).curves["loss"] == expected


def test_last_and_best_are_of_the_evaluations(tmp_path: Path) -> None:
    lines = [train_line(1, 3.0), eval_line(1, 40, 30), eval_line(2, 70, 55), eval_line(3, 60, 56)]
    metrics = read_metrics(write_lines(tmp_path, lines))
    assert metrics.last == {"loss": 3.0, "egomcq/inter_video": 60, "egomcq/intra_video": 56}
    assert metrics.best == {"loss": 3.0, "egomcq/inter_video": 70, "egomcq/intra_video": 56}
    assert metrics.step == 3


def test_hours_are_summed_over_the_attempts_without_the_gaps(tmp_path: Path) -> None:
    lines = [
        train_line(1, 1, 1, time=0),
        train_line(2, 1, 1, time=3600),
        train_line(2, 1, 2, time=90000),
        train_line(3, 1, 2, time=97200),
    ]
    assert read_metrics(write_lines(tmp_path, lines)).hours == pytest.approx(3.0)


@pytest.mark.parametrize(
    "damage",
    ['{"kind": "train", "st', "nonsense", "[1, 2]", '{"kind": "train"}', '{"step": "x"}', "1, 2"],
)
def test_damaged_lines_are_counted_and_the_rest_is_read(tmp_path: Path, damage: str) -> None:
    lines = [json.dumps(train_line(step, 1.0 * step)) for step in (1, 2)]
    path = tmp_path / "metrics.jsonl"
    path.write_text(f"{lines[0]}\n{damage}\n{lines[1]}\n{damage}")
    metrics = read_metrics(path)
    assert metrics.damaged == (2, 4)
    assert metrics.curves["loss"] == [(1, 1.0), (2, 2.0)]


def test_bytes_that_are_no_text_are_one_damaged_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\xff\xfe\x00\n" + json.dumps(train_line(1, 2.0)).encode() + b"\n")
    metrics = read_metrics(path)
    assert metrics.damaged == (1,) and metrics.last == {"loss": 2.0}


def test_an_empty_file_is_no_progress_yet(tmp_path: Path) -> None:
    metrics = read_metrics(write_lines(tmp_path, []))
    assert metrics.step is None and metrics.curves == {} and metrics.damaged == ()


def test_long_curves_are_thinned_and_keep_their_ends(tmp_path: Path) -> None:
    lines = [train_line(step, float(step)) for step in range(1, 1001)]
    metrics = read_metrics(write_lines(tmp_path, lines))
    curve = metrics.curves["loss"]
    assert len(curve) == CURVE_POINTS and curve[0] == (1, 1.0) and curve[-1] == (1000, 1000.0)
    assert metrics.best["loss"] == 1.0 and metrics.step == 1000


def test_losses_are_best_low_and_scores_high() -> None:
    assert find_best("val/loss", [3, 1, 2]) == 1
    assert find_best("egomcq/intra_video", [3, math.nan, 5, math.inf]) == 5
    assert math.isnan(find_best("x", [math.nan]))
