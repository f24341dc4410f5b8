"""jobs and egovl meet in the run folder only: both must spell it alike."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from egovl import config
from egovl.engine import fitness, folder, heartbeat, signals
from egovl.engine.checkpoint import TrainState, commit_folder
from jobs import collect, environment
from jobs.run_folder import RunFolder
from jobs.watchdog import read_beat
from tests.architecture.source import ROOT


def test_both_sides_name_the_same_files(tmp_path: Path) -> None:
    ours, theirs = folder.RunFolder(tmp_path, 3), RunFolder(tmp_path)
    assert ours.metrics == theirs.metrics_jsonl
    assert ours.result == theirs.result_json
    assert ours.checkpoints == theirs.checkpoints
    assert ours.attempt_dir(3) == theirs.attempt(3).path
    assert ours.exit_file(5) == theirs.attempt(3).exit_json(5)


def test_both_sides_name_the_same_variables() -> None:
    assert folder.RUN_DIR_VARIABLE == environment.RUN_DIR
    assert folder.ATTEMPT_VARIABLE == environment.ATTEMPT
    assert signals.STOP_FILE_VARIABLE == environment.STOP_FILE
    assert config.HOME_VARIABLE == environment.HOME
    assert heartbeat.HEARTBEAT_VARIABLE == environment.HEARTBEAT_FILE
    assert fitness.PREFLIGHT_VARIABLE == environment.PREFLIGHT


def test_jobs_reads_the_heartbeat_that_egovl_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "heartbeat"
    monkeypatch.setenv(environment.HEARTBEAT_FILE, str(path))
    for phase in get_args(heartbeat.Phase):
        code = (
            f"from egovl.engine.heartbeat import beat; beat({phase!r}, 10**9); beat({phase!r}, 7)"
        )
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
        beat = read_beat(path)
        assert beat is not None
        assert (beat.phase, beat.count) == (phase, 7)


def test_a_claim_of_jobs_fences_egovls_older_attempt(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.claim_attempt(1, "a", 0)
    first = folder.RunFolder(tmp_path, 1)
    first.require_current()
    assert run.claim_attempt(2, "b", 0)
    try:
        first.require_current()
    except folder.Superseded as error:
        assert "attempt 2 holds" in str(error)
    else:
        raise AssertionError("an older attempt may still write")


def test_jobs_reads_the_commit_and_the_metrics_that_egovl_writes(tmp_path: Path) -> None:
    run = folder.RunFolder(tmp_path / "pretrain" / "x-12345678", 1)
    beside = run.checkpoints / ".step-40.a1"
    beside.mkdir(parents=True)
    (beside / "data").write_bytes(b"1234")
    commit_folder(run, TrainState(40, 640), beside)
    assert RunFolder(run.path).last_commit_step() == 40
    line = {"kind": "eval", "step": 40, "attempt": 1, "name": "egomcq", "metrics": {"intra": 61.5}}
    run.metrics.write_text(json.dumps(line) + "\n")
    folder.write_json(run.path / "run.json", {"schema": 1})
    folder.write_json(run.result, {"schema": 1, "step": 40, "metrics": {"egomcq/intra": 61.5}})
    [row] = collect.collect_runs(tmp_path)
    assert row.step == 40
    assert row.last["egomcq/intra"] == 61.5
