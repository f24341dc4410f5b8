"""The cases are what a real Slurm (22.05) showed an agent in the moment of each event."""

from __future__ import annotations

import os
import shutil
import signal
import time
from datetime import datetime
from pathlib import Path

import pytest

from jobs.run_folder import create_json
from jobs.stop import Execution, LocalStopFile, Stop, decide_stop, read_stop, settle_cause

NOW = datetime(2026, 11, 20, 12, 0, 0).timestamp()
EARLIER, SOON, LATER = "2026-11-20T12:00:05", "2026-11-20T12:00:20", "2026-11-20T14:00:00"
RUNNING = {"JobState": "RUNNING", "Restarts": "0", "Reason": "None", "PreemptTime": "None"}
EXECUTION = Execution(restart=0, ends=NOW + 7200, lead_sec=60)
TERM, USR2 = signal.SIGTERM, signal.SIGUSR2


@pytest.mark.parametrize(
    ("signum", "job", "reason", "deadline"),
    [
        (TERM, {**RUNNING, "EndTime": SOON, "PreemptTime": SOON}, "preempt", NOW + 20),
        (USR2, {**RUNNING, "EndTime": SOON, "PreemptTime": SOON}, "preempt", NOW + 20),
        (USR2, {**RUNNING, "EndTime": "2026-11-20T12:02:00"}, "timeout", NOW + 120),
        (USR2, {**RUNNING, "EndTime": LATER}, "preempt", None),
        (TERM, {**RUNNING, "EndTime": LATER}, "crash", None),
        (
            TERM,
            {**RUNNING, "JobState": "SIGNALING", "EndTime": SOON, "PreemptTime": SOON},
            "preempt",
            NOW + 20,
        ),
        (TERM, {**RUNNING, "JobState": "COMPLETING", "EndTime": SOON}, "cancelled", None),
        (
            TERM,
            {**RUNNING, "JobState": "COMPLETING", "EndTime": SOON, "PreemptTime": SOON},
            "preempt",
            None,
        ),
        (
            TERM,
            {**RUNNING, "JobState": "COMPLETING", "EndTime": SOON, "PreemptTime": EARLIER},
            "cancelled",
            None,
        ),
        (TERM, {**RUNNING, "JobState": "COMPLETING", "ExitCode": "0:9"}, "crash", None),
        (TERM, {**RUNNING, "JobState": "NODE_FAIL"}, "node_fail", None),
        (TERM, {**RUNNING, "JobState": "PREEMPTED"}, "preempt", None),
        (TERM, {"JobState": "COMPLETING", "Restarts": "1", "EndTime": LATER}, "requeued", None),
        (TERM, {**RUNNING, "JobState": "COMPLETING", "Reason": "TimeLimit"}, "timeout", None),
        (TERM, {**RUNNING, "JobState": "CANCELLED"}, "cancelled", None),
    ],
)
def test_cause_of_a_stop_is_read_from_the_job(
    signum: int, job: dict[str, str], reason: str, deadline: float | None
) -> None:
    stop = decide_stop(signum, job, EXECUTION, NOW)
    assert (stop.reason, stop.deadline, stop.source) == (reason, deadline, "slurm")


def test_restart_count_is_compared_with_the_own_one() -> None:
    job = {**RUNNING, "Restarts": "3", "EndTime": SOON, "PreemptTime": SOON}
    assert decide_stop(TERM, job, Execution(3, NOW, 60), NOW).reason == "preempt"
    assert decide_stop(TERM, job, Execution(2, NOW, 60), NOW).reason == "requeued"


@pytest.mark.parametrize(("left_sec", "reason"), [(120, "timeout"), (3600, "preempt")])
def test_without_an_answer_the_cause_is_inferred_from_the_clock(left_sec: int, reason: str) -> None:
    stop = decide_stop(TERM, None, Execution(0, NOW + left_sec, 60), NOW)
    assert (stop.reason, stop.source) == (reason, "inferred")


def test_stop_survives_its_file(tmp_path: Path) -> None:
    stop = Stop("preempt", NOW, "slurm", "seen")
    with LocalStopFile(f"test-{time.time_ns()}") as local:
        assert read_stop(local.path) is None
        local.write(stop)
        assert read_stop(local.path) == stop
        folder = local.path.parent
    assert not folder.exists()


def test_folders_of_killed_agents_go_after_a_day_and_those_of_living_ones_stay() -> None:
    names = [f"test-{time.time_ns()}-{k}" for k in range(4)]
    for name, owner, age_sec in zip(
        names, (2**22 + 1, 2**22 + 1, os.getpid()), (90_000, 60, 90_000), strict=False
    ):
        with LocalStopFile(name) as local:
            kept = local.path.parent.with_name(f"{local.path.parent.name}-kept")
            local.path.parent.rename(kept)
        (kept / "agent.pid").write_text(str(owner))
        os.utime(kept / "agent.pid", (time.time() - age_sec,) * 2)
    with LocalStopFile(names[3]) as local:
        left = [local.path.parent.with_name(f"egovl-{os.getuid()}-{n}-kept") for n in names[:3]]
        assert [folder.exists() for folder in left] == [False, True, True]
    for folder in left[1:]:
        shutil.rmtree(folder)


def test_stop_file_written_by_hand_needs_no_more_than_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "stop.json"
    path.write_text('{"reason": "user"}')
    assert read_stop(path) == Stop("user", None, "user")


@pytest.mark.parametrize(
    ("reason", "source", "logged", "settled"),
    [
        ("requeued", "slurm", "preempt", "preempt"),
        ("requeued", "slurm", "node_fail", "node_fail"),
        ("requeued", "slurm", None, "requeued"),
        ("cancelled", "slurm", "preempt", "preempt"),
        ("cancelled", "slurm", "cancelled", "cancelled"),
        ("crash", "slurm", "node_fail", "node_fail"),
        ("preempt", "slurm", "cancelled", "preempt"),
        ("preempt", "inferred", "cancelled", "cancelled"),
        ("timeout", "inferred", "preempt", "preempt"),
        ("user", "user", "preempt", "user"),
    ],
)
def test_doubted_causes_are_settled_by_the_jobs_log(
    reason: str, source: str, logged: str | None, settled: str
) -> None:
    assert settle_cause(Stop(reason, source=source), logged).reason == settled


def test_nodes_to_exclude_survive_the_file(tmp_path: Path) -> None:
    stop = Stop("preflight", None, "agent", "n3: 7 of 8 GPUs", exclude=("n3",))
    path = tmp_path / "stop.json"
    create_json(path, stop.to_json())
    assert read_stop(path) == stop
