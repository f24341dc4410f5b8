"""Members that wait for their start are told, with what will start them."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.array_launch import launch_array
from jobs.array_view import find_waiting, starters
from jobs.cluster import Cluster
from jobs.queue_view import Queue
from jobs.slurm import QueuedJob
from jobs.status import StatusReader
from tests.jobs.slurm_programs import SlurmPrograms, programs
from tests.jobs.test_array import specs
from tests.slurm.toy_members import make_place

__all__ = ["programs"]  # a fixture


def queue_of(token: str, *job_ids: str) -> Queue:
    rest = ("PENDING", "Resources", None, "", "a100", f"egovl-{token}")
    return Queue({job_id: QueuedJob(job_id, job_id, *rest) for job_id in job_ids})


def test_members_without_a_folder_wait_for_the_array_that_is_queued(
    programs: SlurmPrograms, tmp_path: Path
) -> None:
    place = make_place(tmp_path)
    launched = launch_array(specs(60), Cluster("test"), place, "slurm")
    assert launched.array is not None
    launched.runs[7].mkdir(parents=True)
    (waiting,) = find_waiting(place.runs)
    assert (waiting.members, waiting.waiting, waiting.executor) == (60, 59, "slurm")
    assert "nobody will start them" in waiting.describe()
    tokens = [f"{launched.array.name}{chunk:04x}" for chunk in range(2)]
    assert starters(waiting, queue_of(tokens[0], "7_0", "7_50")) == ("7",)
    assert starters(waiting, queue_of(tokens[1], "8_0")) == ("8",)
    assert starters(waiting, queue_of("f" * 32, "9_0")) == ()


def test_a_member_queued_again_is_the_later_launch_s(
    programs: SlurmPrograms, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = make_place(tmp_path)
    for _ in range(2):
        launch_array(specs(3), Cluster("test"), place, "slurm")
    assert [array.waiting for array in find_waiting(place.runs)] == [3]
    (place.runs / "damaged").mkdir()
    (place.runs / ".arrays/x").mkdir()
    (place.runs / ".arrays/x/index.jsonl").write_text("{")
    assert len(StatusReader(place.runs).read_arrays()) == 1
