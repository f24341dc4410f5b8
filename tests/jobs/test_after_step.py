"""What needs no Slurm to say; the rest is in tests/slurm."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.after_step import finish
from jobs.node import NodeFacts
from jobs.run_folder import RunFolder, read_json, write_json_atomic
from jobs.spec import JobSpec
from jobs.stop import Stop

NODE = NodeFacts(executor="slurm", job_id="7")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path)
    folder.claim_attempt(1, "t", 0)
    write_json_atomic(folder.spec_json("t"), JobSpec("pretrain", "x").to_json())
    return folder


@pytest.mark.parametrize(("state", "code"), [("done", 0), ("stopped", 0), ("failed", 1)])
def test_concluded_attempt_only_sets_the_exit_code(run: RunFolder, state: str, code: int) -> None:
    write_json_atomic(run.attempt(1).outcome_json, {"state": state, "cause": state})
    assert finish(run, "t", NODE, 0) == code
    assert run.latest_attempt() == 1


def test_ranks_that_were_done_make_the_run_done_though_the_agent_died(run: RunFolder) -> None:
    write_json_atomic(run.attempt(1).exit_json(0), {"state": "done", "saved_step": 1})
    assert finish(run, "t", NODE, 137) == 0
    assert run.read_state()["state"] == "done"


def test_cancelled_run_is_not_continued_though_the_agent_died(run: RunFolder) -> None:
    write_json_atomic(run.attempt(1).stop_json, Stop("cancelled").to_json())
    assert finish(run, "t", NODE, 143) == 0
    assert run.read_state()["state"] == "cancelled"
    assert run.latest_attempt() == 1


def test_third_attempt_that_dies_without_a_commit_is_the_last(run: RunFolder) -> None:
    run.claim_attempt(2, "t", 1)
    run.claim_attempt(3, "t", 2)
    node = NodeFacts(executor="slurm", job_id="7", restart=2)
    assert finish(run, "t", node, 137) == 1
    assert "3 attempts in a row" in run.read_state()["reason"]
    assert (read_json(run.attempt(3).outcome_json) or {})["cause"] == "crash"


def test_run_that_a_newer_launch_has_is_left_alone(run: RunFolder) -> None:
    run.claim_attempt(2, "newer", 0)
    assert finish(run, "t", NodeFacts(executor="slurm", job_id="7", restart=1), 1) == 0
    assert run.latest_attempt() == 2
