from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.errors import RunError
from jobs.ledger import record_job
from jobs.run_folder import RunFolder, create_json, write_json_atomic
from jobs.standing import find_standing
from jobs.steer import find_live


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setenv("PATH", str(tmp_path))  # no Slurm is asked
    folder = RunFolder(tmp_path / "run")
    create_json(folder.run_json, {"schema": 1})
    return folder


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def claim(run: RunFolder, pid: int, number: int = 1, token: str = "t") -> None:
    run.claim_attempt(number, token, 0)
    path = run.attempt(number).claim_json
    write_json_atomic(path, {"token": token, "restart": 0, "host": HOST, "pid": pid, "time": 0})


HOST = os.uname().nodename


def test_folder_without_an_attempt_is_fresh(run: RunFolder) -> None:
    assert find_standing(run).state == "fresh"


def test_run_with_a_living_process_is_live(run: RunFolder) -> None:
    claim(run, dead_pid())
    record_job(run, "t", str(os.getpid()), "local")
    standing = find_standing(run)
    assert (standing.state, standing.job_id) == ("live", str(os.getpid()))
    assert str(os.getpid()) in standing.message


def test_run_whose_process_is_gone_can_be_resumed(run: RunFolder) -> None:
    claim(run, dead_pid())
    record_job(run, "t", str(dead_pid()), "local")
    run.write_state("running", attempt=1)
    assert find_standing(run).state == "idle"


def test_process_number_used_again_by_another_program_is_not_the_run(run: RunFolder) -> None:
    claim(run, dead_pid())
    facts = {"job_id": str(os.getpid()), "executor": "local", "host": HOST, "process_start": 1}
    write_json_atomic(run.job_json("t"), facts)
    assert find_standing(run).state == "idle"


def test_launch_that_died_before_it_submitted_can_be_repeated(run: RunFolder) -> None:
    claim(run, dead_pid())
    assert find_standing(run).state == "idle"


def test_launch_under_way_in_another_process_is_live(run: RunFolder) -> None:
    with subprocess.Popen(["/bin/sleep", "30"]) as other:
        claim(run, other.pid)
        assert find_standing(run).state == "live"
        other.kill()


@pytest.mark.parametrize("state", ["failed", "stopped", "cancelled"])
def test_ended_run_can_be_resumed_although_its_process_lingers(run: RunFolder, state: str) -> None:
    claim(run, dead_pid())
    record_job(run, "t", str(os.getpid()), "local")
    run.write_state(state, job_id=str(os.getpid()))
    assert find_standing(run).state == "idle"


def test_done_run_is_done(run: RunFolder) -> None:
    claim(run, dead_pid())
    run.write_state("done")
    assert find_standing(run).state == "done"
    with pytest.raises(RunError, match="nobody is at work"):
        find_live(run)
