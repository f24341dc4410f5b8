"""Array members that have not begun: each makes its run folder as it starts, so has no row yet."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.array import ArrayFolder, array_of_token, list_launches
from jobs.controller import controller_pid
from jobs.ledger import comment_tag
from jobs.queue_view import Queue
from jobs.run_folder import read_json


@dataclass(frozen=True)
class WaitingArray:
    """The members of one launch that have not begun.

    Attributes:
        path: the array's folder.
        kind: of its runs.
        members: how many there are.
        waiting: how many of them have not begun.
        executor: slurm or local.
        jobs: what will start them: Slurm's arrays, or the local controller's process id; empty if
            nobody will.
    """

    path: Path
    kind: str
    members: int
    waiting: int
    executor: str
    jobs: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return every field, by name."""
        return {**vars(self), "path": str(self.path), "jobs": list(self.jobs)}

    def describe(self) -> str:
        """Return one line for people."""
        what = f"array {self.path.name[:8]} ({self.kind}): {self.waiting} of {self.members}"
        if not self.jobs:
            again = "the same launch again queues them"
            return f"{what} members have not begun and nobody will start them: {again}"
        noun = "process" if self.executor != "slurm" else "job"
        return f"{what} members have not begun, {noun} {', '.join(self.jobs)}"


def find_waiting(runs: Path) -> list[WaitingArray]:
    """Return the arrays with members that have not begun; who starts them is not known yet.

    A member that a later launch has queued again is that one's.
    """
    there: dict[str, set[str]] = {}
    found: list[WaitingArray] = []
    for array, shared, members in list_launches(runs):
        kind, executor = str(shared["facts"]["kind"]), str(shared["executor"])
        if kind not in there:
            there[kind] = set(os.listdir(runs / kind)) if (runs / kind).is_dir() else set()
        waiting = {member.folder for member in members} - there[kind]
        if waiting:
            found.append(WaitingArray(array.path, kind, len(members), len(waiting), executor))
        there[kind] |= waiting
    return found


def starters(array: WaitingArray, queue: Queue) -> tuple[str, ...]:
    """Return what will start an array's members."""
    if array.executor != "slurm":
        pid = controller_pid(read_json(ArrayFolder(array.path).controller_json) or {})
        return () if pid is None else (str(pid),)
    tag, ids = comment_tag(""), set[str]()
    for job in queue.by_id.values():
        token = job.comment.removeprefix(tag)
        if job.state != "PENDING" or token == job.comment or len(token) != 32:
            continue
        if array_of_token(array.path.parent.parent, token)[0].path.name == array.path.name:
            ids.add(job.job_id.partition("_")[0])
    return tuple(sorted(ids, key=int))
