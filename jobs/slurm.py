"""The one place that runs Slurm's commands: argument lists, time limits, no shell."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from jobs.errors import SubmitError

# A job that submits a job must not hand down its own allocation (SLURM_CONF says where Slurm is).
_INHERITED = ("SLURM_", "SLURMD_", "SUBMITIT_", "PMI_", "PMIX_")
_KEPT = ("SLURM_CONF",)

DEFAULT_KILL_WAIT_SEC = 30


def _run(argv: list[str], timeout_sec: float = 30) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "SLURM_TIME_FORMAT": "standard"}
    try:
        return subprocess.run(
            argv, capture_output=True, text=True, timeout=timeout_sec, env=env, check=False
        )
    except FileNotFoundError as error:
        raise SubmitError(f"{argv[0]} is not on this machine's PATH: no Slurm here") from error
    except subprocess.TimeoutExpired as error:
        raise SubmitError(f"{' '.join(argv)}: no answer in {timeout_sec:g} s") from error


def _ask(argv: list[str], timeout_sec: float = 30) -> str:
    result = _run(argv, timeout_sec)
    if result.returncode != 0:
        raise SubmitError(f"{' '.join(argv)}: {_said(result)}")
    return result.stdout


def _said(result: subprocess.CompletedProcess[str]) -> str:
    text = (result.stderr.strip() or result.stdout.strip()).strip()
    return text or f"exit code {result.returncode}"


def slurm_answers() -> bool:
    """Return whether a Slurm controller answers from this machine."""
    if shutil.which("sbatch") is None:
        return False
    try:
        return _run(["sinfo", "--noheader", "--format=%P"], timeout_sec=10).returncode == 0
    except SubmitError:
        return False


def check_partition(name: str) -> None:
    """Make sure that Slurm knows a partition.

    Raises:
        SubmitError: with Slurm's own words and the partitions there are.
    """
    result = _run(["scontrol", "show", "partition", name])
    if result.returncode != 0:
        known = _run(["sinfo", "--noheader", "--format=%R"]).stdout.split()
        raise SubmitError(f"Slurm: {_said(result)}; partitions: {', '.join(sorted(set(known)))}")


def show_job(job_id: str) -> dict[str, str] | None:
    """Return what `scontrol show job` says; None for a job that Slurm no longer knows.

    Raises:
        SubmitError: if Slurm does not answer.
    """
    result = _run(["scontrol", "--oneliner", "show", "job", job_id])
    if result.returncode == 0:
        return parse_fields(result.stdout)
    if "Invalid job id" in result.stderr + result.stdout:
        return None
    raise SubmitError(f"scontrol show job {job_id}: {_said(result)}")


def parse_fields(text: str) -> dict[str, str]:
    """Return the `Key=value` pairs of one line of scontrol; values may hold blanks."""
    parts = re.split(r"(?:^|\s)([A-Z][A-Za-z/:_]*)=", text.strip())
    return {key: value.strip() for key, value in zip(parts[1::2], parts[2::2], strict=True)}


def parse_time(text: str | None) -> float | None:
    """Return the seconds since the epoch of a time that Slurm printed; None for `Unknown`."""
    try:
        return datetime.fromisoformat(text or "").timestamp()
    except ValueError:
        return None


def find_by_comment(comment: str) -> str | None:
    """Return the id of the queued or running job with this comment."""
    for line in _ask(["squeue", "--noheader", "--all", "--format=%i|%k"]).splitlines():
        job_id, _, found = line.partition("|")
        if found.strip() == comment:
            return job_id.strip()
    return None


def requeue(job_id: str) -> None:
    """Put a running job back into the queue; its processes get SIGTERM at once.

    Raises:
        SubmitError: with Slurm's words if it refuses.
    """
    _ask(["scontrol", "requeue", job_id], timeout_sec=60)


def send_signal(job_id: str, signal_name: str) -> None:
    """Send a signal to all steps of a job."""
    _ask(["scancel", f"--signal={signal_name}", job_id])


def cancel(job_id: str) -> None:
    """Cancel a job, queued or running."""
    _ask(["scancel", job_id])


def expand_nodes(node_list: str) -> list[str]:
    """Return the names in a Slurm node list such as `node[1-3,7]`, in its order."""
    return _ask(["scontrol", "show", "hostnames", node_list]).split()


def node_address(name: str) -> str | None:
    """Return the address under which Slurm reaches a node; None if Slurm does not know it."""
    result = _run(["scontrol", "--oneliner", "show", "node", name])
    return parse_fields(result.stdout).get("NodeAddr") if result.returncode == 0 else None


def kill_wait_sec() -> int:
    """Return how long Slurm waits between SIGTERM and SIGKILL; its default if it cannot say."""
    try:
        text = _ask(["scontrol", "show", "config"])
    except SubmitError:
        return DEFAULT_KILL_WAIT_SEC
    match = re.search(r"^KillWait\s*=\s*(\d+)", text, re.MULTILINE)
    return int(match[1]) if match else DEFAULT_KILL_WAIT_SEC


def is_inherited(name: str) -> bool:
    """Return whether an environment variable belongs to the job we may be running in."""
    return name.startswith(_INHERITED) and name not in _KEPT


@contextmanager
def outside_any_job(environ: Mapping[str, str] | None = None) -> Generator[None]:
    """Hide the present job's variables from what is submitted inside the block."""
    before = dict(os.environ)
    try:
        for name in [name for name in os.environ if is_inherited(name)]:
            del os.environ[name]
        os.environ.update(environ or {})
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@dataclass(frozen=True)
class QueuedJob:
    """One job, or one member of an array, as `squeue` shows it.

    Attributes:
        job_id: as in `123`, or `123_4` for a member of an array.
        raw_id: what the job itself knows as SLURM_JOB_ID.
        state: Slurm's long word; jobs that ended a few minutes ago are there too.
        reason: why it waits, or why it ended.
        start: when it started, or is expected to; seconds since the epoch, None if unknown.
        nodes: Slurm's list of its nodes; empty while it waits.
    """

    job_id: str
    raw_id: str
    state: str
    reason: str
    start: float | None
    nodes: str
    partition: str
    comment: str


_QUEUE_FORMAT = "%i|%A|%T|%r|%S|%N|%P|%k"


def list_jobs(users: Iterable[int]) -> list[QueuedJob]:
    """Return the jobs of some users, by one call to the controller.

    Args:
        users: numeric user ids.

    Raises:
        SubmitError: if Slurm does not answer.
    """
    options = ["--noheader", "--states=all", "--array"]
    asked = sorted(set(users))
    if all(_has_name(user) for user in asked):  # squeue leaves others out, with exit code 0
        options.append("--user=" + ",".join(str(user) for user in asked))
    jobs: list[QueuedJob] = []
    for line in _ask(["squeue", *options, f"--format={_QUEUE_FORMAT}"]).splitlines():
        words = line.split("|", 7)
        if len(words) == 8:
            job_id, raw_id, state, reason, start, nodes, partition, comment = words
            begins = parse_time(start)
            jobs.append(QueuedJob(job_id, raw_id, state, reason, begins, nodes, partition, comment))
    return jobs


def _has_name(user: int) -> bool:
    try:
        pwd.getpwuid(user)
    except KeyError:
        return False
    return True


def ended_jobs(job_ids: Iterable[str]) -> dict[str, str]:
    """Return how jobs ended according to the accounting, by one call to its database.

    Returns:
        Job id -> Slurm's word; jobs that it does not know or takes for live are not there.

    Raises:
        SubmitError: if there is no accounting here.
    """
    asked = ",".join(sorted(set(job_ids)))
    options = ["--noheader", "--parsable2", "--allocations", "--format=JobID,JobIDRaw,State"]
    found: dict[str, str] = {}
    for line in _ask(["sacct", *options, f"--jobs={asked}"]).splitlines():
        job_id, raw_id, state = line.split("|", 2)
        word = state.split()[0] if state else ""
        if word and word not in ("PENDING", "RUNNING", "SUSPENDED", "REQUEUED", "RESIZING"):
            found[job_id] = found[raw_id] = word
    return found


def cancel_pending(job_id: str) -> bool:
    """Take a job out of the queue; False if it was not there, running or over."""
    _run(["scancel", "--state=PENDING", job_id])
    job = show_job(job_id)
    return job is None or (job.get("JobState") or "").startswith("CANCELLED")


def start_now(job_id: str) -> None:
    """Have a pending job of ours start as soon as it can, whatever begin time it has.

    Raises:
        SubmitError: with Slurm's words if it refuses.
    """
    _ask(["scontrol", "update", f"JobId={job_id}", "StartTime=now"])


def node_states(names: Iterable[str]) -> dict[str, str]:
    """Return node -> state, with the reason for which somebody took it out, by one call.

    Raises:
        SubmitError: if Slurm does not answer.
    """
    wanted = set(names)
    found: dict[str, str] = {}
    for line in _ask(["sinfo", "--noheader", "--Node", "--format=%N|%T|%E"]).splitlines():
        name, state, reason = line.split("|", 2)
        if name in wanted:
            found[name] = state if reason.strip() in ("", "none") else f"{state} ({reason.strip()})"
    return found
