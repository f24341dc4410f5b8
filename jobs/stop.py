"""Why an attempt has to stop, and by when.

One agent, node 0's, asks Slurm once and writes `stop.json`; every agent mirrors it into a file of
its own node's memory, whose name the ranks know. Causes, and what follows from them:

    preempt    a higher job wants the nodes, or somebody sent the stop signal     continue
    timeout    the time limit is near                                              continue
    crash      a rank, an agent or the step died                                   continue, bounded
    requeued   Slurm put the job back by itself (node failure, an admin)           Slurm continues
    user       `python -m jobs stop`                                               no
    cancelled  scancel                                                             no
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.run_folder import read_json, write_json_atomic
from jobs.slurm import parse_time

# Slurm looks at time limits about once a minute, so its warning may come that much early.
LIMIT_SLACK_SEC = 65

_SLURM_RESTARTS = ("REQUEUED", "REQUEUE_HOLD", "PENDING", "NODE_FAIL", "SPECIAL_EXIT")


@dataclass(frozen=True)
class Stop:
    """A request to stop.

    Attributes:
        reason: one of the causes above.
        deadline: when the processes will be killed, seconds since the epoch; None if unknown.
        source: slurm (it said so), inferred (it did not answer), user, agent or clock.
        detail: what was seen, for people.
    """

    reason: str
    deadline: float | None = None
    source: str = "slurm"
    detail: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the content of `stop.json`."""
        return {
            "reason": self.reason,
            "deadline": self.deadline,
            "source": self.source,
            "detail": self.detail,
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
    )


def decide_stop(
    signum: int, job: Mapping[str, str] | None, *, now: float, ends: float | None, lead_sec: int
) -> Stop:
    """Say why a signal came.

    Args:
        signum: the signal.
        job: what `scontrol show job` says; None if there was no answer.
        now: seconds since the epoch.
        ends: when the time limit ends as far as we know, for the case without an answer.
        lead_sec: how long before the limit the warning was asked for.
    """
    name = signal.Signals(signum).name
    if job is None:
        near = ends is not None and now >= ends - lead_sec - LIMIT_SLACK_SEC
        return Stop("timeout" if near else "preempt", ends if near else None, "inferred", name)
    state = job.get("JobState", "").split()[0] if job.get("JobState") else ""
    ends = parse_time(job.get("EndTime"))
    seen = f"{name}, job {state}"
    if state == "CANCELLED":
        return Stop("cancelled", None, detail=seen)
    if parse_time(job.get("PreemptTime")) is not None or state == "PREEMPTED":
        return Stop("preempt", ends, detail=seen)
    if state in _SLURM_RESTARTS:
        return Stop("requeued", None, detail=seen)
    if state == "TIMEOUT" or (ends is not None and now >= ends - lead_sec - LIMIT_SLACK_SEC):
        return Stop("timeout", ends, detail=seen)
    if state == "RUNNING" and signum != signal.SIGUSR2:
        return Stop("crash", None, detail=f"{seen}: the step is ending, the job is not")
    return Stop("preempt", None, detail=f"{seen}: sent by hand")


class LocalStopFile:
    """The stop file of one node, in memory where there is such a disk: ranks stat it every step."""

    def __init__(self, name: str) -> None:
        memory = Path("/dev/shm")
        root = memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir())
        self._folder = root / f"egovl-{os.getuid()}-{name}"
        self.path = self._folder / "stop.json"

    def __enter__(self) -> LocalStopFile:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        return self

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def write(self, stop: Stop) -> None:
        """Tell the ranks of this node to stop."""
        write_json_atomic(self.path, stop.to_json())
