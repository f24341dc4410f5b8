"""The warning before the time limit is a stop like any other, under its own name."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from jobs.run_folder import read_json
from jobs.slurm import parse_time
from tests.slurm.client import SlurmClient
from tests.slurm.toy_run import launch_toy

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


@pytest.mark.parametrize("slurm_session", ["cgroup"], indirect=True)
def test_run_that_reaches_its_time_limit_goes_on_in_the_next_job(
    slurm: SlurmClient, tmp_path: Path
) -> None:
    run = launch_toy(slurm, tmp_path, num_steps=1000)
    run.wait_step(5)
    ends = time.time() + 110
    minutes = 1 + int(ends - (parse_time(slurm.job(run.job_id)["StartTime"]) or 0)) // 60
    slurm.run("scontrol", "update", f"jobid={run.job_id}", f"TimeLimit={minutes}")
    run.wait_step(1, attempt=2, seconds=180.0)
    assert run.outcome(1)["cause"] == "timeout"
    stop = read_json(run.folder.attempt(1).stop_json) or {}
    assert stop["source"] == "slurm"
    assert stop["deadline"] > time.time() - 60
    run.assert_continued_from_last_commit(2)
    assert run.first_step_of(2) == run.steps_of(0, 1)[-1] + 1
    slurm.cancel(run.job_id)
