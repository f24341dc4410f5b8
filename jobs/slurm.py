"""The one place that runs Slurm's commands: argument lists, time limits, no shell."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from datetime import datetime

from jobs.errors import SubmitError

# A job that submits a job must not hand down its own allocation (SLURM_CONF says where Slurm is).
_INHERITED = ("SLURM_", "SLURMD_", "SUBMITIT_", "PMI_", "PMIX_")
_KEPT = ("SLURM_CONF",)

DEFAULT_KILL_WAIT_SEC = 30

# Names that Slurm has told this process.
_seen_partitions: set[str] = set()


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
    if not is_installed():
        return False
    try:
        result = _run(["sinfo", "--noheader", "--format=%R"], timeout_sec=10)
    except SubmitError:
        return False
    if result.returncode == 0:
        _seen_partitions.update(result.stdout.split())
    return result.returncode == 0


def check_partition(name: str) -> None:
    """Make sure that Slurm knows a partition.

    Raises:
        SubmitError: with Slurm's own words and the partitions there are.
    """
    if name in _seen_partitions:
        return
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
    """Return the id of the job with this comment."""
    return find_by_comments([comment]).get(comment)


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


def is_installed() -> bool:
    """Return whether this machine has Slurm's commands; its controller may still be away."""
    return shutil.which("sbatch") is not None


def find_by_comments(comments: Iterable[str]) -> dict[str, str]:
    """Return comment -> job id (an array's own) of those that Slurm knows, in one question.

    Jobs that ended some minutes ago count: Slurm forgets them after `MinJobAge`.

    Raises:
        SubmitError: if Slurm does not answer.
    """
    wanted = set(comments)
    found: dict[str, str] = {}
    text = _ask(["squeue", "--noheader", "--all", "--states=all", "--format=%F|%T|%k"])
    for line in text.splitlines():
        job_id, state, comment = (part.strip() for part in line.split("|", 2))
        if comment in wanted and (comment not in found or state in ("PENDING", "RUNNING")):
            found[comment] = job_id
    return found


def ask_configuration() -> Callable[[], dict[str, str]]:
    """Ask for the controller's configuration; the returned function waits for the answer.

    It raises `SubmitError` if Slurm is not there or does not answer.
    """
    argv = ["scontrol", "show", "config"]
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True
        )
    except FileNotFoundError:
        return lambda: parse_configuration(_ask(argv))

    def wait() -> dict[str, str]:
        try:
            output, message = process.communicate(timeout=30)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise SubmitError("scontrol show config: no answer in 30 s") from error
        if process.returncode != 0:
            raise SubmitError(f"scontrol show config: {message.strip()}")
        return parse_configuration(output)

    return wait


def parse_configuration(text: str) -> dict[str, str]:
    """Return the `Key = value` lines of `scontrol show config`."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}
