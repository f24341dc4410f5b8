"""The queue as one call shows it: which jobs are there, looked up by id or by a run's tag."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from jobs import slurm
from jobs.errors import SubmitError
from jobs.slurm import QueuedJob
from jobs.standing import LIVE

# What one command may ask of the controller while it stays and watches.
CALLS_PER_MINUTE = 2


@dataclass(frozen=True)
class Queue:
    """What Slurm said about the jobs of some users.

    Attributes:
        by_id: job id, also a running array member's own -> job.
        by_tag: comment of a submission -> job.
        problem: why there is no answer; empty if there is one.
    """

    by_id: Mapping[str, QueuedJob] = field(default_factory=dict[str, QueuedJob])
    by_tag: Mapping[str, QueuedJob] = field(default_factory=dict[str, QueuedJob])
    problem: str = ""

    def find(self, job_id: str) -> QueuedJob | None:
        """Return a job; an array cancelled before its members started is there as one."""
        job = self.by_id.get(job_id)
        if job is None and "_" in job_id:
            whole = self.by_id.get(job_id.partition("_")[0])
            job = whole if whole is not None and "_" not in whole.job_id else None
        return job


def read_queue(users: Iterable[int]) -> Queue:
    """Ask Slurm once; if it does not answer, the queue says so."""
    try:
        jobs = slurm.list_jobs(users)
    except SubmitError as error:
        return Queue(problem=str(error).splitlines()[-1])
    by_id: dict[str, QueuedJob] = {}
    by_tag: dict[str, QueuedJob] = {}
    for job in jobs:
        by_id[job.job_id] = job
        if job.state != "PENDING":  # members of an array that wait share the array's number
            by_id.setdefault(job.raw_id, job)
        if job.comment and job.state in LIVE:
            by_tag.setdefault(job.comment, job)
    return Queue(by_id, by_tag)


def is_held_back(job: QueuedJob) -> bool:
    """Return whether Slurm makes a job wait only because it was requeued a moment ago."""
    return job.state == "PENDING" and job.reason == "BeginTime"


class CallBudget:
    """Counts calls to the controller, so that watching costs it next to nothing."""

    def __init__(self, per_minute: int = CALLS_PER_MINUTE) -> None:
        self._per_minute = per_minute
        self._calls: list[float] = []

    def take(self) -> bool:
        """Return whether one more call is allowed now, and count it."""
        now = time.monotonic()
        self._calls = [each for each in self._calls if now - each < 60]
        if len(self._calls) >= self._per_minute:
            return False
        self._calls.append(now)
        return True
