"""The texts are what Slurm 22.05 wrote into the logs of real jobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.job_log import failed_nodes, logged_cause, mark_line, read_job_log
from jobs.run_folder import RunFolder

ABORTED = "srun: Job step aborted: Waiting up to 10 seconds for job step to finish.\n"
GRACE = "slurmstepd-node1: error: *** STEP 7.0 ON node1 CANCELLED AT 2026-11-21T02:45:13 ***\n"
PREEMPTED = (
    f"{ABORTED}slurmstepd-node1: error: *** STEP 7.0 ON node1 CANCELLED AT 2026-11-21T02:46:01 "
    "DUE TO PREEMPTION ***\nsrun: got SIGCONT\nsrun: forcing job termination\n"
    "srun: error: node2: task 1: Killed\n"
)
NODE_FAILURE = (
    f"srun: error: Node failure on node2\n{ABORTED}slurmstepd-node1: error: *** JOB 7 ON node1 "
    "CANCELLED AT 2026-11-21T02:48:14 DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS ***\n"
)
SCANCEL = (
    f"{ABORTED}slurmstepd-node1: error: *** JOB 7 ON node1 CANCELLED AT 2026-11-21T02:46 ***\n"
)
REQUEUE = (
    "slurmstepd-node1: error: *** JOB 7 ON node1 CANCELLED AT 2026-11-21T02:54:49 "
    f"DUE TO JOB REQUEUE ***\n{ABORTED}"
)
TIME_LIMIT = (
    "slurmstepd: error: *** JOB 7 ON node1 CANCELLED AT 2026-11-21T02:54:49 DUE TO TIME LIMIT ***\n"
)
KILLED_AGENT = (
    "srun: error: node2: task 1: Killed\nsrun: Terminating StepId=7.0\n"
    "slurmstepd-node1: error: *** STEP 7.0 ON node1 CANCELLED AT 2026-11-21T02:46:01 ***\n"
    "srun: error: node1: task 0: Killed\n"
)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("step 7 loss 0.5\n", None),
        (GRACE, None),
        (PREEMPTED, "preempt"),
        (NODE_FAILURE, "node_fail"),
        ("srun: error: Node failure on node2\n", "node_fail"),
        (SCANCEL, "cancelled"),
        (REQUEUE, "requeued"),
        (TIME_LIMIT, "timeout"),
        (KILLED_AGENT, None),
    ],
)
def test_cause_is_what_slurms_own_processes_wrote(text: str, cause: str | None) -> None:
    assert logged_cause(f"step 1\n{text}step 2\n") == cause


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (NODE_FAILURE, ["node2"]),
        (KILLED_AGENT, ["node2"]),
        (PREEMPTED, []),
        (SCANCEL, []),
        ("srun: error: n[1-2]: tasks 0-1: Killed\n", ["n[1-2]"]),
    ],
)
def test_nodes_that_failed_are_named_and_kills_by_slurm_itself_are_not(
    text: str, names: list[str]
) -> None:
    assert failed_nodes(text) == names


def test_each_execution_of_a_job_has_its_own_part_of_the_log(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert read_job_log(run, "7", 0) == ""
    run.submission.mkdir()
    parts = [f"{mark_line('7', str(each))}\nexecution {each}\n" for each in (0, 1, 12)]
    (run.submission / "7_0_log.out").write_text("".join(parts))
    assert read_job_log(run, "7", 0).strip() == "execution 0"
    assert read_job_log(run, "7", 1).strip() == "execution 1"
    assert "execution 12" in read_job_log(run, "7", 12)
    assert "execution 0" not in read_job_log(run, "7", 12)
