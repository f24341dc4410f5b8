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
    for name in run.slurm.settings.node_names:
        for pid, command in run.slurm.processes_on(name).items():
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if "jobs.rank" in command and f"RANK={rank}".encode() in variables:
                return pid
    raise AssertionError(f"rank {rank} does not run")


def _agent_pid(run: ToyRun, index: int) -> int:
    return int((read_json(run.folder.attempt(1).node_json(index)) or {})["pid"])


def _assert_continued(run: ToyRun, slurm: SlurmClient) -> None:
    """A second attempt went on from a COMMIT of the first one, and nobody else wrote."""
    run.wait_end(seconds=240.0)
    assert run.folder.attempt_numbers() == [1, 2]
    first = run.steps_of(0, 2)[0]
    assert first > 1 and (first - 1) % SAVE_EVERY == 0
    run.assert_each_attempt_begins_at_a_commit([first - 1])
    run.assert_attempts_do_not_overlap()
    run.assert_right_result()
    names = slurm.settings.node_names
    wait_for(
        lambda: not any(slurm.processes_on(name) for name in names),
        60.0,
        "the end of every process of the job, orphans too",
    )


def _launch(slurm: SlurmClient, folder: Path, num_steps: int = 80) -> ToyRun:
    run = launch_toy(slurm, folder, f"save_every={SAVE_EVERY}", num_steps=num_steps)
    run.wait_step(SAVE_EVERY + 4)
    return run


@cgroup_only
@pytest.mark.parametrize("rank", [0, WORLD_SIZE - 1])
def test_killed_rank(slurm: SlurmClient, tmp_path: Path, rank: int) -> None:
    run = _launch(slurm, tmp_path)
    os.kill(_rank_pid(run, rank), signal.SIGKILL)
    _assert_continued(run, slurm)
    assert run.outcome(1)["cause"] == "crash"


@pytest.mark.parametrize("node", [0, 1])
def test_killed_agent(slurm: SlurmClient, tmp_path: Path, node: int) -> None:
    run = _launch(slurm, tmp_path)
    os.kill(_agent_pid(run, node), signal.SIGKILL)
    _assert_continued(run, slurm)
    assert run.outcome(1)["cause"] == "crash"


@pytest.mark.parametrize("nodes", [[0], [1]])
def test_killed_slurmd(slurm: SlurmClient, tmp_path: Path, nodes: list[int]) -> None:
    run = _launch(slurm, tmp_path, num_steps=150)
    for index in nodes:
        slurm.kill_node(_node_name(run, index))
    _assert_continued(run, slurm)


@cgroup_only
def test_ranks_that_outlive_all_their_slurmds_write_nothing_once_fenced(
    slurm: SlurmClient, tmp_path: Path
) -> None:
    arguments = (f"save_every={SAVE_EVERY}", "step_sec=0.1")
    run = launch_toy(slurm, tmp_path, *arguments, num_steps=900)
    run.wait_step(SAVE_EVERY + 4)
    orphans = [_rank_pid(run, rank) for rank in range(WORLD_SIZE)]
    killed_at = max(run.steps_of(0, 1))
    names = [_node_name(run, index) for index in (0, 1)]
    for name in names:
        slurm.kill_node(name)
    # They do live on and train, until a second execution of the job takes the run from them.
    run.wait_step(killed_at + 10)
    claim = run.folder.attempt(2).claim_json
    wait_for(claim.exists, 120.0, "Slurm to start the job again elsewhere")
    run.wait_step(1, attempt=2)
    claimed = (read_json(claim) or {})["time"]
    for rank in range(WORLD_SIZE):
        late = [line for line in run.steps(rank) if line["attempt"] == 1 and line["time"] > claimed]
        assert not late
    wait_for(
        lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in orphans),
        30.0,
        "the orphans to end",
    )
    commits = [read_json(path) or {} for path in run.folder.checkpoints.glob("*/COMMIT")]
    begin = run.steps_of(0, 2)[0] - 1
    assert begin == max(mark["step"] for mark in commits if mark["attempt"] == 1)
    run.assert_attempts_do_not_overlap()
