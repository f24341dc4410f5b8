from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

import jobs.collect
from jobs.collect import collect, collect_runs
from jobs.run_index import CURVES_NAME, INDEX_NAME
from jobs.run_row import STATES, RunRow
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
    assert row.problems == []


@pytest.mark.parametrize("state", [state for state in STATES if state != "incomplete"])
def test_an_unfinished_run_has_the_state_that_was_written(tmp_path: Path, state: str) -> None:
    make_run(tmp_path, "pretrain/a", [train_line(7, 1.5)], {"state": state, "cause": "preempt"})
    row = only_row(tmp_path)
    assert (row.state, row.step, row.loss, row.cause) == (state, 7, 1.5, "preempt")


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
        assert row.problems == []
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
        make_run(tmp_path, f"pretrain/{name}", [train_line(1, 1.0, time=2000 + number)])
    assert [row.name for row in collect_runs(tmp_path)] == ["b", "c", "a"]


def test_no_folder_is_no_runs(tmp_path: Path) -> None:
    assert collect_runs(tmp_path / "absent") == []


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of the runs that were read, not remembered."""
    paths: list[str] = []
    original = jobs.collect.read_run

    def note(folder: str, kind: str, path: str, add_config: Any) -> Any:
        paths.append(path)
        return original(folder, kind, path, add_config)

    monkeypatch.setattr(jobs.collect, "read_run", note)
    return paths


def make_old(folder: Path) -> None:
    """Set all times of a folder a minute back: what changed just now is read again."""
    for path in (*folder.rglob("*"), folder):
        state = path.stat()
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns - 60 * 10**9))


def test_only_what_changed_is_read_again(tmp_path: Path, read: list[str]) -> None:
    going = make_run(tmp_path, "pretrain/going", [train_line(1, 2.0)], {"state": "running"})
    over = make_run(tmp_path, "pretrain/over", [eval_line(1, 5, 6)], {"state": "stopped"}, {"x": 1})
    make_run(tmp_path, "pretrain/young", [train_line(1, 9.0)], {"state": "done"})
    make_old(going)
    make_old(over)
    first = collect(tmp_path)
    curves = first.curves(first.rows)
    assert sorted(read) == ["pretrain/going", "pretrain/over", "pretrain/young"]
    read.clear()
    again = collect(tmp_path)
    assert read == ["pretrain/young"]
    assert [list(map(str, row)) for row in again.rows] == [
        list(map(str, row)) for row in first.rows
    ]
    assert again.curves(again.rows) == curves and '"loss": [[1], [2]]' in "".join(curves)

    with open(going / "metrics.jsonl", "a") as file:
        file.write(json.dumps(train_line(2, 1.0)) + "\n")
    (over / "state.json.new").write_text('{"state": "failed", "cause": "crash"}')
    (over / "state.json.new").rename(over / "state.json")
    (over / "result.json").unlink()
    read.clear()
    rows = {row.name: row for row in collect_runs(tmp_path)}
    assert sorted(read) == ["pretrain/going", "pretrain/over", "pretrain/young"]
    assert rows["going"].loss == 1.0 and rows["over"].state == "failed"


def test_a_new_checkpoint_of_a_running_run_is_seen(tmp_path: Path, read: list[str]) -> None:
    lines = [train_line(1, 2.0)]
    folder = make_run(tmp_path, "pretrain/a", lines, {"state": "running"}, commits=[10])
    make_old(folder)
    assert only_row(tmp_path).saved_step == 10
    folder_time = folder.stat().st_mtime_ns
    (folder / "ckpt/step-20").mkdir()
    (folder / "ckpt/step-20/COMMIT").write_text("{}")
    assert folder.stat().st_mtime_ns == folder_time
    assert only_row(tmp_path).saved_step == 20


def test_a_deleted_run_is_gone(tmp_path: Path) -> None:
    make_run(tmp_path, "pretrain/a", [train_line(1, 2.0)])
    folder = make_run(tmp_path, "pretrain/b", [train_line(1, 2.0)])
    assert len(collect_runs(tmp_path)) == 2
    shutil.rmtree(folder)
    assert [row.name for row in collect_runs(tmp_path)] == ["a"]


@pytest.mark.parametrize("name", [INDEX_NAME, CURVES_NAME])
@pytest.mark.parametrize("damage", ["empty", "cut", "noise", "newer", "twice"])
def test_a_damaged_index_changes_nothing(tmp_path: Path, name: str, damage: str) -> None:
    for run in "abc":
        folder = make_run(tmp_path, f"pretrain/{run}", [train_line(1, 2.0), eval_line(1, 3, 4)])
        make_old(folder)
    first = collect(tmp_path)
    curves = first.curves(first.rows)
    path = tmp_path / name
    whole = path.read_text()
    path.write_text(
        {
            "empty": "",
            "cut": whole[:-30],
            "noise": whole.replace("pretrain/b", '\x00"]['),
            "newer": whole.replace('collect", 2', 'collect", 99'),
            "twice": whole + whole,
        }[damage]
    )
    for _ in range(2):
        again = collect(tmp_path)
        assert [row.path for row in again.rows] == [row.path for row in first.rows]
        assert [row.last for row in again.rows] == [row.last for row in first.rows]
        assert again.curves(again.rows) == curves
        assert again.problems == []


def test_an_index_of_mostly_outdated_lines_is_written_anew(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "pretrain/a", [train_line(1, 2.0)], {"state": "running"})
    for step in range(2, 150):
        with open(folder / "metrics.jsonl", "a") as file:
            file.write(json.dumps(train_line(step, 1.0 * step)) + "\n")
        assert only_row(tmp_path).loss == step
    assert len((tmp_path / INDEX_NAME).read_text().splitlines()) < 110
    assert len((tmp_path / CURVES_NAME).read_text().splitlines()) < 110


def test_many_runs_are_read_by_several_processes_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(40):
        make_run(tmp_path, f"pretrain/r{number}", [train_line(number + 1, 0.5)], config="seed: 1\n")
    monkeypatch.setattr(jobs.fork_map, "_SHARE", 10)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    found = collect(tmp_path)
    assert {row.name: row.step for row in found.rows} == {f"r{n}": n + 1 for n in range(40)}
    assert all(found.config(row) == {"seed": 1} for row in found.rows)
    assert not [text for text in found.curves(found.rows) if "[0.5]" not in text]


def test_a_folder_that_cannot_be_written_still_gives_the_table(tmp_path: Path) -> None:
    make_run(tmp_path, "pretrain/a", [train_line(1, 2.0)])
    (tmp_path / INDEX_NAME).mkdir()
    found = collect(tmp_path)
    assert [row.loss for row in found.rows] == [2.0]
    assert "not remembered" in found.problems[0]


def test_a_run_of_a_newer_version_is_shown_with_a_note(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "pretrain/a", [train_line(3, 1.0)], {"state": "hibernating"})
    (folder / "run.json").write_text('{"schema": 7, "spec": ["other"], "parents": 3}')
    (folder / "result.json").write_text('{"schema": 2, "metrics": {"x": 4}, "hashes": {"a": "b"}}')
    row = only_row(tmp_path)
    assert row.step == 3 and row.last == {"x": 4.0} and row.facts == {"hashes": {"a": "b"}}
    assert [problem.split(":")[0] for problem in row.problems] == ["run.json", "result.json"]
    (folder / "result.json").unlink()
    assert only_row(tmp_path).state == "hibernating"


def test_foreign_files_and_links_do_no_harm(tmp_path: Path) -> None:
    make_run(tmp_path, "pretrain/a", [train_line(1, 2.0)])
    (tmp_path / "pretrain/loop").symlink_to(tmp_path / "pretrain")
    (tmp_path / "pretrain/gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "pretrain/file.txt").write_text("x")
    (tmp_path / "pretrain/deep/er").mkdir(parents=True)
    (tmp_path / "pretrain/empty").mkdir()
    assert [row.name for row in collect_runs(tmp_path)] == ["a"]


def test_what_may_not_be_read_is_said_and_the_rest_shown(tmp_path: Path) -> None:
    # the parents of tmp_path are closed to others, so to test as one the runs lie elsewhere
    with tempfile.TemporaryDirectory() as name:
        runs = Path(name)
        runs.chmod(0o755)
        make_run(runs, "pretrain/a", [train_line(1, 2.0)])
        make_run(runs, "pretrain/closed").chmod(0)
        (make_run(runs, "pretrain/part", [train_line(1, 4.0)]) / "state.json").mkdir()
        make_run(runs, "secret/b")
        (runs / "secret").chmod(0)
        names, problems = as_nobody(runs)
        (runs / "secret").chmod(0o755)
        (runs / "pretrain/closed").chmod(0o755)
    assert set(names) == {"a", "closed", "part"}
    assert f"{name}/secret: cannot be read: Permission denied" in problems
    assert "cannot read run.json: Permission denied" in problems
    assert "cannot read state.json: Is a directory" in problems


def as_nobody(runs: Path) -> tuple[list[str], list[str]]:
    """Collect in a process that is not root, to whom nothing is closed."""
    receiver, sender = os.pipe()
    if os.fork() == 0:
        os.close(receiver)
        if os.geteuid() == 0:
            os.setgroups([])
            os.setuid(65534)
        found = collect(runs)
        problems = [*found.problems, *(each for row in found.rows for each in row.problems)]
        os.write(sender, json.dumps([[row.name for row in found.rows], problems]).encode())
        os._exit(0)
    os.close(sender)
    with open(receiver) as file:
        names, problems = json.loads(file.read())
    os.wait()
    return names, problems


def test_attempts_know_where_they_began_and_why(tmp_path: Path) -> None:
    lines = [train_line(1, 1.0, 1), train_line(2, 1.0, 1), train_line(2, 1.0, 2)]
    folder = make_run(tmp_path, "pretrain/a", lines, {"state": "running", "attempt": 2})
    (folder / "attempts/1/outcome.json").write_text('{"cause": "preempt"}')
    assert list(map(list, only_row(tmp_path).starts)) == [[1, 1, ""], [2, 2, "preempt"]]


def test_state_filter_takes_several(tmp_path: Path) -> None:
    for state in ("failed", "running", "stopped"):
        make_run(tmp_path, f"pretrain/{state}", state={"state": state})
    found = collect_runs(tmp_path, state="failed,stop*")
    assert [row.name for row in found] == ["failed", "stopped"]
