"""A stop that comes while submitit's own handlers are in place goes through its checkpoint hook."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.run_folder import read_json
from tests.slurm.client import SlurmClient
from tests.slurm.toy_run import copy_project, launch_toy
from tests.slurm.waiting import wait_for

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

# Appended to the agent's module of the launched project: its first execution is slow to begin, as
# on a busy network disk, after submitit has set its handlers.
SLOW_START = """
import time


def _begin_late(agent, begin=NodeAgent.__call__):
    if "SLURM_RESTART_COUNT" not in os.environ:
        open(os.path.join(agent.run_dir, "begun-" + os.environ["SLURM_NODEID"]), "w").close()
        time.sleep(LATE_SEC)
    return begin(agent)


NodeAgent.__call__ = _begin_late
"""


def _make_slow_project(folder: Path, seconds: int) -> None:
    agent = copy_project(folder) / "jobs" / "agent.py"
    agent.write_text(agent.read_text() + SLOW_START.replace("LATE_SEC", str(seconds)))


def test_usr2_before_the_agent_listens_requeues_through_the_checkpoint_hook(
    slurm: SlurmClient, tmp_path: Path
) -> None:
    _make_slow_project(tmp_path / "project", 300)
    run = launch_toy(slurm, tmp_path, num_steps=20)
    for node in (0, 1):
        wait_for((run.folder.path / f"begun-{node}").exists, 60.0, f"node {node} to begin")
    slurm.run("scancel", "--signal=USR2", str(run.job_id))
    run.wait_end()
    run.assert_no_step_lost_or_repeated()
    assert slurm.restarts(run.job_id) == 1
    assert run.folder.attempt_numbers() == [1, 2]
    assert (read_json(run.folder.attempt(2).claim_json) or {})["by"] == "submitit"
    assert run.steps_of(0, 1) == []


@pytest.mark.parametrize("slurm_session", ["cgroup"], indirect=True)
def test_preemption_before_the_agent_listens_is_survived(
    slurm: SlurmClient, tmp_path: Path
) -> None:
    # submitit ignores TERM: the agent never hears of it, Slurm kills and requeues the job itself.
    _make_slow_project(tmp_path / "project", 300)
    run = launch_toy(slurm, tmp_path, num_steps=20)
    wait_for((run.folder.path / "begun-0").exists, 60.0, "node 0 to begin")
    slurm.preempt(run.job_id)
    run.wait_end()
    run.assert_no_step_lost_or_repeated()
    assert slurm.restarts(run.job_id) == 1
