"""Why an attempt has to stop, and by when.

One agent, node 0's, asks Slurm once and writes `stop.json`; every agent mirrors it into a file of
its own node's memory, whose name the ranks know. Causes, and what follows from them:

    preempt    a higher job wants the nodes, or somebody sent the stop signal     continue
    timeout    the time limit is near                                              continue
    crash      a rank, an agent or the step died                                   continue, bounded
    hang       a rank's heartbeat stands still                                     continue, once
    preflight  a node is not fit (`exclude`); with none named, no node is          continue, bounded
    requeued   Slurm put the job back by itself (node failure, an admin)           Slurm continues
    user       `python -m jobs stop`                                               no
    cancelled  scancel                                                             no
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.node import is_alive
from jobs.rank import PID_NAME
from jobs.run_folder import read_json, write_json_atomic
from jobs.slurm import parse_time

# Slurm looks at time limits about once a minute, so its warning may come that much early.
LIMIT_SLACK_SEC = 65

# A running job shows a flag's name while the flag is set: SIGNALING while a signal, that of a
# preemption too, is on its way to the nodes.
_RUNNING = ("RUNNING", "SIGNALING", "RESIZING")

LEFT_BEHIND_SEC = 86400


@dataclass(frozen=True)
class Stop:
    """A request to stop.

    Attributes:
        reason: one of the causes above.
        deadline: when the processes will be killed, seconds since the epoch; None if unknown.
        source: slurm (it said so), inferred (it did not answer), user, agent or clock.
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
        exclude=tuple(data.get("exclude", ())),
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

    Slurm shows COMPLETING for a job cancelled, preempted without grace, requeued or out of time
    alike (seen on 22.05); only where it starts the job again has it counted up `Restarts`.

    Returns:
        requeued, timeout, cancelled, or None while it is not over.
    """
    if _restarts(job) > restart:
        return "requeued"
    if job.get("JobState") in _RUNNING:
        return None
    is_late = job.get("Reason") == "TimeLimit" or job.get("JobState", "").startswith("TIMEOUT")
    return "timeout" if is_late else "cancelled"


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
