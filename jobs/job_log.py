"""What Slurm's own processes wrote into a job's log about its end.

slurmstepd and srun say there what no query tells afterwards: why Slurm ended an execution that it
has put back into the queue, and which node failed. All executions of a job append to one file; the
batch script marks where each begins.
"""

from __future__ import annotations

import re
from pathlib import Path

from jobs.run_folder import RunFolder

MARK = "egovl: execution {restart} of job {job_id}"

# slurmstepd's words, Slurm 20.11 to 24.05; the step's line alone may be a signal of any kind.
_CAUSES = {
    "DUE TO PREEMPTION": "preempt",
    "DUE TO TIME LIMIT": "timeout",
    "DUE TO NODE FAILURE": "node_fail",
    "DUE TO JOB REQUEUE": "requeued",
}
_CANCELLED = re.compile(r"\*\*\* JOB \S+ ON \S+ CANCELLED AT \S+ \*\*\*")
_CANCELLED_WHY = re.compile(r"\*\*\* (?:JOB|STEP) \S+ ON \S+ CANCELLED AT \S+ (DUE TO [A-Z ]+)")
_NODE_FAILURE = re.compile(r"^srun: error: Node failure on (\S+)", re.MULTILINE)
_TASK_KILLED = re.compile(r"^srun: error: (\S+): tasks? [\d,-]+: Killed", re.MULTILINE)
# From here on Slurm itself kills.
_ENDING = re.compile(r"Terminating StepId|CANCELLED AT|forcing job termination|Job step aborted")

# In the batch script; the last member of an array has the array's own number as SLURM_JOB_ID.
_JOB_ID = "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"

_TAIL = 1 << 20  # bytes; a run may have printed for weeks


def mark_line(job_id: str = _JOB_ID, restart: str = "${SLURM_RESTART_COUNT:-0}") -> str:
    """Return the line with which the batch script begins an execution's part of the log."""
    return MARK.format(restart=restart, job_id=job_id)


def read_job_log(run: RunFolder, job_id: str, restart: int) -> str:
    """Return what one execution of a job wrote, of a long log the end; empty without a log."""
    text = _tail(_log(run, job_id))
    _, found, own = text.rpartition(mark_line(job_id, str(restart)))
    following = re.escape(mark_line(job_id, "N")).replace("N", r"\d+")
    return re.split(following, own if found else text, maxsplit=1)[0]


def logged_cause(text: str) -> str | None:
    """Return why Slurm ended the job, by its own words; None if they do not say."""
    for match in _CANCELLED_WHY.finditer(text):
        for words, cause in _CAUSES.items():
            if match[1].startswith(words):
                return cause
    if _NODE_FAILURE.search(text):
        return "node_fail"
    return "cancelled" if _CANCELLED.search(text) else None


def failed_nodes(text: str) -> list[str]:
    """Return the nodes that srun says have failed, or on which an agent was killed.

    A list such as `node[1-2]` is left as it is. Kills that come once Slurm ends the step are its
    own and blame nobody.
    """
    named = list(dict.fromkeys(_NODE_FAILURE.findall(text)))
    if named:
        return [name.rstrip(",.") for name in named]
    ending = _ENDING.search(text)
    return list(dict.fromkeys(_TASK_KILLED.findall(text[: ending.start()] if ending else text)))


def _log(run: RunFolder, job_id: str) -> Path:
    """The log of the batch shell and of the first task, under submitit's name."""
    return run.submission / f"{job_id}_0_log.out"


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
