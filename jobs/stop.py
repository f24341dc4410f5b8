"""Why an attempt has to stop, and by when.

One agent, node 0's, asks Slurm once and writes `stop.json`; every agent mirrors it into a file of
its own node's memory, whose name the ranks know. Causes, and what follows from them:

    preempt    a higher job wants the nodes, or somebody sent the stop signal     continue
    timeout    the time limit is near                                              continue
    node_fail  a node died under the job                                           continue
    crash      a rank, an agent or the step died                                   continue
    hang       the watchdog saw no step for too long                               continue
    preflight  a node is not fit for the job                                       continue
    requeued   somebody put the job back into the queue                            Slurm continues
    user       `python -m jobs stop`                                               no
    cancelled  scancel                                                             no

How often is `jobs.budgets`' matter.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs.node import is_alive
from jobs.rank import PID_NAME
from jobs.run_folder import read_json, write_json_atomic
from jobs.slurm import END_CAUSES, parse_time

# Slurm looks at time limits about once a minute, so its warning may come that much early.
LIMIT_SLACK_SEC = 65

# A running job shows a flag's name while the flag is set: SIGNALING while a signal, that of a
# preemption too, is on its way to the nodes.
_RUNNING = ("RUNNING", "SIGNALING", "RESIZING")

_FINAL_CAUSES = {**END_CAUSES, "COMPLETED": "crash"}  # without a word of its own

LEFT_BEHIND_SEC = 86400


@dataclass(frozen=True)
class Stop:
    """A request to stop.

    Attributes:
        reason: one of the causes above.
        deadline: when the processes will be killed, seconds since the epoch; None if unknown.
        source: slurm (it said so), log (its words there), inferred (it did not answer), user,
            agent or clock.
        detail: what was seen, for people.
        exclude: names of nodes that the next attempt must not get.
    """

    reason: str
    deadline: float | None = None
    source: str = "slurm"
    detail: str = ""
    exclude: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the content of `stop.json`."""
        return {
            "reason": self.reason,
            "deadline": self.deadline,
            "source": self.source,
            "detail": self.detail,
            "exclude": list(self.exclude),
        }


def read_stop(path: Path) -> Stop | None:
    """Return the request in a `stop.json`; None if there is none."""
    data = read_json(path)
    if data is None:
        return None
    deadline = data.get("deadline")
    return Stop(
        reason=str(data.get("reason", "user")),
        deadline=float(deadline) if isinstance(deadline, int | float) else None,
        source=str(data.get("source", "user")),
        detail=str(data.get("detail", "")),
        exclude=tuple(str(name) for name in data.get("exclude") or ()),
    )


@dataclass(frozen=True)
class Execution:
    """What an agent knows of the present execution of its job.

    Attributes:
        restart: Slurm's restart count as it started.
        ends: when the time limit ends, reckoned from the start; for when Slurm does not answer.
        lead_sec: how long before the limit the warning was asked for.
    """

    restart: int
    ends: float
    lead_sec: int

    def is_near(self, ends: float | None, now: float) -> bool:
        """Return whether a warning that comes now is the one before the time limit."""
        return ends is not None and now >= ends - self.lead_sec - LIMIT_SLACK_SEC


def is_running(job: Mapping[str, str], restart: int) -> bool:
    """Return whether this execution of the job goes on for Slurm: only then it can be requeued."""
    return job.get("JobState") in _RUNNING and _restarts(job) == restart


def decide_ended(job: Mapping[str, str], restart: int) -> str | None:
    """Say why an execution of a job is over for Slurm, though its processes may still run.

    While they do, Slurm (22.05) shows COMPLETING whatever the reason; what tells them apart was
    seen there: a job killed by preemption, at once or after its grace time, has its PreemptTime
    moved to that second, which is its EndTime; a scancel within the grace time leaves it. One that
    Slurm starts again has `Restarts` counted up and nothing else to say: see `jobs.job_log`. A
    batch shell that died has left its exit code, which a job that Slurm ends does not have yet.

    Returns:
        requeued, preempt, timeout, node_fail, crash, cancelled, or None while it is not over.
    """
    state = job.get("JobState", "").split()[0] if job.get("JobState") else ""
    if _restarts(job) > restart:
        return "requeued"
    if state in _RUNNING:
        return None
    if state in _FINAL_CAUSES:
        return _FINAL_CAUSES[state]
    if job.get("Reason") == "TimeLimit":
        return "timeout"
    preempted = parse_time(job.get("PreemptTime"))
    if preempted is not None and preempted == parse_time(job.get("EndTime")):
        return "preempt"
    has_died = state == "COMPLETING" and job.get("ExitCode", "0:0") != "0:0"
    return "crash" if has_died else "cancelled"


def _restarts(job: Mapping[str, str]) -> int:
    count = job.get("Restarts", "0")
    return int(count) if count.isdecimal() else 0


def decide_stop(
    signum: int, job: Mapping[str, str] | None, execution: Execution, now: float
) -> Stop:
    """Say why a signal came.

    Args:
        signum: the signal.
        job: what `scontrol show job` says; None if there was no answer.
        execution: the one that got the signal.
        now: seconds since the epoch.
    """
    name = signal.Signals(signum).name
    if job is None:
        near = execution.is_near(execution.ends, now)
        ends = execution.ends if near else None
        return Stop("timeout" if near else "preempt", ends, "inferred", name)
    seen = f"{name}, job {job.get('JobState')}"
    ended = decide_ended(job, execution.restart)
    if ended is not None:
        return Stop(ended, None, detail=seen)
    ends = parse_time(job.get("EndTime"))
    if parse_time(job.get("PreemptTime")) is not None:
        return Stop("preempt", ends, detail=seen)
    if execution.is_near(ends, now):
        return Stop("timeout", ends, detail=seen)
    if signum != signal.SIGUSR2:
        return Stop("crash", None, detail=f"{seen}: the step is ending, the job is not")
    return Stop("preempt", None, detail=f"{seen}: sent by hand")


# What Slurm's words in the job's log may correct: an answer that holds for several causes.
_DOUBTED = {
    "requeued": ("preempt", "timeout", "node_fail"),
    "cancelled": ("preempt", "timeout", "node_fail"),
    "crash": ("preempt", "timeout", "node_fail", "cancelled"),
}


def settle_cause(stop: Stop, logged: str | None) -> Stop:
    """Correct a cause by what Slurm's own processes have written into the job's log meanwhile.

    Args:
        stop: what the agent made of the signal.
        logged: the cause by `jobs.job_log.logged_cause`; None if it says none.
    """
    if logged is None or logged == stop.reason:
        return stop
    if stop.source == "inferred" or logged in _DOUBTED.get(stop.reason, ()):
        return replace(stop, reason=logged, source="log", detail=f"{stop.detail}; by the job's log")
    return stop


class LocalStopFile:
    """The stop file of one node, in memory where there is such a disk: ranks stat it every step."""

    def __init__(self, name: str) -> None:
        memory = Path("/dev/shm")
        root = memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir())
        self._folder = root / f"egovl-{os.getuid()}-{name}"
        self._owner = self._folder / "agent.pid"
        self.path = self._folder / "stop.json"

    def __enter__(self) -> LocalStopFile:
        for folder in self._folder.parent.glob(f"egovl-{os.getuid()}-*"):
            if folder == self._folder or _is_left_behind(folder / self._owner.name):
                shutil.rmtree(folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        self._owner.write_text(str(os.getpid()), encoding="ascii")
        return self

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def rank_pids(self) -> dict[int, int]:
        """Return rank -> process id of this node's ranks, as they reported them."""
        found: dict[int, int] = {}
        for path in self._folder.glob(PID_NAME.format(rank="*")):
            try:
                found[int(path.name.split(".")[1])] = int(path.read_text(encoding="ascii"))
            except (OSError, ValueError):
                continue
        return found

    def write(self, stop: Stop) -> None:
        """Tell the ranks of this node to stop."""
        write_json_atomic(self.path, stop.to_json())


def _is_left_behind(owner: Path) -> bool:
    """Return whether the agent of a stop file's folder was killed, more than a day ago."""
    try:
        is_old = time.time() > owner.stat().st_mtime + LEFT_BEHIND_SEC
        return is_old and not is_alive(int(owner.read_text(encoding="ascii")), None)
    except (OSError, ValueError):
        return False
