"""Preempted runs lose nothing: all ranks stop at the same step, save it, and go on from it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.run_folder import read_json
from tests.slurm.client import SlurmClient
from tests.slurm.toy_run import WORLD_SIZE, ToyRun, launch_toy
from tests.slurm.waiting import wait_for

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def _assert_stopped_together(run: ToyRun, attempt: int) -> int:
    """All ranks' last step of an attempt, which is the one that was committed."""
    last = {run.steps_of(rank, attempt)[-1] for rank in range(WORLD_SIZE)}
    assert len(last) == 1, f"ranks stopped at {sorted(last)}"
    (step,) = last
    commit = read_json(run.folder.checkpoints / f"step-{step}" / "COMMIT")
    assert commit is not None, run.trouble()
    assert (commit["step"], commit["attempt"]) == (step, attempt)
    return step


def test_preempted_twice_at_random_steps_loses_no_step(
    slurm: SlurmClient, preempt: Callable[[int], None], tmp_path: Path
) -> None:
    run = launch_toy(slurm, tmp_path, num_steps=150)
    commits: list[int] = []
    for attempt in (1, 2):
        before = commits[-1] if commits else 0
        run.wait_step(before + random.randint(3, 30), attempt)
        preempt(run.job_id)
        commits.append(_assert_stopped_together(run, attempt))
        outcome = run.outcome(attempt)
        assert (outcome["state"], outcome["cause"]) == ("queued", "preempt")
        stop = read_json(run.folder.attempt(attempt).stop_json) or {}
        assert stop["source"] == "slurm"
    run.wait_end()
    for attempt in (2, 3):
        run.assert_continued_from_last_commit(attempt)
    run.assert_no_step_lost_or_repeated()
    assert run.folder.attempt_numbers() == [1, 2, 3]
    slurm.wait_state(run.job_id, "COMPLETED")


def test_preempted_without_grace_continues_from_a_commit(
    slurm: SlurmClient, preempt: Callable[[int], None], tmp_path: Path
) -> None:
    run = launch_toy(slurm, tmp_path, "save_every=10", num_steps=150, partition="nograce")
    run.wait_step(23)
    preempt(run.job_id)
    run.wait_end()
    assert run.first_step_of(2) > 20
    run.assert_continued_from_last_commit(2)
    run.assert_right_result()


@pytest.mark.parametrize("slurm_session", ["cgroup"], indirect=True)
def test_preemption_that_reaches_one_node_late_is_not_taken_for_a_cancel(
    slurm: SlurmClient, tmp_path: Path
) -> None:
    run = launch_toy(slurm, tmp_path, num_steps=150)
    run.wait_step(5)
    other = (read_json(run.folder.attempt(1).node_json(1)) or {})["name"]
    with slurm.paused_node(other):
        # While a signal is on its way, Slurm does not call the job RUNNING.
        intruder = slurm.start_intruder()
        wait_for(run.folder.attempt(1).stop_json.exists, 90.0, "the agent to hear of it")
    stop = read_json(run.folder.attempt(1).stop_json) or {}
    assert stop["reason"] == "preempt"
    assert "SIGNALING" in stop["detail"]
    slurm.wait_state(intruder, "RUNNING")
    slurm.cancel(intruder)
    run.wait_end()
    run.assert_continued_from_last_commit(2)
    run.assert_no_step_lost_or_repeated()


@pytest.mark.parametrize("slurm_session", ["cgroup"], indirect=True)
def test_ranks_that_ignore_the_stop_cost_the_steps_since_the_last_commit_only(
    slurm: SlurmClient, preempt: Callable[[int], None], tmp_path: Path
) -> None:
    run = launch_toy(
        slurm, tmp_path, "save_every=15", "ignore_stop=1", "step_sec=0.2", num_steps=220
    )
    run.wait_step(3)
    preempt(run.job_id)
    assert (run.folder.last_commit_step() or 0) % 15 == 0
    run.wait_end()
    run.assert_continued_from_last_commit(2)
    run.assert_right_result()


@pytest.mark.parametrize("slurm_session", ["cgroup"], indirect=True)
def test_the_same_launch_twice_is_one_run(slurm: SlurmClient, tmp_path: Path) -> None:
    run = launch_toy(slurm, tmp_path, num_steps=40)
    again = launch_toy(slurm, tmp_path, num_steps=40)
    assert again.launched.run_dir == run.launched.run_dir
    assert (again.launched.state, again.job_id) == ("live", run.job_id)
    run.wait_end()
    run.assert_no_step_lost_or_repeated()
    assert launch_toy(slurm, tmp_path, num_steps=40).launched.state == "done"
