"""A plain scancel ends the run; a later launch of the same goes on from its last COMMIT."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.slurm.client import SlurmClient
from tests.slurm.toy_run import ROOT, WORLD_SIZE, launch_toy
from tests.slurm.waiting import wait_for

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def test_scancel_saves_and_ends_the_run_for_good(slurm: SlurmClient, tmp_path: Path) -> None:
    run = launch_toy(slurm, tmp_path, num_steps=120)
    run.wait_step(12)
    slurm.cancel(run.job_id)
    run.wait_end("cancelled", seconds=90.0)
    # Longer than the wait of a job that was requeued.
    time.sleep(15.0)
    assert slurm.state(int(run.launched.job_id)) == "CANCELLED"
    assert run.folder.attempt_numbers() == [1]
    (last,) = {run.steps_of(rank, 1)[-1] for rank in range(WORLD_SIZE)}
    assert run.folder.last_commit_step() == last

    again = launch_toy(slurm, tmp_path, num_steps=120)
    assert again.folder.path == run.folder.path
    assert again.launched.job_id != run.launched.job_id
    again.wait_end()
    assert again.first_step_of(2) == last + 1
    again.assert_no_step_lost_or_repeated()


@pytest.mark.parametrize("slurm_session", ["cgroup"], indirect=True)
def test_scancel_of_a_pending_job_leaves_a_run_that_can_be_launched_again(
    slurm: SlurmClient, tmp_path: Path
) -> None:
    intruder = slurm.start_intruder()
    slurm.wait_state(intruder, "RUNNING")
    run = launch_toy(slurm, tmp_path, num_steps=20)
    assert slurm.state(run.job_id) == "PENDING"
    slurm.cancel(run.job_id)
    slurm.cancel(intruder)
    again = launch_toy(slurm, tmp_path, num_steps=20)
    assert again.folder.path == run.folder.path
    again.wait_end()
    again.assert_no_step_lost_or_repeated()


@pytest.mark.parametrize("slurm_session", ["cgroup"], indirect=True)
def test_jobs_stop_saves_and_does_not_continue(slurm: SlurmClient, tmp_path: Path) -> None:
    run = launch_toy(slurm, tmp_path, num_steps=400)
    run.wait_step(5)
    command = [sys.executable, "-m", "jobs", "stop", str(run.folder.path)]
    subprocess.run(command, cwd=ROOT, env=slurm.environment, check=True)
    run.wait_end("stopped", seconds=60.0)
    (last,) = {run.steps_of(rank, 1)[-1] for rank in range(WORLD_SIZE)}
    assert run.folder.last_commit_step() == last
    wait_for(lambda: slurm.state(run.job_id) == "COMPLETED", 90.0, "the job to end")
