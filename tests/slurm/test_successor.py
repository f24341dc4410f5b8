"""A stopped run goes on in a job submitted from inside the one before, without Slurm's hold."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.resume import resume
from jobs.run_folder import read_json
from jobs.slurm import parse_time
from tests.slurm.client import SlurmClient
from tests.slurm.toy_run import ROOT, launch_toy
from tests.slurm.waiting import wait_for

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.parametrize("slurm_session", ["cgroup"], indirect=True),
]


def test_signalled_run_goes_on_in_a_new_job_within_seconds(
    slurm: SlurmClient, tmp_path: Path
) -> None:
    run = launch_toy(slurm, tmp_path, "light=1", num_steps=150)
    command = [sys.executable, "-m", "jobs", "follow", str(run.folder.path)]
    follower = subprocess.Popen(
        command, cwd=ROOT, env=slurm.environment, stdout=subprocess.PIPE, text=True
    )
    first = run.job_id
    run.wait_step(10)
    subprocess.run([*command[:3], "preempt", command[-1]], cwd=ROOT, env=slurm.environment)
    run.wait_step(1, attempt=2)
    second = run.job_id
    assert second != first
    ended, started = (
        parse_time(slurm.job(job)[key]) for job, key in ((first, "EndTime"), (second, "StartTime"))
    )
    assert ended is not None
    assert started is not None
    assert started - ended < 10  # one or two seconds on an idle machine; requeued, it waits 121
    assert slurm.job(second)["Dependency"] in ("(null)", f"afterany:{first}")
    assert (run.claim_of(2)["by"], run.claim_of(2)["after"]) == ("successor", str(first))
    run.wait_end()
    run.assert_no_step_lost_or_repeated()
    assert run.folder.attempt_numbers() == [1, 2]
    assert "DUE TO" not in (run.folder.submission / f"{first}_0_log.out").read_text()
    assert "rank 0 of 4" in (run.folder.submission / f"{second}_0_log.out").read_text()
    shown, _ = follower.communicate(timeout=30)
    assert follower.returncode == 0, shown
    assert f"job {second}" in shown
    state = run.folder.read_state()
    assert (state["state"], state["job_id"]) == ("done", str(second))


def test_requeue_keeps_the_job_and_is_hastened_by_who_looks(
    slurm: SlurmClient, tmp_path: Path
) -> None:
    run = launch_toy(slurm, tmp_path, "light=1", num_steps=150, resume_via="requeue")
    job = run.job_id
    run.wait_step(5)
    slurm.run("scancel", "--signal=USR2", str(job))
    run.wait_step(1, attempt=2)
    assert run.job_id == job
    assert slurm.restarts(job) == 1
    assert run.claim_of(2)["by"] == "requeue"
    run.wait_end()
    run.assert_no_step_lost_or_repeated()


def test_killed_batch_shell_does_not_end_the_run(slurm: SlurmClient, tmp_path: Path) -> None:
    run = launch_toy(slurm, tmp_path, "light=1", num_steps=200)
    run.wait_step(1)
    shells = _batch_shells(slurm, run.job_id)
    run.wait_step(5)
    for pid in shells:
        os.kill(pid, signal.SIGKILL)
    run.wait_step(1, attempt=2)
    assert run.outcome(1)["cause"] == "crash"
    run.wait_end()
    run.assert_no_step_lost_or_repeated()


def test_run_of_which_nothing_is_left_is_resumed_without_its_launcher(
    slurm: SlurmClient, tmp_path: Path
) -> None:
    run = launch_toy(slurm, tmp_path, "light=1", "save_every=10", num_steps=300)
    run.wait_step(1)
    job, agent = run.job_id, int((read_json(run.folder.attempt(1).node_json(0)) or {})["pid"])
    shells = _batch_shells(slurm, job)  # a look at every process: before the step, not after it
    run.wait_step(12)
    for pid in (*shells, agent):
        os.kill(pid, signal.SIGKILL)
    slurm.wait_state(job, "COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL")
    resumed = resume(run.folder)
    assert (resumed.state, resumed.job_id) == ("queued", str(run.job_id))
    assert run.outcome(1)["cause"] == "crash"
    run.wait_end()
    run.assert_right_result()


def _batch_shells(slurm: SlurmClient, job: int) -> list[int]:
    names = slurm.settings.node_names

    def found() -> list[int]:
        running = {pid: line for name in names for pid, line in slurm.processes_on(name).items()}
        return [pid for pid, line in running.items() if "slurm_script" in line]

    return wait_for(found, 90.0, f"the batch shell of job {job}")
