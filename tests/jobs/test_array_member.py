"""Members of arrays by name or job id, whether they have begun or not."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import slurm
from jobs.array import ArrayFolder
from jobs.array_launch import Launched, launch_array
from jobs.cluster import Cluster
from jobs.errors import RunError, SubmitError
from jobs.find_run import find_run
from jobs.ledger import Ledger
from jobs.resume import resume
from jobs.run_folder import RunFolder, read_json
from jobs.status import StatusReader
from jobs.steer import cancel, stop
from jobs.submitter import UnclearSubmissionError
from tests.jobs.commands import jobs
from tests.jobs.slurm_programs import SlurmPrograms, programs
from tests.jobs.test_array import prepared, specs
from tests.slurm.toy_members import make_place

__all__ = ["programs"]  # a fixture

# As Slurm answers: members of array 5 wait in one record, until one is held or cancelled by itself.
SHOW = """case "$*" in
  *"show config"*) printf 'MaxArraySize = 51\\nMaxJobCount = 10000\\n' ;;
  *"show job 5") echo "JobId=5 ArrayJobId=5 ArrayTaskId=0-2%3 JobState=PENDING" ;;
  *"show job 5_"[0-2])
     state=PENDING
     grep -q "^scancel .*$4$" @log@ && state=CANCELLED
     grep -q "^scontrol hold $4$" @log@ || { echo "Job $4 not found"; exit 1; }
     echo "JobId=7 ArrayJobId=5 ArrayTaskId=${4#5_} JobState=$state" ;;
  *show*) echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1 ;;
esac"""


@pytest.fixture
def launched(programs: SlurmPrograms, tmp_path: Path) -> Launched:
    """Three members, queued as array 5."""
    programs.answer("scontrol", SHOW.replace("@log@", str(programs.log)))
    programs.answer("sbatch", "echo 'Submitted batch job 5'")
    return launch_array(specs(3), Cluster("test"), make_place(tmp_path), "slurm")


def runs_of(launched: Launched) -> Path:
    return launched.folder.parent


def test_a_member_that_waits_is_found_by_name_and_job_and_only_stopped_or_cancelled(
    launched: Launched,
) -> None:
    runs, run = str(runs_of(launched)), launched.runs[1]
    for name in (run.name, f"sweep/{run.name}", "5_1"):
        with pytest.raises(RunError, match=f"sweep/{run.name} has not begun: it waits"):
            find_run(name, runs)
    assert not launched.folder.exists()  # asking makes nothing
    for name in ("5_3", "6_0"):
        with pytest.raises(RunError, match="no runs in"):
            find_run(name, runs)
    with pytest.raises(RunError, match="5 is an array of many runs: name one of them, as 5_0"):
        find_run("5", runs)
    with pytest.raises(RunError, match=r"'toy' may be toy-.*, toy-.*: write more"):
        find_run("toy", runs)
    assert find_run("5_1", runs, begins=True).path == run
    assert find_run("5_1", runs).path == run  # it is a run now


def test_a_member_that_starts_this_moment_is_not_held(
    programs: SlurmPrograms, launched: Launched
) -> None:
    pending = """JobState=PENDING; grep -q '^scancel' @log@ && JobState=RUNNING"""
    show = f"{pending}; echo JobId=7 JobState=$JobState".replace("@log@", str(programs.log))
    programs.answer("scontrol", show)
    assert not slurm.cancel_pending("5_1")
    assert programs.calls("scontrol")[-1] == "release 5_1"
    calls = len(programs.calls("scancel"))
    assert not slurm.cancel_pending("5_2")  # runs
    assert len(programs.calls("scancel")) == calls


def test_stopping_a_waiting_member_takes_that_one_out_of_the_queue(
    programs: SlurmPrograms, launched: Launched
) -> None:
    run = find_run("5_1", str(runs_of(launched)), begins=True)
    assert stop(run).did == "stopped"
    assert programs.calls("scancel") == ["--state=PENDING 5_1"]
    assert "hold 5_1" in programs.calls("scontrol")  # by state, scancel would take all that wait
    state = run.read_state()
    assert (state["state"], state["cause"], state["job_id"]) == ("stopped", "user", "5_1")
    assert not (launched.folder / launched.runs[2].name).exists()


def test_a_cancelled_member_is_resumed_alone(
    programs: SlurmPrograms, launched: Launched, capfd: pytest.CaptureFixture[str]
) -> None:
    name = launched.runs[2].name
    done = jobs("cancel", name, "--runs", str(runs_of(launched)))
    assert done.returncode == 0, done.stderr
    assert "job 5_2 taken out of the queue" in done.stdout
    run = RunFolder(launched.runs[2])
    assert programs.calls("scancel") == ["--state=PENDING 5_2"]
    programs.answer("sbatch", "echo 'Submitted batch job 9'")
    again = resume(run)
    assert (again.job_id, again.state) == ("9", "queued")
    script = next(run.submission.glob("*_submission.sh")).read_text()
    assert "--array" not in script
    with pytest.raises(RunError, match="has ended: cancelled"):
        programs.answer("scontrol", "echo 'Invalid job id' >&2; exit 1")
        run.write_state("cancelled", attempt=2, job_id="9")
        cancel(run)


def test_a_member_that_nobody_will_start_is_not_made_up(
    programs: SlurmPrograms, launched: Launched
) -> None:
    programs.answer("scontrol", "echo 'slurm_load_jobs error: Invalid job id specified'; exit 1")
    with pytest.raises(RunError, match="no job will start it: launch it again"):
        find_run("5_1", str(runs_of(launched)), begins=True)
    assert not launched.folder.exists()


def test_a_member_that_has_begun_is_found_by_its_job(
    programs: SlurmPrograms, launched: Launched, tmp_path: Path
) -> None:
    run, _ = prepared(make_place(tmp_path))
    assert (run.path, find_run("5_1", str(runs_of(launched))).path) == (launched.runs[1],) * 2


# ---- the ledger


def test_every_chunk_has_its_lines(programs: SlurmPrograms, launched: Launched) -> None:
    ledger = Ledger(runs_of(launched))
    assert ledger.open_submissions() == []
    array = ArrayFolder(launched.array or Path())
    line = ledger.last_line(array.token(0))
    assert (line["event"], line["job_id"], line["run"]) == ("submitted", "5", str(array.path))


def test_a_launch_that_died_before_its_record_is_adopted_by_the_next_look_at_the_queue(
    programs: SlurmPrograms, launched: Launched
) -> None:
    runs, array = runs_of(launched), ArrayFolder(launched.array or Path())
    token = array.token(0)
    lines = Ledger(runs).path.read_text().splitlines()
    Ledger(runs).path.write_text(lines[0].replace('"pid": ', '"pid": 99999999') + "\n")
    named = array.chunk(0) / "5_submitted.pkl"
    named.rename(array.chunk(0) / f"{'a' * 32}.pkl")  # as submitit leaves it when it is killed
    row = f"5_1|5|PENDING|Priority|Unknown||a100|egovl-{token}"
    programs.answer("squeue", f"echo '{row}'")
    (waiting,) = StatusReader(runs).read_arrays()
    assert waiting.jobs == ("5",)
    assert named.is_file()
    assert Ledger(runs).open_submissions() == []
    assert (read_json(RunFolder(array.path).job_json(token)) or {})["job_id"] == "5"


def test_an_array_of_which_slurm_does_not_say_whether_it_has_it_keeps_its_files(
    programs: SlurmPrograms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unclear(*_: object) -> str:
        raise UnclearSubmissionError("no answer")

    place = make_place(tmp_path)
    monkeypatch.setattr("jobs.array_launch.submit_script", unclear)
    with pytest.raises(SubmitError, match="no answer"):
        launch_array(specs(3), Cluster("test"), place, "slurm")
    (entry,) = Ledger(place.runs).open_submissions()
    assert ArrayFolder(entry.run.path).index.is_file()
