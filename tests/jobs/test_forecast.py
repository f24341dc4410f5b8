from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.cluster import Cluster
from jobs.errors import RunError
from jobs.forecast import (
    Calibration,
    calibrate,
    describe,
    forecast,
    read_calibration,
    spell_bytes,
    spell_seconds,
)
from jobs.run_folder import RunFolder, write_json_atomic
from jobs.spec import JobSpec, Resources
from jobs.submit import Place

SEEN = Calibration(10, 110, 100_000, 50.0, 512.0, 30.0, 2_000_000_000)
ASK = Resources(nodes=4, gpus_per_node=8, processes_per_node=8, time_limit_sec=14400)


def test_a_forecast_extends_the_minute_to_all_steps() -> None:
    expected = forecast(SEEN, ASK)
    assert expected.train_sec == 50_000
    # 14,400 s less two minutes of warning and the start; the fourth attempt does the rest
    assert expected.restarts == 3
    assert expected.device_hours == pytest.approx(32 * (50_000 + 4 * 30) / 3600)
    assert expected.disk_bytes == 6_000_000_000
    text = describe(SEEN, expected, ASK)
    for words in ("0.5 s a step", "13 h 53 min", "445.5 GPU-hours", "3 by the time limit of 4 h"):
        assert words in text, text
    assert "2 GB a checkpoint, 6 GB at most" in text


def test_a_time_limit_too_short_for_a_step_is_refused() -> None:
    ask = Resources(nodes=1, time_limit_sec=45)
    with pytest.raises(RunError, match="before the first step"):
        forecast(SEEN, ask)


def write_run(path: Path, groups: list[tuple[float, list[int]]]) -> RunFolder:
    run = RunFolder(path)
    lines = [
        {"kind": "train", "step": step, "steps": 500, "time": time, "clips_per_sec": 8.0}
        for time, steps in groups
        for step in steps
    ]
    path.mkdir(parents=True)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    run.metrics_jsonl.write_text(text + '{"kind": "train", "st')
    write_json_atomic(run.attempt(1).node_json(0), {"started": 90.0})
    return run


def test_steps_are_timed_between_the_ends_of_their_lines_without_the_warm_up(
    tmp_path: Path,
) -> None:
    run = write_run(tmp_path / "run", [(100.0, [1, 2]), (103.0, [3, 4]), (107.0, [5, 6, 7, 8])])
    run.config_yaml.write_text("trainer: {keep_checkpoints: 5}\n")
    step = run.checkpoints / "step-8"
    step.mkdir(parents=True)
    (step / "data").write_bytes(b"x" * 100)
    write_json_atomic(step / "COMMIT", {"step": 8})
    seen = read_calibration(run)
    assert (seen.first_step, seen.last_step, seen.seconds) == (4, 8, 4.0)
    assert (seen.step_sec, seen.start_sec, seen.kept) == (1.0, 10.0, 5)
    assert seen.checkpoint_bytes is not None and seen.checkpoint_bytes > 100


def test_too_few_steps_say_what_to_change(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="too few steps"):
        read_calibration(write_run(tmp_path / "run", [(100.0, [1, 2])]))


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.2, "3 s"), (725, "12 min 5 s"), (277_200, "3 d 5 h"), (0, "0 s")]
)
def test_durations_are_spelt_with_two_units(seconds: float, text: str) -> None:
    assert spell_seconds(seconds) == text


def test_sizes_are_spelt_in_decimal_units() -> None:
    assert [spell_bytes(n) for n in (12, 34_500, 1.9e9, 4e12)] == [
        "12 B",
        "34.5 kB",
        "1.9 GB",
        "4 TB",
    ]


@pytest.mark.slow
def test_a_minute_of_a_real_training_is_measured_and_leaves_no_folder(project: Path) -> None:
    spec = JobSpec(
        "pretrain",
        "demo",
        arguments=(
            *("train", "--config", "configs/debug/smoke.yaml"),
            *("trainer.steps=100000", "trainer.log_every=1", "trainer.eval_every=null"),
        ),
        resources=Resources(processes_per_node=1),
    )
    place = Place(home=project, runs=project / "runs", snapshots=project / "runs/.snapshots")
    seen = calibrate(spec, Cluster("local", executor="local"), place, "local", seconds=2.0)
    assert seen.total_steps == 100_000
    assert seen.seconds >= 1.0 and seen.clips_per_sec > 0
    assert seen.checkpoint_bytes is not None and seen.checkpoint_bytes > 100_000
    assert not list((project / "runs/forecast").glob("demo-*"))
