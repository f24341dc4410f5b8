"""What needs no Slurm to say; the rest is in tests/slurm."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from jobs.after_step import finish, main
from jobs.node import NodeFacts
from jobs.run_folder import RunFolder, read_json, write_json_atomic
from jobs.spec import JobSpec
from jobs.stop import Stop

NODE = NodeFacts(executor="slurm", job_id="7")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setenv("PATH", str(tmp_path))  # no Slurm is asked
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


def test_attempt_that_dies_when_the_budget_is_spent_is_the_last(run: RunFolder) -> None:
    for number in (1, 2, 3):
        write_json_atomic(run.attempt(number).outcome_json, {"state": "queued", "cause": "crash"})
        run.claim_attempt(number + 1, "t", number)
    node = NodeFacts(executor="slurm", job_id="7", restart=3)
    assert finish(run, "t", node, 137) == 1
    state = run.read_state()
    assert "the budget for crash is spent: 4 attempts" in state["reason"]
    assert state["budgets"]["crash"] == 0
    assert (read_json(run.attempt(4).outcome_json) or {})["cause"] == "crash"


def test_run_that_a_newer_launch_has_is_left_alone(run: RunFolder) -> None:
    run.claim_attempt(2, "newer", 0)
    assert finish(run, "t", NodeFacts(executor="slurm", job_id="7", restart=1), 1) == 0
    assert run.latest_attempt() == 2


def main_in(run: RunFolder, monkeypatch: pytest.MonkeyPatch, job_id: str = "7") -> int:
    handlers = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGUSR2)}
    monkeypatch.setenv("SLURM_JOB_ID", job_id)
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    try:
        return main(str(run.path), "t", "143")
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)


def test_where_nothing_can_be_queued_the_state_says_how_to_go_on(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json_atomic(run.attempt(1).stop_json, Stop("preempt", None, "inferred").to_json())
    assert main_in(run, monkeypatch) == 1
    state = run.read_state()
    assert (state["state"], state["cause"], state["job_id"]) == ("stopped", "preempt", "7")
    assert f"python -m jobs resume {run.path}" in state["reason"]
    assert run.latest_attempt() == 1


def test_shell_of_an_attempt_that_was_superseded_writes_no_state(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Slurm has requeued the job and started it elsewhere; this shell outlived its slurmd
    run.claim_attempt(2, "t", 1, by="requeue")
    run.write_state("running", attempt=2, job_id="7")
    main_in(run, monkeypatch)
    assert run.read_state()["state"] == "running"
    run.claim_attempt(3, "newer", 0, by="launch")
    main_in(run, monkeypatch)
    assert (run.read_state()["state"], run.read_state()["attempt"]) == ("running", 2)


def test_claimed_successor_that_cannot_be_submitted_is_said_to_be_missing(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json_atomic(run.attempt(1).outcome_json, {"state": "queued", "cause": "preempt"})
    run.claim_attempt(2, "next", 0, by="successor", after="7")
    assert main_in(run, monkeypatch) == 1
    assert run.read_state()["state"] == "stopped"
