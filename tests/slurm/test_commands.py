"""`python -m jobs` against real jobs: what it says, what it does, how little it asks of Slurm."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.cluster import Cluster
from jobs.run_folder import RunFolder, read_json
from jobs.spec import JobSpec, Resources
from jobs.submit import Launched, Place, launch
from tests.jobs.commands import jobs, jobs_json
from tests.jobs.launched_runs import make_launched
from tests.slurm.call_counter import CallCounter
from tests.slurm.client import SlurmClient
from tests.slurm.configuration import Settings
from tests.slurm.conftest import bring_up_or_skip
from tests.slurm.toy_run import ROOT
from tests.slurm.waiting import wait_for

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.parametrize("slurm_session", ["cgroup"], indirect=True),
]


@pytest.fixture
def counter(slurm: SlurmClient, tmp_path: Path) -> CallCounter:
    return CallCounter.make(tmp_path)


def launch_small(folder: Path, *words: str, name: str = "toy") -> Launched:
    """One node, two ranks, no torch in them."""
    project = folder / "project"
    if not project.exists():
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "jobs", project / "jobs", ignore=ignored)
        shutil.copy(ROOT / "tests/jobs/toy_trainer.py", project / "toy_trainer.py")
    ask = Resources(processes_per_node=2, time_limit_sec=1800, partition="a100")
    spec = JobSpec("pretrain", name, "toy_trainer", ("train", *words), ask)
    place = Place(project, folder / "runs", folder / "snapshots")
    return launch(spec, Cluster("testbed"), place, "slurm")


def wait_state(run: RunFolder, *states: str, seconds: float = 120) -> None:
    def is_there() -> bool:
        return run.read_state().get("state") in states

    wait_for(is_there, seconds, f"{run.path} to be {states}: {run.read_state()}")


def wait_steps(run: RunFolder, attempt: int = 1) -> None:
    def has_steps() -> bool:
        text = run.metrics_jsonl.read_text() if run.metrics_jsonl.exists() else ""
        return f'"attempt": {attempt}' in text

    wait_for(has_steps, 120, f"steps of attempt {attempt} in {run.path}")


def listed(folder: Path, counter: CallCounter, *flags: str) -> list[dict[str, Any]]:
    """What `list` says, by at most one call and without the accounting."""
    counter.taken()
    shown = jobs_json("list", "--runs", str(folder / "runs"), *flags, env=counter.environment)
    calls = counter.taken()
    assert len(calls) <= 1 and all(call.startswith("squeue") for call in calls), calls
    assert shown["problem"] == ""
    return shown["runs"]


@pytest.mark.slow
def test_a_run_from_its_launch_to_its_end_by_the_commands_alone(
    slurm: SlurmClient, counter: CallCounter, tmp_path: Path
) -> None:
    launched = launch_small(tmp_path, "steps=60", "step_sec=0.15", "save_every=1000")
    run, runs = RunFolder(launched.run_dir), str(tmp_path / "runs")
    words = [sys.executable, "-m", "jobs", "follow", launched.job_id, "--runs", runs, "--all-ranks"]
    env = {**os.environ, **counter.environment}
    follower = subprocess.Popen(words, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
    wait_steps(run)
    (row,) = jobs_json("list", "--runs", runs)["runs"]
    assert (row["state"], row["attempt"], row["job_id"]) == ("running", 1, launched.job_id)
    assert (row["steps"], row["nodes"], row["partition"]) == (60, "node1", "a100")
    refused = jobs("resume", "toy", "--runs", runs)
    assert (refused.returncode, "is at work as job" in refused.stderr) == (2, True)

    assert jobs("stop", "toy", "--runs", runs).returncode == 0
    wait_state(run, "stopped")
    assert follower.wait(60) == 1
    assert follower.stdout is not None
    shown = follower.stdout.read()
    assert "[0] rank 0 of 2 begins at step 0" in shown
    assert "[1] rank 1 of 2 begins at step 0" in shown
    assert "[stopped, attempt 1, cause user" in shown
    assert counter.most_in_a_minute() <= 2

    saved = run.last_commit_step()
    done = jobs("resume", launched.job_id, "--runs", runs, "--time", "20m")
    assert f"resumed as attempt 2 from step {saved}" in done.stdout, done.stderr
    assert jobs("follow", str(run.path)).returncode == 0
    detail = jobs_json("status", "last", "--runs", runs)
    assert [each["state"] for each in detail["attempts"]] == ["stopped", "done"]
    assert detail["attempts"][1]["steps"] == [saved + 1, 60]
    assert detail["attempts"][0]["job_id"] != detail["attempts"][1]["job_id"]
    assert detail["resources"]["time_limit_sec"] == 1200
    script = "".join(path.read_text() for path in run.submission.glob("*_submission.sh"))
    assert "--time=20" in script
    again = jobs("stop", "toy", "--runs", runs)
    assert (again.returncode, "nobody is at work on" in again.stderr) == (2, True)


@pytest.mark.slow
def test_runs_that_wait_say_why_and_leave_the_queue_on_demand(
    slurm: SlurmClient, counter: CallCounter, tmp_path: Path
) -> None:
    intruder = slurm.start_intruder()
    slurm.wait_state(intruder, "RUNNING")
    runs = str(tmp_path / "runs")
    stopped, cancelled, orphan = (
        RunFolder(launch_small(tmp_path, "steps=3", name=name).run_dir)
        for name in ("stopped", "cancelled", "orphan")
    )
    wait_for(
        lambda: all(row["pending"] not in ("", "None") for row in listed(tmp_path, counter)),
        30,
        "Slurm to say why",
    )
    assert all(row["state"] == "queued" for row in listed(tmp_path, counter))
    # a launcher that is killed between sbatch and its own note: the next list adopts the job
    (note,) = (path for path in orphan.submission.glob("*.json") if path.name.count(".") == 1)
    job = read_json(note) or {}
    note.unlink()
    claim = read_json(orphan.attempt(1).claim_json) or {}
    orphan.attempt(1).claim_json.write_text(json.dumps({**claim, "pid": 2**22 + 1}))
    rows = {row["name"].split("-")[0]: row for row in listed(tmp_path, counter)}
    assert rows["orphan"]["state"] == "queued"
    assert (read_json(note) or {})["job_id"] == job["job_id"]

    assert jobs("stop", "stopped", "--runs", runs).returncode == 0
    assert jobs("cancel", "cancelled", job["job_id"], "--runs", runs).returncode == 0
    assert stopped.read_state()["state"] == "stopped"
    assert {run.read_state()["state"] for run in (cancelled, orphan)} == {"cancelled"}
    assert slurm.run("squeue", "--noheader", "--partition=a100").strip() == ""
    states = {row["name"].split("-")[0]: row["state"] for row in listed(tmp_path, counter)}
    assert states == {"stopped": "stopped", "cancelled": "cancelled", "orphan": "cancelled"}


@pytest.mark.slow
def test_cancel_ends_a_run_at_once_and_scancel_by_hand_is_seen_too(
    slurm: SlurmClient, counter: CallCounter, tmp_path: Path
) -> None:
    words = ("steps=1000", "save_every=1000", "start_sec=1")
    ours, theirs = (launch_small(tmp_path, *words, name=name) for name in ("ours", "theirs"))
    for launched in (ours, theirs):
        wait_state(RunFolder(launched.run_dir), "running")
    assert jobs("cancel", "ours", "--runs", str(tmp_path / "runs")).returncode == 0
    slurm.run("scancel", theirs.job_id)
    for launched in (ours, theirs):
        slurm.wait_state(int(launched.job_id), "CANCELLED", "COMPLETED", "FAILED")
    rows = listed(tmp_path, counter)
    assert [row["state"] for row in rows] == ["cancelled", "cancelled"]


def test_one_call_for_many_runs_and_none_where_all_are_over(
    slurm: SlurmClient, counter: CallCounter, tmp_path: Path
) -> None:
    array = slurm.submit("sleep 1", "--hold", "--array=0-49")
    for member in range(50):
        make_launched(tmp_path / "runs", f"pretrain/m{member}-aa", "queued", f"{array}_{member}")
    counter.taken()
    shown = jobs_json("list", "--runs", str(tmp_path / "runs"), env=counter.environment)
    (call,) = counter.taken()
    assert call.startswith("squeue")
    assert [row["state"] for row in shown["runs"]] == ["queued"] * 50
    assert {row["pending"] for row in shown["runs"]} == {"JobHeldUser"}
    make_launched(tmp_path / "over", "pretrain/a-aa", "done", "1")
    jobs("list", "--runs", str(tmp_path / "over"), env=counter.environment)
    assert counter.taken() == []
    # a member cancelled while it waits is gone for Slurm at once; the others are not touched
    slurm.run("scancel", f"{array}_7")
    rows = jobs_json("list", "--runs", str(tmp_path / "runs"))["runs"]
    assert [row["name"] for row in rows if row["state"] != "queued"] == ["m7-aa"]
    assert rows[-1]["state"] == "lost"


def test_a_job_that_slurm_has_never_heard_of_is_lost_and_asked_for_once(
    slurm: SlurmClient, counter: CallCounter, tmp_path: Path
) -> None:
    run = make_launched(tmp_path / "runs", "pretrain/gone-aa", "running", "7")
    words = ("list", "--runs", str(tmp_path / "runs"))
    counter.taken()
    for expected in (["squeue", "sacct"], ["squeue"]):  # there is no accounting here
        (row,) = jobs_json(*words, env=counter.environment)["runs"]
        assert row["state"] == "lost"
        assert [call.split()[0] for call in counter.taken()] == expected
    assert run.read_state()["state"] == "running"  # looking changes nothing


@pytest.mark.slow
def test_a_requeued_job_that_is_held_back_is_started_by_looking_at_it(
    slurm: SlurmClient, tmp_path: Path
) -> None:
    job = slurm.submit("sleep 300")
    slurm.wait_state(job, "RUNNING")
    make_launched(tmp_path / "runs", "pretrain/back-aa", "queued", str(job), attempts=2)
    slurm.run("scontrol", "requeue", str(job))
    slurm.wait_state(job, "PENDING")
    # as on a site with the usual hold: minutes from now at the earliest
    slurm.run("scontrol", "update", f"JobId={job}", "StartTime=now+10minutes")
    wait_for(lambda: slurm.job(job)["Reason"] == "BeginTime", 30, "BeginTime")
    shown = jobs("status", str(job), "--runs", str(tmp_path / "runs"))
    assert "BeginTime, starts about" in shown.stdout
    slurm.wait_state(job, "RUNNING", seconds=30)


@pytest.mark.soak
def test_a_view_that_stays_asks_at_most_twice_a_minute(
    slurm: SlurmClient, counter: CallCounter, tmp_path: Path
) -> None:
    job = slurm.submit("sleep 300", "--hold")
    run = make_launched(tmp_path / "runs", "pretrain/held-aa", "queued", str(job))
    runs = ("--runs", str(tmp_path / "runs"))
    env = {**os.environ, **counter.environment}
    views = (["status", "--watch", *runs], ["follow", str(run.path)])
    for view in views:
        counter.taken()
        words = [sys.executable, "-m", "jobs", *view]
        process = subprocess.Popen(words, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
        time.sleep(100)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) in (0, 130)
        assert process.stdout is not None
        assert "JobHeldUser" in process.stdout.read()
        assert 2 <= len(counter.calls.read_text().splitlines()) <= 4
        assert counter.most_in_a_minute() <= 2


@pytest.fixture(scope="module")
def with_accounting(testbed_folder: Path) -> Iterator[SlurmClient]:
    """A Slurm that keeps books, and forgets jobs two seconds after their end."""
    local = bring_up_or_skip(Settings(testbed_folder / "books", accounting=True, num_nodes=1))
    conf = local.settings.slurm_conf
    conf.write_text(conf.read_text() + "MinJobAge=2\n")
    client = SlurmClient(local)
    client.run("scontrol", "reconfigure")
    yield client
    local.down()


@pytest.mark.soak
def test_jobs_that_left_the_queue_are_looked_up_in_the_accounting_once_for_all(
    slurm: SlurmClient,
    with_accounting: SlurmClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    books = with_accounting
    monkeypatch.setenv("SLURM_CONF", str(books.settings.slurm_conf))
    counter = CallCounter.make(tmp_path)
    ids = [books.submit("sleep 300") for _ in range(3)]
    books.wait_state(ids[0], "RUNNING")
    books.run("scancel", str(ids[0]))
    failed = books.submit("exit 3")
    for number, job_id in enumerate((ids[0], failed, *ids[1:])):
        make_launched(tmp_path / "runs", f"pretrain/r{number}-aa", "running", str(job_id))
    wait_for(lambda: not books.state(ids[0]), 150, "Slurm to forget", pause_sec=1)
    wait_for(lambda: not books.state(failed), 150, "Slurm to forget", pause_sec=1)
    words = ("list", "--runs", str(tmp_path / "runs"))
    for expected in (["squeue", "sacct"], ["squeue"]):
        rows = {row["name"]: row for row in jobs_json(*words, env=counter.environment)["runs"]}
        assert rows["r0-aa"]["state"] == "cancelled"
        assert (rows["r1-aa"]["state"], rows["r1-aa"]["cause"]) == ("lost", "crash")
        assert "ended as FAILED" in rows["r1-aa"]["reason"]
        assert {rows["r2-aa"]["state"], rows["r3-aa"]["state"]} == {"running", "queued"} or (
            rows["r2-aa"]["state"] == rows["r3-aa"]["state"] == "running"
        )
        assert [call.split()[0] for call in counter.taken()] == expected
    books.cancel_all()
