"""`python -m jobs resume` on this machine; tests/slurm has it on a real Slurm."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.cluster import Cluster, Limits
from jobs.node import process_start
from jobs.run_folder import RunFolder, read_json
from jobs.spec import JobSpec, Resources
from jobs.steer import stop
from jobs.submit import Place, launch
from tests.jobs.commands import ROOT, jobs, jobs_json
from tests.jobs.launched_runs import make_launched, token_of, write


def wait(predicate: Callable[[], object], what: str) -> None:
    end = time.monotonic() + 90
    while not predicate():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_stopped_run_goes_on_from_its_checkpoint_with_its_own_code(tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(ROOT / "jobs", project / "jobs", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "tests/jobs/toy_trainer.py", project / "toy_trainer.py")
    words = ("train", "steps=30", "step_sec=0.1", "save_every=1000")
    spec = JobSpec("pretrain", "toy", "toy_trainer", words, Resources(time_limit_sec=600))
    place = Place(project, tmp_path / "runs", tmp_path / "snapshots")
    launched = launch(spec, Cluster("here", executor="local"), place, "local")
    run = RunFolder(launched.run_dir)
    wait(lambda: run.metrics_jsonl.exists(), "a step")
    refused = jobs("resume", "toy", "--runs", str(place.runs))
    assert (refused.returncode, "not resumed" in refused.stderr) == (2, True)
    stop(run)
    wait(lambda: run.read_state()["state"] == "stopped", "the stop")
    saved = run.last_commit_step()
    shutil.rmtree(project)  # the run needs nothing but its own copy
    project.mkdir()
    shown = jobs_json("resume", "toy", "--runs", str(place.runs), "--time", "2h")
    assert shown["state"] == "queued"
    assert f"resumed as attempt 2 from step {saved}" in shown["message"]
    wait(lambda: run.read_state()["state"] == "done", "the end")
    attempts = jobs_json("status", str(run.path))["attempts"]
    assert attempts[1]["steps"] == [saved + 1, 30]
    assert attempts[1]["lost_steps"] == 0
    token = (read_json(run.attempt(2).claim_json) or {})["token"]
    assert (read_json(run.spec_json(token)) or {})["resources"]["time_limit_sec"] == 7200
    done = jobs("resume", "toy", "--runs", str(place.runs))
    assert (done.returncode, "is done" in done.stdout) == (0, True)


def test_a_run_whose_code_is_gone_cannot_be_resumed(tmp_path: Path) -> None:
    run = make_launched(tmp_path, "pretrain/a", "failed", "7", executor="local")
    facts = {"snapshot": str(tmp_path / "gone"), "snapshot_hash": "0", "home": str(tmp_path)}
    write(run.run_json, {**facts, "spec": JobSpec("pretrain", "a").to_json()})
    done = jobs("resume", "a", "--runs", str(tmp_path))
    assert done.returncode == 2
    assert "its code copy" in done.stderr and "launch it again" in done.stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--time", "soon"), "not a time above zero: 'soon'"),
        (("--nodes", "0"), "nodes must be at least 1"),
        (("--nodes", "2"), "the local executor has one node"),
    ],
)
def test_wrong_resources_are_refused_before_anything_is_written(
    tmp_path: Path, flags: tuple[str, ...], words: str
) -> None:
    run = make_launched(tmp_path, "pretrain/a", "failed", "7", executor="local")
    job = {"job_id": "7", "executor": "local", "host": os.uname().nodename}
    write(run.job_json(token_of("pretrain/a")), {**job, "process_start": process_start(1)})
    facts = {"snapshot": str(tmp_path), "snapshot_hash": "0", "home": str(tmp_path), "argv": []}
    write(run.run_json, {**facts, "spec": JobSpec("pretrain", "a").to_json()})
    done = jobs("resume", "a", "--runs", str(tmp_path), *flags)
    assert done.returncode == 2, done.stdout
    assert words in done.stderr
    assert run.latest_attempt() == 1


def test_a_profile_survives_being_written_down() -> None:
    cluster = Cluster(
        "a100",
        partition="a100",
        limits=Limits(gpus_per_node=8, gpu_type="a100"),
        partitions={"short": Limits(time_limit_sec=3600)},
        preamble=("module load cuda",),
        sbatch={"mail-type": "FAIL", "exclusive": True},
        exclude=("node1",),
    )
    assert Cluster.from_json(cluster.to_json()) == cluster
