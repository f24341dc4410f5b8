"""Every cause of a stop is named exactly, with its deadline, whatever the site's settings.

The full product of process tracker, preemption signal, PreemptMode and JobRequeue is `make soak`'s.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from jobs.resume import resume
from jobs.run_folder import read_json
from jobs.slurm import parse_time
from tests.slurm.client import SlurmClient
from tests.slurm.configuration import KILL_WAIT_SEC, PROFILES
from tests.slurm.toy_run import WORLD_SIZE, ToyRun, launch_toy
from tests.slurm.waiting import wait_for

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

GRIM = "cgroup-usr2-cancel-jobrequeue0"  # a site that takes away all it can
ALL = [name for name in PROFILES if name not in ("linuxproc", "cgroup")]
# One of each value in `make test`, the product in `make soak`.
SHORT = (GRIM, "linuxproc-term-requeue-jobrequeue1")
PRODUCT = [
    pytest.param(name, marks=[] if name in SHORT else [pytest.mark.soak], id=name) for name in ALL
]
every_profile = pytest.mark.parametrize("slurm_session", PRODUCT, indirect=True)
cgroup_only = pytest.mark.parametrize("slurm_session", ["cgroup"], indirect=True)
grim_only = pytest.mark.parametrize("slurm_session", [GRIM], indirect=True)


def assert_last_step_was_saved(run: ToyRun, attempt: int) -> None:
    (last,) = {run.steps_of(rank, attempt)[-1] for rank in range(WORLD_SIZE)}
    assert run.commit_steps_of(attempt)[-1] == last


@every_profile
def test_preemption_with_grace_is_named_with_its_deadline_and_loses_nothing(
    slurm: SlurmClient, tmp_path: Path
) -> None:
    # the save takes longer than the look at Slurm's own deadline
    run = launch_toy(slurm, tmp_path, "light=1", "save_sec=2", num_steps=150)
    run.wait_step(5)
    first = run.job_id
    intruder = slurm.start_intruder()
    wait_for(run.folder.attempt(1).stop_json.exists, 60.0, "the agent to hear of it", 0.02)
    facts = slurm.job(first)
    stop = run.stop_of(1)
    assert (stop["reason"], stop["source"]) == ("preempt", "slurm")
    assert abs(stop["deadline"] - (parse_time(facts["EndTime"]) or 0)) <= 1
    slurm.wait_state(intruder, "RUNNING")
    slurm.cancel(intruder)
    run.wait_end()
    outcome = run.outcome(1)
    assert (outcome["state"], outcome["cause"], outcome["source"]) == ("queued", "preempt", "slurm")
    assert outcome["deadline"] == stop["deadline"]
    assert outcome["step_last"] == outcome["saved_step"] == run.commit_steps_of(1)[-1]
    assert len(outcome["nodes"]) == 2
    assert outcome["blamed"] == []
    run.assert_no_step_lost_or_repeated()
    assert run.folder.attempt_numbers() == [1, 2]


@every_profile
def test_preemption_without_grace_is_not_taken_for_a_cancel(
    slurm: SlurmClient, tmp_path: Path
) -> None:
    run = launch_toy(
        slurm, tmp_path, "light=1", "save_every=10", num_steps=150, partition="nograce"
    )
    run.wait_step(12)
    job = run.job_id
    intruder = slurm.start_intruder()
    slurm.wait_state(intruder, "RUNNING")
    assert slurm.state(job) != "RUNNING"
    slurm.cancel(intruder)
    run.wait_end()
    assert run.outcome(1)["cause"] == "preempt"
    run.assert_continued_from_last_commit(2)
    run.assert_right_result()


@every_profile
def test_scancel_ends_the_run(slurm: SlurmClient, tmp_path: Path) -> None:
    run = launch_toy(slurm, tmp_path, "light=1", num_steps=2000)
    run.wait_step(5)
    told = time.time()
    slurm.cancel(run.job_id)
    run.wait_end("cancelled", seconds=90.0)
    stop = run.stop_of(1)
    assert (stop["reason"], stop["source"]) == ("cancelled", "slurm")
    assert abs(stop["deadline"] - told - KILL_WAIT_SEC) < 3
    assert run.outcome(1)["cause"] == "cancelled"
    assert_last_step_was_saved(run, 1)
    assert run.folder.attempt_numbers() == [1]
    assert not slurm.run("squeue", "--noheader").strip()


@grim_only
def test_scancel_within_the_grace_time_ends_the_run(slurm: SlurmClient, tmp_path: Path) -> None:
    run = launch_toy(slurm, tmp_path, "light=1", "save_sec=4", num_steps=2000)
    run.wait_step(5)
    slurm.start_intruder()
    wait_for(run.folder.attempt(1).stop_json.exists, 60.0, "the agent to hear of it", 0.02)
    time.sleep(1.2)  # the second of the preemption itself cannot be told from its end
    slurm.cancel(run.job_id)
    run.wait_end("cancelled", seconds=90.0)
    assert run.folder.attempt_numbers() == [1]


@cgroup_only
def test_warning_before_the_time_limit_is_a_timeout(slurm: SlurmClient, tmp_path: Path) -> None:
    run = launch_toy(slurm, tmp_path, "light=1", "save_sec=2", "step_sec=0.2", num_steps=600)
    run.wait_step(3)
    job = run.job_id
    started = parse_time(slurm.job(job)["StartTime"]) or 0
    minutes = 2 + int(time.time() - started) // 60  # less than the warning's lead is left
    slurm.run("scontrol", "update", f"jobid={job}", f"TimeLimit={minutes}")
    wait_for(run.folder.attempt(1).stop_json.exists, 120.0, "the warning", 0.02)
    ends, stop = parse_time(slurm.job(job)["EndTime"]) or 0, run.stop_of(1)
    assert (stop["reason"], stop["source"]) == ("timeout", "slurm")
    assert abs(stop["deadline"] - ends) <= 1
    run.wait_step(1, attempt=2)
    assert run.outcome(1)["cause"] == "timeout"
    assert run.folder.read_state()["state"] == "running"
    run.assert_continued_from_last_commit(2)
    assert run.first_step_of(2) == run.steps_of(0, 1)[-1] + 1
    slurm.cancel(run.job_id)
    run.wait_end("cancelled", seconds=90.0)
    assert run.folder.read_state()["budgets"]["timeout"] == 99


@cgroup_only
def test_requeue_by_somebody_else_is_left_to_slurm(slurm: SlurmClient, tmp_path: Path) -> None:
    run = launch_toy(slurm, tmp_path, "light=1", num_steps=150)
    run.wait_step(5)
    job = run.job_id
    slurm.run("scontrol", "requeue", str(job))
    run.wait_end()
    assert run.outcome(1)["cause"] == "requeued"
    assert (run.job_id, run.claim_of(2)["by"]) == (job, "restart")
    run.assert_no_step_lost_or_repeated()


def _tools(folder: Path, *names: str) -> Path:
    """A PATH on which these programs are the only ones of Slurm."""
    bin_ = folder / "bin"
    bin_.mkdir()
    for name in names:
        found = shutil.which(name)
        assert found is not None
        (bin_ / name).symlink_to(found)
    return bin_


BASICS = ("bash", "sh", "env", "hostname")


@cgroup_only
def test_without_slurm_commands_on_the_nodes_the_batch_shell_goes_on(
    slurm: SlurmClient, tmp_path: Path
) -> None:
    hidden = _tools(tmp_path, *BASICS)
    srun = f'srun() {{ PATH={hidden} {shutil.which("srun")} "$@"; }}'
    run = launch_toy(slurm, tmp_path, "light=1", num_steps=150, preamble=(srun,))
    run.wait_step(5)
    slurm.run("scancel", "--signal=USR2", str(run.job_id))
    run.wait_end()
    assert run.stop_of(1)["source"] == "inferred"
    outcome = run.outcome(1)
    assert (outcome["cause"], outcome["source"]) == ("preempt", "slurm")
    assert run.claim_of(2)["by"] == "successor"
    run.assert_no_step_lost_or_repeated()


@cgroup_only
def test_without_slurm_commands_in_the_whole_job_the_state_says_how_to_go_on(
    slurm: SlurmClient, tmp_path: Path
) -> None:
    hidden = _tools(tmp_path, *BASICS, "srun")
    run = launch_toy(slurm, tmp_path, "light=1", num_steps=150, preamble=(f"export PATH={hidden}",))
    run.wait_step(5)
    slurm.run("scancel", "--signal=USR2", str(run.job_id))
    run.wait_end("stopped")
    state = run.folder.read_state()
    assert state["cause"] == "preempt"
    assert "python -m jobs resume" in state["reason"]
    assert run.outcome(1)["source"] == "inferred"
    assert_last_step_was_saved(run, 1)
    slurm.wait_state(run.job_id, "FAILED", "COMPLETED")
    resumed = resume(run.folder)
    assert resumed.state == "queued"
    run.wait_end()
    run.assert_no_step_lost_or_repeated()


@cgroup_only
def test_scancel_without_slurm_commands_still_ends_the_run(
    slurm: SlurmClient, tmp_path: Path
) -> None:
    hidden = _tools(tmp_path, *BASICS, "srun")
    run = launch_toy(
        slurm, tmp_path, "light=1", num_steps=2000, preamble=(f"export PATH={hidden}",)
    )
    run.wait_step(5)
    slurm.cancel(run.job_id)
    run.wait_end("cancelled", seconds=90.0)
    assert run.outcome(1)["source"] == "log"
    assert run.folder.attempt_numbers() == [1]


@cgroup_only
def test_rank_that_was_killed_is_a_crash_and_blames_no_node(
    slurm: SlurmClient, tmp_path: Path
) -> None:
    run = launch_toy(slurm, tmp_path, "light=1", "save_every=10", num_steps=150)
    run.wait_step(12)
    pid = run.slurm.find_rank(run.folder.path, WORLD_SIZE - 1)
    assert pid is not None, f"the last rank does not run; {read_json(run.folder.state_json)}"
    os.kill(pid, signal.SIGKILL)
    run.wait_end()
    outcome = run.outcome(1)
    assert (outcome["cause"], outcome["blamed"]) == ("crash", [])
    assert run.folder.read_state()["budgets"]["crash"] == 2
    run.assert_continued_from_last_commit(2)
    run.assert_right_result()
