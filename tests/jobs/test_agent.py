"""The node agent on one machine, with a real torchrun, through submitit's local executor."""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs import rendezvous
from jobs.agent import NodeAgent
from jobs.cluster import Cluster
from jobs.execution import enter_attempt
from jobs.follow import follow
from jobs.node import NodeFacts, is_alive
from jobs.run_folder import RunFolder, read_json, write_json_atomic
from jobs.signals import SignalPipe
from jobs.snapshot import take_snapshot
from jobs.spec import JobSpec, Resources
from jobs.steer import preempt, stop
from jobs.submit import Launched, Place, launch

HOME = Path(__file__).resolve().parents[2]
CLUSTER = Cluster("local", executor="local")
PATIENCE_SEC = 90.0


def start(folder: Path, *words: str, executor: str = "local", **resources: int) -> Launched:
    spec = JobSpec(
        kind="pretrain",
        name="toy",
        module="tests.jobs.toy_trainer",
        arguments=("train", *words),
        resources=Resources(**{"processes_per_node": 2, **resources}),
    )
    place = Place(HOME, folder / "runs", folder / "snapshots")
    return launch(spec, CLUSTER, place, executor)


def wait(predicate: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE_SEC
    while not predicate():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.05)


def steps(run: RunFolder) -> list[tuple[int, int]]:
    if not run.metrics_jsonl.exists():
        return []
    lines = [json.loads(line) for line in run.metrics_jsonl.read_text().splitlines()]
    return [(line["attempt"], line["step"]) for line in lines]


def agent_pid(run: RunFolder, attempt: int = 1) -> int:
    return int((read_json(run.attempt(attempt).node_json(0)) or {})["pid"])


@pytest.mark.slow
def test_preempted_local_run_saves_and_goes_on_without_losing_a_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    launched = start(tmp_path, "steps=40", "step_sec=0.1", "save_every=1000")
    run = RunFolder(launched.run_dir)
    wait(lambda: len(steps(run)) > 8, "step 9")
    preempt(run)
    assert follow(run, poll_sec=0.1) == 0
    assert [step for _, step in steps(run)] == list(range(1, 41))
    assert {attempt for attempt, _ in steps(run)} == {1, 2}
    outcome = read_json(run.attempt(1).outcome_json) or {}
    assert (outcome["state"], outcome["cause"]) == ("queued", "preempt")
    assert "step 40" in capsys.readouterr().out
    again = start(tmp_path, "steps=40", "step_sec=0.1", "save_every=1000")
    assert (again.state, again.run_dir) == ("done", launched.run_dir)
    output = "".join(path.read_text() for path in run.submission.glob("*_log.out"))
    assert "rank 0 of 2 begins at step 0" in output  # rank 0 is heard in the job's own output
    assert "rank 1 of 2" not in output
    assert "rank 1 of 2 begins" in "".join(
        path.read_text() for path in run.attempt(1).logs.glob("0.[01].log")
    )


@pytest.mark.slow
def test_second_launch_adopts_a_live_run_and_resumes_a_stopped_one(tmp_path: Path) -> None:
    words = ("steps=400", "step_sec=0.1", "save_every=1000")
    first = start(tmp_path, *words)
    run = RunFolder(first.run_dir)
    second = start(tmp_path, *words)
    assert (second.state, second.run_dir, second.job_id) == ("live", run.path, first.job_id)
    wait(lambda: len(steps(run)) > 3, "step 4")
    stop(run)
    assert follow(run, poll_sec=0.1) == 1
    state = run.read_state()
    assert (state["state"], state["cause"]) == ("stopped", "user")
    assert run.latest_attempt() == 1
    third = start(tmp_path, *words, processes_per_node=1)  # other resources, same run
    assert (third.state, third.run_dir) == ("queued", run.path)
    wait(lambda: any(attempt == 2 for attempt, _ in steps(run)), "attempt 2 to step")
    assert min(step for attempt, step in steps(run) if attempt == 2) == state["step"] + 1
    stop(run)
    wait(lambda: run.read_state()["state"] == "stopped", "the second stop")


@pytest.mark.slow
def test_rank_that_always_dies_ends_the_run_with_a_reason(tmp_path: Path) -> None:
    launched = start(tmp_path, "die_at=3", "fail_attempt=0", "save_every=1000", "step_sec=0.01")
    run = RunFolder(launched.run_dir)
    assert follow(run, poll_sec=0.1) == 1
    state = run.read_state()
    assert (state["state"], state["cause"]) == ("failed", "crash")
    assert "4 attempts ended by crash" in state["reason"]
    assert "rank" in state["reason"]
    assert run.latest_attempt() == 4


@pytest.mark.slow
def test_killed_agent_leaves_no_rank_and_the_next_launch_resumes(tmp_path: Path) -> None:
    words = ("steps=400", "step_sec=0.1", "save_every=5")
    run = RunFolder(start(tmp_path, *words).run_dir)
    wait(lambda: len(steps(run)) > 7, "step 8")
    os.kill(agent_pid(run), signal.SIGKILL)
    wait(lambda: start(tmp_path, *words).state == "queued", "the launch to see that it is lost")
    wait(lambda: any(attempt == 2 for attempt, _ in steps(run)), "attempt 2 to step")
    second = [step for attempt, step in steps(run) if attempt == 2]
    assert second[0] == (read_json(run.attempt(2).claim_json) or {})["commit"] + 1
    stop(run)
    wait(lambda: run.read_state()["state"] == "stopped", "the stop")


@pytest.mark.slow
def test_time_limit_is_kept_without_a_scheduler(tmp_path: Path) -> None:
    words = ("steps=400", "step_sec=0.1", "save_every=1000")
    run = RunFolder(start(tmp_path, *words, time_limit_sec=40, stop_lead_sec=15).run_dir)
    wait(lambda: run.latest_attempt() == 2, "the second attempt")
    outcome = read_json(run.attempt(1).outcome_json) or {}
    assert (outcome["state"], outcome["cause"]) == ("queued", "timeout")
    wait(lambda: any(attempt == 2 for attempt, _ in steps(run)), "attempt 2 to step")
    assert [step for _, step in steps(run)] == list(range(1, 1 + len(steps(run))))
    stop(run)
    wait(lambda: run.read_state()["state"] == "stopped", "the stop")


@pytest.mark.slow
def test_debug_executor_runs_here_and_does_not_retry_what_cannot_be_helped(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGINT)
    launched = start(tmp_path, "fail_at=2", "fail_attempt=0", "retry=0", executor="debug")
    assert launched.state == "failed"
    run = RunFolder(launched.run_dir)
    assert run.latest_attempt() == 1
    assert "told to fail at step 2" in run.read_state()["reason"]
    assert "begins at step 0" in capfd.readouterr().out
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.slow
def test_port_lost_after_it_was_chosen_costs_a_round_not_the_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        find_port, clash = rendezvous.find_port, taken.getsockname()[1]

        def choose(run_id: str, attempt: int, skip: int = 0) -> int:
            return clash if skip == 0 else find_port(run_id, attempt, skip)

        monkeypatch.setattr(rendezvous, "find_port", choose)
        launched = start(tmp_path, "steps=3", "step_sec=0.01", executor="debug")
    run = RunFolder(launched.run_dir)
    assert (launched.state, run.latest_attempt()) == ("done", 1)
    assert (read_json(run.attempt(1).rendezvous_json) or {})["round"] == 1


@pytest.mark.slow
def test_changed_code_copy_ends_the_run_and_is_named(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "a.py").write_text("x = 1\n")
    place = Place(home, tmp_path / "runs", tmp_path / "snapshots")
    copy = take_snapshot(home, place.snapshots).path / "a.py"
    copy.chmod(0o644)
    copy.write_text("x = 2\n")
    launched = launch(JobSpec("pretrain", "x", module="a"), CLUSTER, place, "debug")
    assert launched.state == "failed"
    assert "a.py" in RunFolder(launched.run_dir).read_state()["reason"]


def enter(run: RunFolder, token: str, restart: int = 0, index: int = 0) -> int | None:
    node = NodeFacts(index=index, count=2, restart=restart)
    with SignalPipe() as signals:
        return enter_attempt(run, node, token, signals, [])


def test_first_execution_takes_the_attempt_that_the_launch_claimed(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.claim_attempt(1, "t", 0)
    assert [enter(run, "t", index=index) for index in (0, 1)] == [1, 1]


def test_restart_by_slurm_itself_takes_a_new_attempt(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    write_json_atomic(run.spec_json("t"), JobSpec("pretrain", "x").to_json())
    run.claim_attempt(1, "t", 0)
    assert enter(run, "t", restart=1) == 2
    assert enter(run, "t", restart=1, index=1) == 2
    assert enter(run, "t", restart=4) == 3


def test_execution_whose_run_was_taken_over_leaves(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.claim_attempt(1, "old", 0)
    run.claim_attempt(2, "new", 0)
    assert [enter(run, "old", index=index) for index in (0, 1)] == [None, None]
    assert enter(run, "old", restart=1) is None
    assert run.latest_attempt() == 2


def test_execution_that_was_requeued_meanwhile_leaves(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.claim_attempt(1, "t", 0)
    run.claim_attempt(2, "t", 1)
    assert enter(run, "t", restart=0) is None


def test_job_that_slurm_restarts_after_the_end_does_nothing(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.claim_attempt(1, "t", 0)
    run.write_state("done")
    assert enter(run, "t", restart=1) is None
    assert run.latest_attempt() == 1


def test_pickle_holds_strings_only() -> None:
    agent = NodeAgent("/runs/x", "/snapshots/y", "token")
    text = pickle.dumps(agent, protocol=0).decode()
    assert vars(pickle.loads(pickle.dumps(agent))) == vars(agent)
    assert all(isinstance(value, str) for value in vars(agent).values())
    assert "cjobs.agent" not in text.replace("cjobs.agent\nNodeAgent", "")


def test_agent_process_never_imports_torch() -> None:
    code = "import jobs.agent, jobs.submit, jobs.rank, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=HOME, check=False).returncode == 0


def test_processes_are_known_by_number_and_start() -> None:
    assert is_alive(os.getpid(), None)
    assert not is_alive(os.getpid(), 1)
