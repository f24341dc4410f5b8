from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import jobs.metrics_cache
from jobs.collect import STATES, RunRow, collect_runs, metric_names
from jobs.metrics_cache import CACHE_NAME
from jobs.metrics_file import RunMetrics
from tests.jobs.run_folders import eval_line, make_run, train_line


def only_row(runs: Path) -> RunRow:
    rows = collect_runs(runs)
    assert len(rows) == 1
    return rows[0]


def test_a_finished_run_shows_its_result_and_its_best(tmp_path: Path) -> None:
    lines = [train_line(1, 2.0), eval_line(50, 95, 70), train_line(100, 0.7)]
    make_run(
        tmp_path,
        "pretrain/a-00000001",
        lines,
        {"state": "running"},
        {"egomcq/inter_video": 93.1, "egomcq/intra_video": 71},
        commits=[50, 100],
    )
    row = only_row(tmp_path)
    assert (row.kind, row.name, row.state) == ("pretrain", "a-00000001", "done")
    assert (row.step, row.saved_step, row.attempts, row.loss) == (100, 100, 1, 0.5)
    assert row.last == {"egomcq/inter_video": 93.1, "egomcq/intra_video": 71}
    assert row.best == {"egomcq/inter_video": 95, "egomcq/intra_video": 71}
    assert row.hours == pytest.approx(99 / 3600)
    assert row.problems == ()


@pytest.mark.parametrize("state", [state for state in STATES if state != "incomplete"])
def test_an_unfinished_run_has_the_state_that_was_written(tmp_path: Path, state: str) -> None:
    make_run(tmp_path, "pretrain/a", [train_line(7, 1.5)], {"state": state, "cause": "preempt"})
    row = only_row(tmp_path)
    assert (row.state, row.step, row.loss, row.note) == (state, 7, 1.5, "preempt")


def test_a_run_that_says_nothing_is_incomplete(tmp_path: Path) -> None:
    make_run(tmp_path, "pretrain/a", commits=[40])
    row = only_row(tmp_path)
    assert (row.state, row.step, row.saved_step) == ("incomplete", 40, 40)


def test_checkpoints_without_commit_do_not_count(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "pretrain/a", commits=[10])
    (folder / "ckpt/step-20").mkdir()
    (folder / "ckpt/step-x").mkdir()
    assert only_row(tmp_path).saved_step == 10


@pytest.mark.parametrize("name", ["state.json", "result.json", "metrics.jsonl"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\x00", b"[]"])
def test_damaged_files_are_reported_and_the_run_is_still_shown(
    tmp_path: Path, name: str, content: bytes
) -> None:
    folder = make_run(tmp_path, "pretrain/a", [train_line(3, 1.0)], {"state": "stopped"}, {"x": 1})
    (folder / name).write_bytes(content)
    row = only_row(tmp_path)
    assert row.name == "a" and row.step == 3
    if name == "metrics.jsonl" and content == b"":
        assert row.problems == ()
    else:
        assert len(row.problems) == 1 and row.problems[0].startswith(name)
    assert row.state == ("stopped" if name == "result.json" else "done")


def test_values_of_the_wrong_kind_do_no_harm(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "pretrain/a", [], {"state": ["x"], "cause": None})
    (folder / "result.json").write_text('{"step": "7", "metrics": {"a": "b", "c": true, "d": 1}}')
    row = only_row(tmp_path)
    assert row.step is None and row.last == {"d": 1.0}


def test_runs_are_found_on_both_levels_and_nothing_else_is_one(tmp_path: Path) -> None:
    make_run(tmp_path, "pretrain/a")
    make_run(tmp_path, "finetune/b")
    make_run(tmp_path, "by_hand", [train_line(1, 1.0)])
    make_run(tmp_path, ".snapshots/abc")
    (tmp_path / "pretrain/notes").mkdir()
    (tmp_path / "report.html").write_text("x")
    found = {(row.kind, row.name) for row in collect_runs(tmp_path)}
    assert found == {("pretrain", "a"), ("finetune", "b"), ("-", "by_hand")}


def test_filters_take_patterns_and_parts_of_names(tmp_path: Path) -> None:
    for run in ("pretrain/lavila-1", "pretrain/egovlp-1", "finetune/lavila-2"):
        make_run(tmp_path, run)

    def names(**filters: str) -> list[str]:
        rows = collect_runs(tmp_path, **filters)
        return sorted(f"{row.kind}/{row.name}" for row in rows)

    assert names(kind="pretrain", name="lavila") == ["pretrain/lavila-1"]
    assert names(name="lavila*") == ["finetune/lavila-2", "pretrain/lavila-1"]
    assert names(name="*-1") == ["pretrain/egovlp-1", "pretrain/lavila-1"]
    assert names(kind="nothing") == []


def test_the_newest_run_of_a_kind_comes_last(tmp_path: Path) -> None:
    for number, name in enumerate(("b", "c", "a")):
        folder = make_run(tmp_path, f"pretrain/{name}", [train_line(1, 1.0)])
        os.utime(folder / "run.json", (1000, 1000))
        os.utime(folder / "metrics.jsonl", (2000 + number, 2000 + number))
    assert [row.name for row in collect_runs(tmp_path)] == ["b", "c", "a"]


def test_no_folder_is_no_runs(tmp_path: Path) -> None:
    assert collect_runs(tmp_path / "absent") == []


def test_metric_names_are_those_of_all_runs(tmp_path: Path) -> None:
    make_run(tmp_path, "pretrain/a", [eval_line(1, 1, 2)])
    make_run(tmp_path, "evaluate/b", metrics={"ek100_mir/map": 1})
    names = metric_names(collect_runs(tmp_path))
    assert names == ["egomcq/inter_video", "egomcq/intra_video", "ek100_mir/map"]


def test_unchanged_metrics_are_not_read_again_and_changed_ones_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run(tmp_path, "pretrain/a", [train_line(1, 2.0), eval_line(1, 5, 6)])
    make_run(tmp_path, "pretrain/b", [train_line(1, 3.0)])
    first = collect_runs(tmp_path)
    read: list[Path] = []
    original = jobs.metrics_cache.read_metrics

    def note(path: Path) -> RunMetrics:
        read.append(path)
        return original(path)

    monkeypatch.setattr(jobs.metrics_cache, "read_metrics", note)
    again = collect_runs(tmp_path)
    assert read == [] and [row.last for row in again] == [row.last for row in first]
    assert [list(map(tuple, row.curves["loss"])) for row in again] == [
        row.curves["loss"] for row in first
    ]
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(json.dumps(train_line(2, 1.0)) + "\n")
    assert {row.name: row.loss for row in collect_runs(tmp_path)} == {"a": 1.0, "b": 3.0}
    assert read == [folder / "metrics.jsonl"]


def test_a_damaged_cache_changes_nothing(tmp_path: Path) -> None:
    make_run(tmp_path, "pretrain/a", [train_line(1, 2.0)])
    first = collect_runs(tmp_path)
    for content in ("", "[]", '{"schema": 1}', '{"schema": 99, "entries": {}}'):
        (tmp_path / CACHE_NAME).write_text(content)
        assert collect_runs(tmp_path) == first
