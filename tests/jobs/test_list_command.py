"""`python -m jobs list` where no Slurm is needed or none answers."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path

import pytest

from jobs.node import process_start
from jobs.status import RunStatus
from tests.jobs.commands import jobs, jobs_json
from tests.jobs.launched_runs import make_launched, token_of, train_lines, write

NO_SLURM = {"PATH": "/nonexistent"}
FIELDS = {each.name for each in fields(RunStatus)}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    make_launched(tmp_path, "pretrain/old-aa", "done", "1", age_sec=30 * 86400)
    make_launched(tmp_path, "pretrain/bad-bb", "failed", "2", cause="crash", reason="rank 1: no")
    here = str(os.getpid())
    live = make_launched(tmp_path, "eval/live-cc", "running", here, executor="local")
    job = {"job_id": here, "executor": "local", "host": os.uname().nodename}
    job["process_start"] = process_start(os.getpid())
    write(live.job_json(token_of("eval/live-cc")), job)
    train_lines(live, range(1, 1201))
    return tmp_path


def test_what_goes_on_comes_first_and_old_ends_are_counted(runs: Path) -> None:
    done = jobs("list", "--runs", str(runs), env=NO_SLURM)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "live-cc" in lines[1] and "1200/5000" in lines[1] and f"pid {os.getpid()}" in lines[1]
    assert "bad-bb" in lines[2] and "crash: rank 1: no" in lines[2]
    assert "old-aa" not in done.stdout
    assert lines[-1] == ("2 runs: 1 running, 1 failed; 1 ended more than 7 days ago: --all")


def test_filters_show_old_runs_too(runs: Path) -> None:
    shown = jobs("list", "--runs", str(runs), "--state", "done,running", env=NO_SLURM).stdout
    assert "old-aa" in shown and "live-cc" in shown and "bad-bb" not in shown
    shown = jobs("list", "--runs", str(runs), "--kind", "pretrain", "--all", env=NO_SLURM).stdout
    assert "old-aa" in shown and "bad-bb" in shown and "live-cc" not in shown


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--state", "runing"), "did you mean 'running'"),
        (("--kind", "pretain"), "did you mean 'pretrain'"),
        (("--runs", "/no/such"), "no such folder"),
    ],
)
def test_wrong_values_are_refused_with_the_closest(
    runs: Path, flags: tuple[str, ...], words: str
) -> None:
    done = jobs("list", "--runs", str(runs), *flags, env=NO_SLURM)
    assert done.returncode == 2
    assert words in done.stderr


def test_json_has_every_field(runs: Path) -> None:
    shown = jobs_json("list", "--all", "--runs", str(runs), env=NO_SLURM)
    assert (shown["schema"], shown["hidden"], shown["problem"]) == (1, 0, "")
    assert [run["state"] for run in shown["runs"]] == ["running", "failed", "done"]
    assert all(set(run) == FIELDS for run in shown["runs"])


def test_no_runs_says_how_to_start_one(tmp_path: Path) -> None:
    done = jobs("list", "--runs", str(tmp_path), env=NO_SLURM)
    assert done.returncode == 0
    assert "launchers/pretrain.py" in done.stdout


def test_without_an_answer_from_slurm_nothing_is_called_running(runs: Path) -> None:
    make_launched(runs, "pretrain/far-dd", "running", "77")
    done = jobs("list", "--runs", str(runs), env=NO_SLURM)
    assert done.returncode == 1
    assert "Slurm does not answer" in done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "far-dd" in line]
    assert "unknown" in line and "last written: running" in line
