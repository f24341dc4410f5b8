"""The one place that runs Slurm's commands: argument lists, time limits, no shell."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from jobs.errors import SubmitError
from jobs.query import Query

# A job that submits a job must not hand down its own allocation (SLURM_CONF says where Slurm is).
_INHERITED = ("SLURM_", "SLURMD_", "SUBMITIT_", "PMI_", "PMIX_")
_KEPT = ("SLURM_CONF",)

DEFAULT_KILL_WAIT_SEC = 30
CREDENTIAL_SEC = 5  # from a requeued job's end to its start; clocks of nodes differ a little

# Slurm's word for an end -> the cause as this project calls it. CANCELLED says too little.
END_CAUSES = {
    "PREEMPTED": "preempt",
    "TIMEOUT": "timeout",
    "DEADLINE": "timeout",
    "NODE_FAIL": "node_fail",
    "BOOT_FAIL": "node_fail",
    "FAILED": "crash",
    "OUT_OF_MEMORY": "crash",
}

# Names that Slurm has told this process.
_seen_partitions: set[str] = set()

_CONFIGURATION = ["scontrol", "show", "config"]
_asked_ahead: Query | None = None


def _run(argv: list[str], timeout_sec: float = 30) -> subprocess.CompletedProcess[str]:
    return Query(argv, timeout_sec).wait()


def _ask(argv: list[str], timeout_sec: float = 30) -> str:
    return _text_of(_run(argv, timeout_sec))


def _text_of(result: subprocess.CompletedProcess[str]) -> str:
    if result.returncode != 0:
        raise SubmitError(f"{' '.join(result.args)}: {_said(result)}")
    return result.stdout


def _said(result: subprocess.CompletedProcess[str]) -> str:
    text = (result.stderr.strip() or result.stdout.strip()).strip()
    return text or f"exit code {result.returncode}"


def slurm_answers() -> bool:
    """Return whether a Slurm controller answers from this machine."""
    if not is_installed():
        return False
    try:
        result = _run(["sinfo", "--noheader", "--format=%R"], timeout_sec=10)
    except SubmitError:
        return False
    if result.returncode == 0:
        _seen_partitions.update(result.stdout.split())
    return result.returncode == 0


def ask_partition(name: str) -> Callable[[], None]:
    """Ask whether Slurm knows a partition; the returned function waits for the answer.

    It raises `SubmitError` with Slurm's own words and the partitions there are.
    """
    if name in _seen_partitions:
        return lambda: None
    query = Query(["scontrol", "show", "partition", name])

    def wait() -> None:
        result = query.wait()
        if result.returncode != 0:
            known = _run(["sinfo", "--noheader", "--format=%R"]).stdout.split()
            raise SubmitError(
                f"Slurm: {_said(result)}; partitions: {', '.join(sorted(set(known)))}"
            )

    return wait


def show_job(job_id: str) -> dict[str, str] | None:
    """Return what `scontrol show job` says; None for a job that Slurm no longer knows.

    Raises:
        SubmitError: if Slurm does not answer.
    """
    result = _run(["scontrol", "--oneliner", "show", "job", job_id])
    if result.returncode == 0:
        return parse_fields(result.stdout)
    array, _, task = job_id.partition("_")
    if task and "not found" in result.stderr + result.stdout:
        return _show_waiting_member(array, int(task))
    if "Invalid job id" in result.stderr + result.stdout:
        return None
    raise SubmitError(f"scontrol show job {job_id}: {_said(result)}")


def _show_waiting_member(array: str, task: int) -> dict[str, str] | None:
    """Return what is said of those members of an array that wait, if this is one of them.

    Slurm does not know a member by its own number until it starts or is changed by itself.
    """
    result = _run(["scontrol", "--oneliner", "show", "job", array])
    for line in result.stdout.splitlines() if result.returncode == 0 else ():
        record = parse_fields(line)
        if holds_task(record.get("ArrayTaskId", ""), task):
            return record
    return None


def holds_task(listed: str, task: int) -> bool:
    """Return whether a list as `0,3-50:2%4` holds a number."""
    for part in listed.partition("%")[0].split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part)
        if match is not None:
            first, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
            if first <= task <= last and (task - first) % step == 0:
                return True
    return False


def parse_fields(text: str) -> dict[str, str]:
    """Return the `Key=value` pairs of one line of scontrol; values may hold blanks."""
    parts = re.split(r"(?:^|\s)([A-Z][A-Za-z/:_]*)=", text.strip())
    return {key: value.strip() for key, value in zip(parts[1::2], parts[2::2], strict=True)}


def parse_time(text: str | None) -> float | None:
    """Return the seconds since the epoch of a time that Slurm printed; None for `Unknown`."""
    from datetime import datetime  # a launch reads no times

    try:
        return datetime.fromisoformat(text or "").timestamp()
    except ValueError:
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


def node_address(name: str) -> str | None:
    """Return the address under which Slurm reaches a node; None if Slurm does not know it."""
    result = _run(["scontrol", "--oneliner", "show", "node", name])
    return parse_fields(result.stdout).get("NodeAddr") if result.returncode == 0 else None


def kill_wait_sec() -> int:
    """Return how long Slurm waits between SIGTERM and SIGKILL; its default if it cannot say."""
    try:
        text = show_config().get("KillWait", "")
    except SubmitError:
        return DEFAULT_KILL_WAIT_SEC
    match = re.match(r"\d+", text)
    return int(match[0]) if match else DEFAULT_KILL_WAIT_SEC


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


def show_config() -> dict[str, str]:
    """Return `scontrol show config`: slurm.conf as the controller has it.

    Raises:
        SubmitError: if Slurm does not answer.
    """
    return parse_configuration(_ask(_CONFIGURATION))


def show_all(what: str) -> list[dict[str, str]]:
    """Return the fields of every `partition` or `node`.

    Raises:
        SubmitError: if Slurm does not answer.
    """
    lines = _ask(["scontrol", "--oneliner", "--all", "show", what]).splitlines()
    return [parse_fields(line) for line in lines if "=" in line]


def cluster_name() -> str | None:
    """Return Slurm's ClusterName; None where no Slurm answers from this machine."""
    if not is_installed():
        return None
    try:
        return ask_configuration()().get("ClusterName", "")
    except SubmitError:
        return None


def start_now(job_id: str) -> None:
    """Have a pending job of ours start in seconds, whatever begin time it has.

    Not at once: slurmd refuses a job whose credential is of the second in which it revoked the one
    before a requeue, and the job has failed then.

    Raises:
        SubmitError: with Slurm's words if it refuses.
    """
    _ask(["scontrol", "update", f"JobId={job_id}", f"StartTime=now+{CREDENTIAL_SEC}"])


def exclude_nodes(job_id: str, names: Sequence[str]) -> None:
    """Have a pending or completing job of ours not get these nodes when it starts.

    Raises:
        SubmitError: with Slurm's words if it refuses.
    """
    _ask(["scontrol", "update", f"JobId={job_id}", f"ExcNodeList={','.join(names)}"])


def has_nodes_without(partition: str | None, names: Sequence[str], count: int) -> bool:
    """Return whether a partition has that many nodes that are not down and not among `names`.

    True where Slurm cannot say.
    """
    argv = ["sinfo", "--noheader", "--Node", "--responding", "--format=%N|%t"]
    argv += [f"--partition={partition}"] if partition else []
    try:
        lines = _ask(argv).split()
    except SubmitError:
        return True
    states = dict(line.split("|") for line in lines)
    good = [name for name, state in states.items() if not state.startswith(("down", "drain"))]
    return len(set(good) - set(names)) >= count


def failed_nodes(names: Sequence[str]) -> list[str]:
    """Return which of these nodes Slurm takes for dead; none where it cannot say."""
    if not names:
        return []
    argv = ["sinfo", "--noheader", "--Node", f"--nodes={','.join(names)}", "--format=%N|%T"]
    try:
        lines = _ask(argv).split()
    except SubmitError:
        return []
    states = dict(line.split("|") for line in lines)
    return sorted(name for name, state in states.items() if "*" in state or "down" in state)


def set_dependency(job_id: str, dependency: str) -> None:
    """Have a queued job wait for others; `dependency` as sbatch takes it."""
    _ask(["scontrol", "update", f"JobId={job_id}", f"Dependency={dependency}"])


def list_queue() -> list[tuple[str, str]]:
    """Return (job id, comment) of each job of ours in the queue, an array's members one by one."""
    argv = ["squeue", "--noheader", "--array", f"--user={os.getuid()}", "--format=%i|%k"]
    pairs = [line.strip().partition("|") for line in _ask(argv).splitlines()]
    return [(job_id, comment.strip()) for job_id, _, comment in pairs]


def array_limits() -> tuple[int, int]:
    """Return how many members one array may have, and how many jobs the site holds at all.

    Raises:
        SubmitError: if Slurm does not say.
    """
    text = show_config()
    names = ("MaxArraySize", "MaxJobCount")
    found = {name: int(text[name]) for name in names if text.get(name, "").isdecimal()}
    if len(found) != 2:
        raise SubmitError("scontrol show config names no MaxArraySize and MaxJobCount")
    return found["MaxArraySize"], found["MaxJobCount"]


def is_installed() -> bool:
    """Return whether this machine has Slurm's commands; its controller may still be away."""
    return shutil.which("sbatch") is not None


def find_by_comment(comment: str) -> str | None:
    """Return the id, an array's own, of the job with this comment; None if Slurm knows none.

    Jobs that ended some minutes ago count: Slurm forgets them after `MinJobAge`.

    Raises:
        SubmitError: if Slurm does not answer.
    """
    found = None
    text = _ask(["squeue", "--noheader", "--all", "--states=all", "--format=%F|%T|%k"])
    for line in text.splitlines():
        job_id, state, named = (part.strip() for part in line.split("|", 2))
        if named == comment and (found is None or state in ("PENDING", "RUNNING")):
            found = job_id
    return found


def ask_ahead() -> None:
    """Ask for the configuration at a launcher's first step: one answer for the whole process."""
    global _asked_ahead
    if _asked_ahead is None and shutil.which(_CONFIGURATION[0]):
        _asked_ahead = Query(_CONFIGURATION)


def ask_configuration() -> Callable[[], dict[str, str]]:
    """Ask for the controller's configuration; the returned function waits for the answer.

    It raises `SubmitError` if Slurm is not there or does not answer.
    """
    if shutil.which(_CONFIGURATION[0]) is None:
        return show_config
    query = _asked_ahead or Query(_CONFIGURATION)
    return lambda: parse_configuration(_text_of(query.wait()))


def parse_configuration(text: str) -> dict[str, str]:
    """Return the `Key = value` lines of `scontrol show config`."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


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
    """Take a job, or one member of an array, out of the queue; False if it runs or is over.

    Raises:
        SubmitError: if Slurm does not answer.
    """
    is_member = "_" in job_id
    if is_member:
        if not _waits(job_id):
            return _is_cancelled(show_job(job_id))
        # members that wait share one record, and by state scancel takes all of it; a held one has
        # its own
        _run(["scontrol", "hold", job_id])
    _run(["scancel", "--state=PENDING", job_id])
    is_cancelled = _is_cancelled(show_job(job_id))
    if is_member and not is_cancelled:  # it has started meanwhile
        _run(["scontrol", "release", job_id])
    return is_cancelled


def _waits(job_id: str) -> bool:
    return (show_job(job_id) or {}).get("JobState") == "PENDING"


def _is_cancelled(job: Mapping[str, str] | None) -> bool:
    return job is None or (job.get("JobState") or "").startswith("CANCELLED")


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
