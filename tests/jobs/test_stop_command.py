"""`python -m jobs stop|cancel|preempt` where no Slurm is needed; tests/slurm has the rest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.node import process_start
from jobs.run_folder import RunFolder, create_json, read_json
from jobs.steer import cancel, stop
from jobs.stop import Stop
from tests.jobs.commands import jobs, jobs_json
from tests.jobs.launched_runs import make_launched, token_of, write

NO_SLURM = {"PATH": "/nonexistent"}


def make_local(runs: Path, name: str, pid: int) -> RunFolder:
    run = make_launched(runs, name, "running", str(pid), executor="local")
    job = {"job_id": str(pid), "executor": "local", "host": os.uname().nodename}
    write(run.job_json(token_of(name)), {**job, "process_start": process_start(pid)})
    return run


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", "/nonexistent")  # no Slurm is asked
    return tmp_path


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def asked(run: RunFolder, attempt: int = 1) -> str:
    return str((read_json(run.attempt(attempt).stop_json) or {}).get("reason"))


def test_a_person_is_heard_above_a_preemption_under_way(runs: Path) -> None:
    with subprocess.Popen(["/bin/sleep", "30"]) as agent:
        run = make_local(runs, "pretrain/a", agent.pid)
        write(run.attempt(1).node_json(0), {"pid": agent.pid})
        create_json(run.attempt(1).stop_json, Stop("preempt", None).to_json())
        assert stop(run).did == "stopping"
        assert asked(run) == "user"
        assert agent.wait(10) != 0  # it got the signal


def test_cancel_gives_a_local_run_half_a_minute(runs: Path) -> None:
    with subprocess.Popen(["/bin/sleep", "30"]) as agent:
        run = make_local(runs, "pretrain/a", agent.pid)
        assert cancel(run).did == "cancelling"
        assert asked(run) == "cancelled"
        assert (read_json(run.attempt(1).stop_json) or {})["deadline"] is not None
        agent.kill()


def test_several_runs_at_once_and_the_refused_ones_named(runs: Path) -> None:
    make_local(runs, "pretrain/lost", dead_pid())
    make_launched(runs, "pretrain/over", "done", "7")
    words = ("lost", "over", "--runs", str(runs))
    done = jobs("stop", *words, env=NO_SLURM)
    assert done.returncode == 2
    assert done.stderr.count("nobody is at work on") == 2
    done = jobs("cancel", *words, "--json", env=NO_SLURM)
    assert done.returncode == 2
    assert "over has ended: done" in done.stderr
    assert [each["did"] for each in json.loads(done.stdout)["runs"]] == ["cancelled", "refused"]


def test_a_lost_run_that_is_cancelled_is_not_lost_any_more(runs: Path) -> None:
    run = make_local(runs, "pretrain/lost", dead_pid())
    run.write_state("running", attempt=1, executor="local", excluded=["node3"])
    (row,) = jobs_json("list", "--runs", str(runs))["runs"]
    assert row["state"] == "lost"
    assert jobs("cancel", "lost", "--runs", str(runs), env=NO_SLURM).returncode == 0
    (row,) = jobs_json("list", "--runs", str(runs))["runs"]
    assert row["state"] == "cancelled"
    assert run.read_state()["excluded"] == ["node3"]


def test_a_run_without_an_agent_cannot_be_preempted(runs: Path) -> None:
    make_local(runs, "pretrain/lost", dead_pid())
    done = jobs("preempt", "lost", "--runs", str(runs), env=NO_SLURM)
    assert done.returncode == 2
    assert "nobody is at work on" in done.stderr
