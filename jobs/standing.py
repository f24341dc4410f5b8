"""Whether somebody is at work on a run, so that the same launch twice is one run."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Container
from dataclasses import dataclass
from typing import Any

from jobs import slurm
from jobs.ledger import SUBMITTING_SEC, find_lost_job
from jobs.node import is_alive
from jobs.run_folder import RunFolder, read_json

FINAL = ("done", "failed", "stopped", "cancelled")

# Slurm's states of a job that still holds or awaits its nodes.
LIVE = (
    *("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "REQUEUED", "RESIZING"),
    *("SIGNALING", "STOPPED", "STAGE_OUT", "REQUEUE_HOLD"),
)


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


def find_standing(run: RunFolder, queue: Container[str] | None = None) -> Standing:
    """Look at the newest claim of a run, and at the job or process behind it.

    Args:
        run: the run.
        queue: ids of all jobs in Slurm's queue, where the caller has asked for them already.
    """
    latest = run.latest_attempt()
    if latest == 0:
        return Standing("fresh")
    state = run.read_state()
    if state.get("state") == "done":
        return Standing("done", f"{run.path} is done: see {run.result_json}")
    claim = read_json(run.attempt(latest).claim_json) or {}
    token = str(claim.get("token"))
    job = read_json(run.job_json(token)) or find_lost_job(run, token)
    after = str(claim.get("after") or "")
    if job is None and after and _is_job_live(after):
        return Standing("live", f"{run.path} goes on after job {after}", after, "slurm")
    if job is None:
        return submitting(run, claim)
    job_id, executor = str(job["job_id"]), str(job["executor"])
    if state.get("state") in FINAL and state.get("job_id") == job_id:
        return Standing("idle", f"ended as {state['state']}", job_id, executor)
    if executor != "slurm":
        is_live = is_process_live(run, latest, job)
    else:
        is_live = _is_job_live(job_id) if queue is None else job_id in queue
    if is_live:
        where = f"job {job_id}" if executor == "slurm" else f"process {job_id} on {job['host']}"
        return Standing("live", f"{run.path} is at work as {where}", job_id, executor)
    return Standing("idle", f"job {job_id} is gone without an end mark", job_id, executor)


def hasten(run: RunFolder) -> bool:
    """Have a requeued job of the run start at once: by itself it waits two minutes.

    Slurm holds a requeued job back for the lifetime of its credentials, 121 s by default; its owner
    may set another begin time as soon as the job waits for that.

    Returns:
        Whether there was such a job.

    Raises:
        SubmitError: if Slurm does not answer or refuses.
    """
    latest = run.latest_attempt()
    holder = run.attempt(latest).holder if latest else None
    known = read_json(run.job_json(holder.token)) if holder else None
    if known is None or known.get("executor") != "slurm":
        return False
    job = slurm.show_job(str(known["job_id"])) or {}
    waits = job.get("JobState") == "PENDING" and job.get("Reason") == "BeginTime"
    if not waits or job.get("Restarts", "0") == "0":
        return False
    slurm.start_now(str(known["job_id"]))
    return True


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
