"""Which run a person means."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jobs.errors import ConfigError, RunError
from jobs.find_run import find_run, runs_folder
from jobs.ledger import record_job
from jobs.run_folder import append_line
from tests.jobs.launched_runs import make_launched


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    runs = tmp_path / "runs"
    for number, name in enumerate(("pretrain/tsf_base-aa", "pretrain/tsf_large-bb", "eval/mcq-cc")):
        folder = make_launched(runs, name, "done", str(100 + number))
        os.utime(folder.run_json, (1000 + number, 1000 + number))
    return runs


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("pretrain/tsf_base-aa", "tsf_base-aa"),
        ("tsf_large-bb", "tsf_large-bb"),
        ("tsf_b", "tsf_base-aa"),
        ("eval/", "mcq-cc"),
        ("101", "tsf_large-bb"),
        ("last", "mcq-cc"),
        ("-", "mcq-cc"),
    ],
)
def test_a_run_is_found_by_what_a_person_types(runs: Path, text: str, found: str) -> None:
    assert find_run(text, str(runs)).path.name == found


def test_a_folder_needs_no_defaults(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs / "pretrain")
    assert find_run("tsf_base-aa", None).path == (runs / "pretrain/tsf_base-aa").resolve()


def test_a_job_that_the_run_had_before_still_names_it(runs: Path) -> None:
    folder = find_run("mcq", str(runs))
    record_job(folder, "later", "205_7", "slurm")
    assert find_run("205_7", str(runs)).path == folder.path
    line = {"event": "submitted", "run": str(runs / "eval/mcq-cc"), "job_id": "99"}
    append_line(runs / ".ledger.jsonl", line)
    assert find_run("99", str(runs)).path.name == "mcq-cc"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tsf", "write more of the name"),
        ("tsf_bsae-aa", "did you mean 'tsf_base-aa'"),
        ("tsf_bsae", "did you mean 'tsf_base-aa'"),
        ("4711", "no run in .* has had the job 4711"),
        ("quite other", "unknown run"),
    ],
)
def test_what_names_no_run_or_several_is_refused_with_the_way_on(
    runs: Path, text: str, words: str
) -> None:
    with pytest.raises(RunError, match=words):
        find_run(text, str(runs))


def test_no_runs_at_all_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no runs in"):
        find_run("last", str(tmp_path))
    with pytest.raises(ConfigError, match="no such folder"):
        runs_folder(str(tmp_path / "absent"))


def test_the_folder_of_runs_is_that_of_the_project_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/defaults.yaml").write_text("cluster: auto\nruns: elsewhere\n")
    monkeypatch.chdir(tmp_path)
    assert runs_folder(None) == tmp_path / "elsewhere"
