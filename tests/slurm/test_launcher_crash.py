"""A launcher that dies, or an answer that is lost, between sbatch and its record loses no job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import submitter
from jobs.array_launch import launch_array
from jobs.cluster import Cluster
from jobs.errors import SubmitError
from jobs.ledger import Ledger, comment_tag
from jobs.run_folder import RunFolder, read_json
from jobs.standing import find_standing
from jobs.submit import Launched
from tests.jobs.commands import jobs_json
from tests.slurm.client import SlurmClient
from tests.slurm.testbed import find_program
from tests.slurm.toy_members import make_place, starts_of, toy_spec, wait_states
from tests.slurm.toy_run import ROOT, ToyRun, copy_project, launch_toy

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
on_one_tracker = pytest.mark.parametrize("slurm_session", ["cgroup"], indirect=True)

LAUNCH = """
import sys
from pathlib import Path
from jobs import submitter
from jobs.errors import SubmitError
from tests.slurm.toy_run import launch_toy
if sys.argv[2] == "child":
    submitter.warm_up()
try:
    launch_toy(None, Path(sys.argv[1]), num_steps=5)
except SubmitError as error:
    sys.exit(f"refused: {type(error).__name__}")
"""


def put_in_the_way(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """Have a script be the first sbatch on the PATH; `$REAL` is Slurm's, `$0.count` counts."""
    path = folder / "bin/sbatch"
    path.parent.mkdir()
    count = 'N=$(($(cat "$0.count" 2>/dev/null || echo 0) + 1)); echo $N > "$0.count"'
    path.write_text(f"#!/bin/bash\nREAL={find_program('sbatch')}\n{count}\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
    return path


def queued(slurm: SlurmClient) -> list[str]:
    """Comments of all jobs in the queue."""
    return slurm.run("squeue", "--noheader", "--format=%k").split()


@on_one_tracker
@pytest.mark.parametrize("who", ["launcher", "child"])
def test_a_launcher_killed_between_sbatch_and_record(
    slurm: SlurmClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    script = '"$REAL" "$@"; kill -9 $PPID; sleep 1'
    put_in_the_way(tmp_path, monkeypatch, script)
    copy_project(tmp_path / "project")
    done = subprocess.run(
        [sys.executable, "-c", LAUNCH, str(tmp_path), who],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if who == "launcher":
        assert done.returncode == -signal.SIGKILL
    else:
        assert "refused: UnclearSubmissionError" in done.stderr
    (entry,) = Ledger(tmp_path / "runs").open_submissions()
    assert read_json(entry.run.job_json(entry.token)) is None
    assert queued(slurm) == [entry.tag]

    (row,) = jobs_json("list", "--runs", str(tmp_path / "runs"))["runs"]
    job_id = (read_json(entry.run.job_json(entry.token)) or {})["job_id"]
    assert (row["path"], row["job_id"]) == (str(entry.run.path), job_id)
    assert Ledger(tmp_path / "runs").open_submissions() == []
    assert find_standing(entry.run).state == "live"
    launched = Launched(entry.run.path, job_id, "slurm", "queued")
    again = launch_toy(slurm, tmp_path, num_steps=5)
    assert (again.launched.state, again.launched.job_id) == ("live", job_id)
    if who == "child":
        return  # the rest is the same story
    run = ToyRun(slurm, launched, 5)
    run.wait_end(seconds=90)
    run.assert_no_step_lost_or_repeated()
    assert run.folder.latest_attempt() == 1


LAUNCH_ARRAY = """
import sys
from pathlib import Path
from jobs.array_launch import launch_array
from jobs.cluster import Cluster
from tests.slurm.toy_members import make_place, toy_spec
specs = [toy_spec(f"number={number}") for number in range(60)]
launch_array(specs, Cluster("testbed"), make_place(Path(sys.argv[1])), "slurm")
"""


@on_one_tracker
def test_a_launcher_of_an_array_killed_between_sbatch_and_record(
    slurm: SlurmClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Members find what to run once the array is adopted; the chunk never queued is launched."""
    place = make_place(tmp_path)
    with monkeypatch.context() as way:
        put_in_the_way(tmp_path, way, '"$REAL" --begin=now+1hour "$@"; kill -9 $PPID; sleep 1')
        argv = [sys.executable, "-c", LAUNCH_ARRAY, str(tmp_path)]
        assert subprocess.run(argv, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    (entry,) = Ledger(place.runs).open_submissions()
    assert set(queued(slurm)) == {entry.tag}
    (array,) = (place.runs / ".arrays").iterdir()
    assert not list(array.glob("chunk0/*_submitted.pkl"))
    specs = [toy_spec(f"number={number}") for number in range(60)]
    again = launch_array(specs, Cluster("testbed"), place, "slurm")
    assert (again.queued, len(again.plan.live)) == (9, 51)
    assert Ledger(place.runs).open_submissions() == []
    (pickle,) = array.glob("chunk0/*_submitted.pkl")
    job_id = pickle.name.split("_")[0]
    assert job_id in next(iter(again.plan.live.values()))
    slurm.run("scancel", f"{job_id}_[3-50]")  # two of them show it
    slurm.run("scontrol", "update", f"JobId={job_id}", "StartTime=now")
    members = [*again.runs[:2], *again.runs[51:]]
    wait_states(members, lambda state: state == "done", 90.0)
    assert all(starts_of(run) == [1] for run in members)


@on_one_tracker
def test_an_answer_that_was_lost_is_looked_up_and_not_asked_for_again(
    slurm: SlurmClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The controller has the job, sbatch says it timed out: there must be one job, not two."""
    monkeypatch.setattr(submitter, "FIRST_WAIT_SEC", 0.05)
    error = "echo 'sbatch: error: Socket timed out on send/recv operation' >&2; exit 1"
    path = put_in_the_way(tmp_path, monkeypatch, f'"$REAL" "$@" >/dev/null; {error}')
    run = launch_toy(slurm, tmp_path, num_steps=5)
    assert Path(f"{path}.count").read_text() == "1\n"
    (entry,) = [path.name for path in run.folder.submission.glob("*.spec.json")]
    assert queued(slurm) == [comment_tag(entry.split(".")[0])]
    assert (run.folder.submission / f"{run.job_id}_submitted.pkl").is_file()


@on_one_tracker
def test_an_overloaded_controller_is_asked_again_with_growing_pauses(
    slurm: SlurmClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submitter, "FIRST_WAIT_SEC", 0.05)
    error = "echo 'sbatch: error: Unable to contact slurm controller (connect failure)' >&2"
    script = f'if [ $N -le 3 ]; then {error}; exit 1; fi; exec "$REAL" "$@"'
    path = put_in_the_way(tmp_path, monkeypatch, script)
    run = launch_toy(slurm, tmp_path, num_steps=5)
    assert Path(f"{path}.count").read_text() == "4\n"
    assert len(queued(slurm)) == 1
    assert run.launched.state == "queued"


@on_one_tracker
def test_a_refusal_is_final_and_closes_the_ledgers_entry(
    slurm: SlurmClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = "echo 'sbatch: error: Batch job submission failed: Job violates accounting' >&2"
    path = put_in_the_way(tmp_path, monkeypatch, f"{error}; exit 1")
    with pytest.raises(SubmitError, match="Job violates accounting"):
        launch_toy(slurm, tmp_path, num_steps=5)
    assert Path(f"{path}.count").read_text() == "1\n"
    assert Ledger(tmp_path / "runs").open_submissions() == []
    assert not list((tmp_path / "runs/pretrain").iterdir())


@on_one_tracker
def test_many_submissions_need_no_pause_between_them(slurm: SlurmClient, tmp_path: Path) -> None:
    """And each is its own job under its own tag."""
    intruder = slurm.start_intruder()
    slurm.wait_state(intruder, "RUNNING")
    tags = [f"egovl-many{number}" for number in range(20)]
    for tag in tags:
        parameters = {"comment": tag, "time": 5, "nodes": 1, "partition": "a100"}
        submitter.submit_script(tmp_path / "submission", parameters, os.getpid)
    found = queued(slurm)
    assert sorted(comment for comment in found if comment in tags) == sorted(tags)
    assert RunFolder(tmp_path).latest_attempt() == 0
