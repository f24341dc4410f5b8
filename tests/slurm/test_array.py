"""Job arrays on the real Slurm, whose MaxArraySize is 51."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from jobs import slurm as scheduler
from jobs.array_launch import Launched, launch_array
from jobs.cluster import Cluster
from jobs.errors import SubmitError
from jobs.ledger import Ledger
from jobs.run_folder import RunFolder
from jobs.spec import JobSpec
from jobs.status import StatusReader
from tests.jobs.commands import jobs, jobs_json
from tests.slurm.client import SlurmClient
from tests.slurm.toy_members import (
    RESOURCES,
    job_of,
    make_place,
    starts_of,
    state_of,
    stop_by_hand,
    toy_spec,
    wait_states,
)
from tests.slurm.waiting import wait_for

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.parametrize("slurm_session", ["linuxproc"], indirect=True),
]

CLUSTER = Cluster("testbed")
FAILING, HANGING = (3, 50, 51, 119), (0, 60, 102)


def launch(folder: Path, specs: list[JobSpec], parallel: int | None = None) -> Launched:
    return launch_array(specs, CLUSTER, make_place(folder), "slurm", parallel)


def specs_of_120() -> list[JobSpec]:
    words = {**dict.fromkeys(FAILING, ("fail=1",)), **dict.fromkeys(HANGING, ("hang=1",))}
    return [toy_spec(f"number={number}", *words.get(number, ())) for number in range(120)]


def test_only_the_missing_members_of_120_are_resubmitted(
    slurm: SlurmClient, tmp_path: Path
) -> None:
    specs = specs_of_120()
    first = launch(tmp_path, specs + specs[:5], parallel=90)
    assert (first.queued, len(first.jobs), len(first.runs)) == (120, 3, 120)
    assert slurm.job(int(first.jobs[0]))["ArrayTaskThrottle"] == "30"
    (waiting,) = StatusReader(tmp_path / "runs").read_arrays()
    assert (waiting.members, waiting.jobs) == (120, tuple(sorted(first.jobs, key=int)))
    assert 0 < waiting.waiting <= 120
    again = launch(tmp_path, specs)
    assert (again.queued, len(again.plan.live) + len(again.plan.done)) == (0, 120)
    hanging = [first.runs[number] for number in HANGING]
    wait_states(hanging, lambda state: state == "running", 90.0)
    wait_for(lambda: all(starts_of(run) for run in hanging), 60.0, "their ranks")
    for run in hanging:
        scheduler.cancel(job_of(run))
    unlucky = {first.runs[number] for number in (*FAILING, *HANGING)}
    wait_states(first.runs, lambda state: state in ("done", "failed", "cancelled"), 120.0)
    assert {run for run in first.runs if state_of(run) != "done"} == unlucky
    (tmp_path / "runs" / "mended").touch()
    second = launch(tmp_path, specs)
    assert (second.queued, len(second.plan.done), second.plan.live) == (7, 113, {})
    wait_states(first.runs, lambda state: state == "done", 60.0)
    assert {run for run in first.runs if starts_of(run) != [1]} == unlucky
    assert all(starts_of(run) == [1, 2] for run in unlucky)
    assert StatusReader(tmp_path / "runs").read_arrays() == []
    third = launch(tmp_path, specs)
    assert (third.queued, len(third.plan.done)) == (0, 120)


def test_a_stopped_member_goes_on_alone(slurm: SlurmClient, tmp_path: Path) -> None:
    specs = [toy_spec("steps=50", "step_sec=0.1", f"number={number}") for number in range(3)]
    launched = launch(tmp_path, specs)
    # the last one to start has the array's own number as its raw job id
    chosen = launched.runs[2]
    wait_states([chosen], lambda state: state == "running", 60.0)
    assert (
        slurm.run("squeue", "-h", "--format=%A", f"--jobs={job_of(chosen)}").strip()
        == (launched.jobs[0])
    )
    assert job_of(chosen) == f"{launched.jobs[0]}_2"
    stop_by_hand(chosen)
    wait_states(launched.runs, lambda state: state == "done", 60.0)
    assert [starts_of(run) for run in launched.runs] == [[1], [1], [1, 2]]
    assert RunFolder(chosen).last_commit_step()


@pytest.mark.soak
def test_commands_on_one_member_leave_the_others_alone(slurm: SlurmClient, tmp_path: Path) -> None:
    specs = [toy_spec("hang=1", f"number={number}") for number in range(5)]
    launched = launch(tmp_path, specs, parallel=3)
    runs, (array,) = launched.runs, launched.jobs
    folder = ("--runs", str(tmp_path / "runs"))

    def states() -> list[str]:
        return [state_of(run) for run in runs]

    wait_for(lambda: all(starts_of(run) for run in runs[:3]), 60.0, "three members")
    shown = jobs_json("status", f"{array}_1", *folder)
    assert (shown["name"], shown["state"], shown["job_id"]) == (
        runs[1].name,
        "running",
        f"{array}_1",
    )
    refused = jobs("status", f"{array}_3", *folder)
    assert refused.returncode == 2 and "has not begun: it waits in its array" in refused.stderr

    # the one that waits, by name; the next one that waits may start in its place
    assert jobs("cancel", runs[3].name, *folder).returncode == 0
    assert jobs("resume", f"{array}_0", *folder).returncode == 2  # it is at work
    assert states() == ["running", "running", "running", "cancelled", ""]
    assert jobs("stop", f"{array}_0", *folder).returncode == 0
    wait_states([runs[0]], lambda state: state == "stopped", 60.0)
    wait_states([runs[4]], lambda state: state == "running", 60.0)
    # the last to start has the array's own number
    (raw,) = slurm.run("squeue", "-h", "--format=%A", f"--jobs={array}_4").split()
    assert raw == array
    assert jobs("cancel", f"{array}_4", *folder).returncode == 0
    wait_states([runs[4]], lambda state: state == "cancelled", 60.0)
    assert states() == ["stopped", "running", "running", "cancelled", "cancelled"]
    assert len(slurm.run("squeue", "-h", "--array", "--states=running").splitlines()) == 2

    for number in (0, 3):
        again = jobs_json("resume", runs[number].name, *folder)
        assert (again["state"], "_" in again["job_id"]) == ("queued", False)
    (tmp_path / "runs" / "mended").touch()
    wait_states(runs[:4], lambda state: state == "done", 60.0)
    assert [starts_of(run) for run in runs] == [[1, 2], [1], [1], [2], [1]]


def test_a_refused_array_leaves_nothing(slurm: SlurmClient, tmp_path: Path) -> None:
    place = make_place(tmp_path)
    wrong = replace(RESOURCES, constraint="no_such_feature")
    specs = [replace(toy_spec(f"number={number}"), resources=wrong) for number in range(60)]
    with pytest.raises(SubmitError, match="feature"):
        launch_array(specs, CLUSTER, place, "slurm")
    assert [path for path in place.runs.rglob("*") if path.is_file()] == [Ledger(place.runs).path]
    assert slurm.run("squeue", "-h").strip() == ""
