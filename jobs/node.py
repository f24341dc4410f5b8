"""What a node agent knows about its place in the job, read from the environment."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class NodeFacts:
    """One node of a job.

    Attributes:
        index: 0 is the node whose agent decides.
        count: nodes of the job.
        name: as the scheduler calls it.
        executor: slurm, local or debug.
        job_id: of the scheduler, `<array>_<i>` for an array's member; the controller's process id
            locally.
        restart: how often the scheduler has restarted the job.
        node_list: Slurm's compressed list of the job's nodes; empty elsewhere.
    """

    index: int = 0
    count: int = 1
    name: str = "localhost"
    executor: str = "debug"
    job_id: str = ""
    restart: int = 0
    node_list: str = ""


def read_node_facts(environ: Mapping[str, str]) -> NodeFacts:
    """Return this process's place; without a scheduler it is the only node."""
    executor = environ.get("SUBMITIT_EXECUTOR", "debug")
    if executor != "slurm":
        job_id = environ.get("SUBMITIT_LOCAL_JOB_ID", "") if executor == "local" else ""
        return NodeFacts(
            name=socket.gethostname(), executor=executor, job_id=job_id or str(os.getpid())
        )
    return NodeFacts(
        index=int(environ.get("SLURM_NODEID", "0")),
        count=int(environ.get("SLURM_JOB_NUM_NODES", "1")),
        name=environ.get("SLURMD_NODENAME", socket.gethostname()),
        executor="slurm",
        job_id=slurm_job_id(environ),
        restart=int(environ.get("SLURM_RESTART_COUNT", "0")),
        node_list=environ.get("SLURM_JOB_NODELIST", ""),
    )


def slurm_job_id(environ: Mapping[str, str]) -> str:
    """Return the id that means this job and no other.

    The last member of an array to start gets the array's own number as its SLURM_JOB_ID: to cancel
    or requeue that would hit every member.
    """
    array, member = environ.get("SLURM_ARRAY_JOB_ID"), environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{member}" if array and member else environ["SLURM_JOB_ID"]


def process_start(pid: int) -> int | None:
    """Return when a process of this machine started, in clock ticks since boot; None if gone.

    With the number it names a process: numbers are used again, pairs are not.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # the name may hold blanks and brackets; the fields after its last bracket start with the state
    fields = text.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])


def is_alive(pid: int, started: int | None) -> bool:
    """Return whether the process that started at `started` still runs on this machine."""
    now = process_start(pid)
    return now is not None and (started is None or now == started)


def descendants(pid: int) -> list[int]:
    """Return the processes below `pid`, children before grandchildren."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdecimal():
            continue
        try:
            text = Path(f"/proc/{entry}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        parent = int(text.rpartition(")")[2].split()[1])
        children.setdefault(parent, []).append(int(entry))
    found: list[int] = []
    level = [pid]
    while level:
        level = [child for parent in level for child in children.get(parent, [])]
        found += level
    return found
