"""Chains of runs on the real Slurm: what comes after waits for a run, not for a job."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from jobs import chain
from jobs import slurm as scheduler
from jobs.cluster import Cluster
from jobs.member_group import Best
from jobs.pipeline import Pipeline, Stage
from jobs.pipeline_launch import Planned, Record, launch_pipeline, stage_rows
from jobs.run_folder import RunFolder, read_json
from tests.slurm.client import SlurmClient
from tests.slurm.toy_members import (
    RESOURCES,
    job_of,
    make_place,
    starts_of,
    state_of,
    stop_by_hand,
    wait_states,
)
from tests.slurm.waiting import wait_for

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.parametrize("slurm_session", ["cgroup"], indirect=True),
]


def stage(name: str, *overrides: str) -> Stage:
    return Stage(name, "stage", "train", "none.yaml", tuple(overrides), module="toy_member")


def launch(folder: Path, *stages: Stage) -> list[Planned]:
    pipeline = Pipeline("toy", stages).override(())
    place = make_place(folder)
    return launch_pipeline(
        pipeline, Cluster("testbed"), place, "slurm", lambda stage: (stage.config, RESOURCES)
    )


def paths(planned: list[Planned]) -> list[Path]:
    return [each.run.path for each in planned]


def started(run: Path) -> float:
    return json.loads((run / "starts.jsonl").read_text().splitlines()[0])["time"]


def test_the_last_stage_starts_once_after_the_true_end_of_a_twice_stopped_one(
    slurm: SlurmClient, tmp_path: Path
) -> None:
    stages = (
        stage("first", "steps=3"),
        stage("second", "need=${first.run}/result.json", "steps=40", "step_sec=0.1"),
        stage("third", "need=${second.run}/result.json"),
    )
    first, second, third = paths(launch(tmp_path, *stages))
    assert (state_of(second), state_of(third)) == ("waiting", "waiting")
    waiting = job_of(third)
    wait_states([second], lambda state: state == "running", 90.0)
    for attempt in (2, 3):
        assert stop_by_hand(second) == attempt
        assert (state_of(third), starts_of(third)) == ("waiting", [])
        dependency = (scheduler.show_job(waiting) or {})["Dependency"]
        assert f"afterany:{job_of(second)}(" in dependency
    launch(tmp_path, *stages)  # in the middle of it: all is done or at work
    assert job_of(third) == waiting
    wait_states([third], lambda state: state == "done", 90.0)
    assert [starts_of(run) for run in (first, second, third)] == [[1], [1, 2, 3], [1]]
    result = read_json(second / "result.json") or {}
    assert started(third) > result["time"]
    rows = stage_rows(Record(tmp_path / "runs", "toy"))
    assert [(row.name, row.state) for row in rows] == [
        ("first", "done"),
        ("second", "done"),
        ("third", "done"),
    ]


@pytest.mark.soak
@pytest.mark.parametrize("way", ["stop", "skip"])
def test_a_stage_after_a_sweep_reads_the_best_member_whatever_happened_to_the_others(
    slurm: SlurmClient, tmp_path: Path, way: str
) -> None:
    """One member is stopped and goes on, one fails; resubmitted, or done without."""
    words = (("steps=60",), ("steps=90", "fail=1"), ("steps=30",))
    sweep = replace(
        stage("tune", "need=${first.run}/result.json", "step_sec=0.1"),
        members=words,
        best=Best("steps"),
        skips_failed=way == "skip",
    )
    last = stage("last", "need=${tune.best}/result.json")
    stages = (stage("first", "steps=3"), sweep, last)
    planned = launch(tmp_path, *stages)
    first, one, failing, other, end = paths(planned)
    link = planned[-1].groups[0].link
    assert link is not None
    wait_states([one], lambda state: state == "running", 90.0)
    assert stop_by_hand(one) == 2
    assert (starts_of(end), link.exists()) == ([], False)
    wait_states([failing], lambda state: state == "failed", 90.0)
    if way == "stop":
        wait_states([end], lambda state: state == "cancelled", 90.0)
        assert "told to fail" in RunFolder(end).read_state()["reason"]
        (tmp_path / "runs" / "mended").touch()
        again = launch(tmp_path, *stages)  # the two others are done or at work
        assert paths(again) == paths(planned)
    wait_states([end], lambda state: state == "done", 120.0)
    assert link.resolve() == (failing if way == "stop" else one).resolve()
    repeated = [1, 2] if way == "stop" else [1]
    assert [starts_of(run) for run in (first, one, failing, other)] == [[1], [1, 2], repeated, [1]]
    assert len(starts_of(end)) == 1
    ends = [(read_json(run / "result.json") or {})["time"] for run in (one, other)]
    assert started(end) > max(ends)
    rows = stage_rows(Record(tmp_path / "runs", "toy"))
    assert all(row.is_well for row in rows)
    assert sum(row.reason.startswith("the best: steps") for row in rows) == 1


def test_nothing_starts_after_a_failed_stage_and_all_goes_on_once_it_is_mended(
    slurm: SlurmClient, tmp_path: Path
) -> None:
    stages = (
        stage("first", "fail=1"),
        stage("second", "need=${first.run}/result.json"),
        stage("third", "need=${second.run}/result.json"),
    )
    first, second, third = paths(launch(tmp_path, *stages))
    wait_states([first], lambda state: state == "failed", 90.0)
    wait_states([second, third], lambda state: state == "cancelled", 90.0)
    for run in (second, third):
        state = RunFolder(run).read_state()
        assert (state["cause"], starts_of(run)) == ("parent", [])
        assert "told to fail" in state["reason"]
    wait_for(lambda: not slurm.run("squeue", "-h").strip(), 90.0, "the queue to be empty")
    (tmp_path / "runs" / "mended").touch()
    launch(tmp_path, *stages)
    wait_states([first, second, third], lambda state: state == "done", 90.0)


def test_a_stage_that_starts_too_early_goes_back_behind_its_parent(
    slurm: SlurmClient, tmp_path: Path
) -> None:
    stages = (
        stage("first", "hang=1"),
        stage("second", "need=${first.run}/result.json"),
    )
    first, second = paths(launch(tmp_path, *stages))
    wait_states([first], lambda state: state == "running", 90.0)
    job = job_of(second)
    slurm.run("scontrol", "update", f"JobId={job}", "Dependency=")
    attempt = RunFolder(second).attempt(1)
    wait_for(attempt.outcome_json.exists, 90.0, "the stage to look at its parent")
    assert (read_json(attempt.outcome_json) or {})["state"] == "waiting"
    wait_for(
        lambda: (
            f"afterany:{job_of(first)}" in (scheduler.show_job(job) or {}).get("Dependency", "")
        ),
        30.0,
        "the stage to wait for its parent again",
    )
    (tmp_path / "runs" / "mended").touch()
    wait_states([first], lambda state: state == "done", 90.0)
    wait_states([second], lambda state: state == "done", 150.0)
    assert starts_of(second) == [2]


def test_children_follow_a_run_to_its_new_job(slurm: SlurmClient, tmp_path: Path) -> None:
    stages = (
        stage("first", "hang=1"),
        stage("other", "hang=1", "number=2"),
        stage("second", "need=${first.run}/result.json", "number=${other.run}"),
    )
    first, other, second = paths(launch(tmp_path, *stages))
    new = str(slurm.submit("sleep 60"))
    wait_states([other], lambda state: state == "running", 90.0)
    chain.repoint(RunFolder(first), new)
    shown = (scheduler.show_job(job_of(second)) or {})["Dependency"]
    assert shown.startswith(f"afterany:{new}(")
    assert f"afterany:{job_of(other)}(" in shown
