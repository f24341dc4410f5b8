"""kill -9 of a rank, an agent, a slurmd: the run continues from its last COMMIT by itself."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from jobs.run_folder import read_json
from tests.slurm.client import SlurmClient
from tests.slurm.toy_run import WORLD_SIZE, ToyRun, launch_toy
from tests.slurm.waiting import wait_for

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

SAVE_EVERY = 15
cgroup_only = pytest.mark.parametrize("slurm_session", ["cgroup"], indirect=True)


def _node_name(run: ToyRun, index: int) -> str:
    return str((read_json(run.folder.attempt(1).node_json(index)) or {})["name"])


def _rank_pid(run: ToyRun, rank: int) -> int:
    pid = run.slurm.find_rank(run.folder.path, rank)
    assert pid is not None, f"rank {rank} does not run"
    return pid


def _agent_pid(run: ToyRun, index: int) -> int:
    return int((read_json(run.folder.attempt(1).node_json(index)) or {})["pid"])


def _launch(slurm: SlurmClient, folder: Path, step_sec: float = 0.05, steps: int = 150) -> ToyRun:
    options = (f"save_every={SAVE_EVERY}", f"step_sec={step_sec}")
    run = launch_toy(slurm, folder, *options, num_steps=steps)
    run.wait_step(SAVE_EVERY + 4)
    return run


def _assert_ended_well(run: ToyRun) -> None:
    """A second attempt went on from the last COMMIT of the first one, to the right end."""
    run.wait_end(seconds=240.0)
    assert run.folder.attempt_numbers() == [1, 2]
    assert run.outcome(1)["state"] == "queued"
    run.assert_continued_from_last_commit(2)
    run.assert_right_values()
    run.assert_right_result()
    _wait_none_left(run, run.slurm.settings.node_names)


def _wait_none_left(run: ToyRun, names: list[str]) -> None:
    wait_for(
        lambda: not any(run.slurm.processes_on(name) for name in names),
        60.0,
        f"the end of every process of the job on {names}, orphans too",
    )


@cgroup_only
@pytest.mark.parametrize("rank", [0, WORLD_SIZE - 1])
def test_killed_rank(slurm: SlurmClient, tmp_path: Path, rank: int) -> None:
    run = _launch(slurm, tmp_path)
    os.kill(_rank_pid(run, rank), signal.SIGKILL)
    _assert_ended_well(run)
    assert run.outcome(1)["cause"] == "crash"


@pytest.mark.parametrize("node", [0, 1])
def test_killed_agent(slurm: SlurmClient, tmp_path: Path, node: int) -> None:
    run = _launch(slurm, tmp_path)
    os.kill(_agent_pid(run, node), signal.SIGKILL)
    _assert_ended_well(run)


# Slurm notices a dead slurmd after 10 to 30 s, in which the run goes on.
SLOW_STEP_SEC = 0.2
MANY_STEPS = 2000


@pytest.mark.parametrize("node", [0, 1])
def test_killed_slurmd(slurm: SlurmClient, tmp_path: Path, node: int) -> None:
    run = _launch(slurm, tmp_path, SLOW_STEP_SEC, MANY_STEPS)
    name = _node_name(run, node)
    slurm.kill_node(name)
    run.wait_step(1, attempt=2, seconds=150.0)
    run.assert_continued_from_last_commit(2)
    run.assert_right_values()
    _wait_none_left(run, [name])


@cgroup_only
def test_ranks_that_outlive_all_their_slurmds_write_nothing_once_fenced(
    slurm: SlurmClient, tmp_path: Path
) -> None:
    run = _launch(slurm, tmp_path, SLOW_STEP_SEC, MANY_STEPS)
    names = [_node_name(run, node) for node in (0, 1)]
    killed_at = max(run.steps_of(0, 1))
    for name in names:
        slurm.kill_node(name)
    # They live on and train, until a second execution of the job takes the run from them.
    run.wait_step(killed_at + 10)
    run.wait_step(1, attempt=2, seconds=150.0)
    run.assert_continued_from_last_commit(2)
    assert len(run.steps_of(0, 1)) > killed_at
    _wait_none_left(run, names)
    # Nor does the batch shell of the first execution, which outlived its slurmd as well: how that
    # ended is written by the second.
    state = run.folder.read_state()
    assert (state["state"], state["attempt"]) == ("running", 2)
    assert (run.outcome(1)["cause"], run.outcome(1)["state"]) == ("node_fail", "queued")
    run.assert_continued_from_last_commit(2)
    run.assert_right_values()
