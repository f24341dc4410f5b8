"""Whether somebody is at work on a run, so that the same launch twice is one run."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from typing import Any

from jobs import slurm
from jobs.node import is_alive, process_start
from jobs.run_folder import RunFolder, read_json, write_json_atomic

FINAL = ("done", "failed", "stopped", "cancelled")

# Slurm's states of a job that still holds or awaits its nodes.
LIVE = (
    *("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "REQUEUED", "RESIZING"),
    *("SIGNALING", "STOPPED", "STAGE_OUT", "REQUEUE_HOLD"),
)

# How long a claim from another machine, without a job so far, counts as a launch under way.
SUBMITTING_SEC = 120


@dataclass(frozen=True)
class Standing:
    """What is going on with a run.

    Attributes:
        state: fresh, live, done or idle (it ended, or was lost, and may be resumed).
        job_id: of the live job, where it is known.
        message: for people.
    """

    state: str
    message: str = ""
    job_id: str = ""
    executor: str = ""


def comment_tag(token: str) -> str:
    """Return the comment by which the job of a submission is found in the queue."""
    return f"egovl-{token}"


def find_standing(run: RunFolder) -> Standing:
    """Look at the newest claim of a run, and at the job or process behind it."""
    latest = run.latest_attempt()
    if latest == 0:
        return Standing("fresh")
    state = run.read_state()
    if state.get("state") == "done":
        return Standing("done", f"{run.path} is done: see {run.result_json}")
    claim = read_json(run.attempt(latest).claim_json) or {}
    job = read_json(run.job_json(str(claim.get("token")))) or _find_lost_job(run, claim)
    if job is None:
        return submitting(run, claim)
    job_id, executor = str(job["job_id"]), str(job["executor"])
    if state.get("state") in FINAL and state.get("job_id") == job_id:
        return Standing("idle", f"ended as {state['state']}", job_id, executor)
    is_live = _is_job_live(job_id) if executor == "slurm" else is_process_live(run, latest, job)
    if is_live:
        where = f"job {job_id}" if executor == "slurm" else f"process {job_id} on {job['host']}"
        return Standing("live", f"{run.path} is at work as {where}", job_id, executor)
    return Standing("idle", f"job {job_id} is gone without an end mark", job_id, executor)


def record_job(run: RunFolder, token: str, job_id: str, executor: str) -> None:
    """Write down what the scheduler calls a submission."""
    host = socket.gethostname()
    facts: dict[str, Any] = {"job_id": job_id, "executor": executor, "host": host}
    facts["time"] = time.time()
    if executor != "slurm":
        facts["process_start"] = process_start(int(job_id))
    write_json_atomic(run.job_json(token), facts)


def _find_lost_job(run: RunFolder, claim: dict[str, Any]) -> dict[str, Any] | None:
    """Adopt a job that was queued by a launcher that died before it wrote that down."""
    token = str(claim.get("token"))
    if claim.get("executor", "slurm") != "slurm" or not slurm.slurm_answers():
        return None
    job_id = slurm.find_by_comment(comment_tag(token))
    if job_id is None:
        return None
    record_job(run, token, job_id, "slurm")
    return read_json(run.job_json(token))


def submitting(run: RunFolder, claim: dict[str, Any]) -> Standing:
    """Say whether the launch behind a claim that has no job yet is still under way."""
    pid, host = int(claim.get("pid", 0)), str(claim.get("host"))
    if host == socket.gethostname():
        is_live = pid != os.getpid() and is_alive(pid, None)
    else:
        is_live = time.time() < float(claim.get("time", 0)) + SUBMITTING_SEC
    if is_live:
        message = f"{run.path} is being submitted by process {pid} on {host}"
        return Standing("live", message)
    return Standing("idle", "its launch never reached the queue")


def _is_job_live(job_id: str) -> bool:
    job = slurm.show_job(job_id)
    return job is not None and (job.get("JobState") or "").split()[0] in LIVE


def is_process_live(run: RunFolder, attempt: int, job: dict[str, Any]) -> bool:
    """Return whether the process of a run without a scheduler, or its agent, still lives."""
    if job["host"] != socket.gethostname():
        return run.read_state().get("state") not in FINAL
    if is_alive(int(job["job_id"]), job.get("process_start")):
        return True
    agent = read_json(run.attempt(attempt).node_json(0)) or {}
    return "pid" in agent and is_alive(int(agent["pid"]), agent.get("process_start"))
