"""Run folders as launches, agents and ranks leave them, for the tests of what looks at runs."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.ledger import comment_tag
from jobs.run_folder import RunFolder, write_json_atomic
from jobs.slurm import QueuedJob


def make_launched(
    runs: Path,
    name: str,
    state: str = "running",
    job_id: str = "",
    attempts: int = 1,
    age_sec: float = 60.0,
    executor: str = "slurm",
    **facts: Any,
) -> RunFolder:
    """Write `<runs>/<name>`, name being `kind/name`: claims, the job's note, state.json."""
    folder = RunFolder(runs / name)
    folder.attempts.mkdir(parents=True)
    write(folder.run_json, {"schema": 1, "kind": folder.path.parent.name, "spec": {}})
    for number in range(1, attempts + 1):
        claim = {"token": token_of(name), "restart": number - 1, "host": socket.gethostname()}
        write(folder.attempt(number).claim_json, {**claim, "pid": 0, "time": time.time() - age_sec})
    if job_id:
        job = {"job_id": job_id, "executor": executor, "host": socket.gethostname()}
        write(folder.job_json(token_of(name)), job)
    told = {"state": state, "step": None, "updated": time.time() - age_sec, "executor": executor}
    if job_id:
        told["job_id"] = job_id
    write(folder.state_json, {**told, "attempt": attempts, **facts})
    return folder


def token_of(name: str) -> str:
    return name.replace("/", "-")


def write(path: Path, data: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))


def commit(folder: RunFolder, step: int) -> None:
    write(folder.checkpoints / f"step-{step}" / "COMMIT", {"step": step})


def train_lines(
    folder: RunFolder, steps: Sequence[int], attempt: int = 1, at: float = 0.0, of: int = 5000
) -> None:
    """Append a line for each step; `at` is the time of the first, a second each."""
    with folder.metrics_jsonl.open("a") as file:
        for number, step in enumerate(steps):
            line = {"kind": "train", "step": step, "loss": 1 / step, "clips_per_sec": 850.0}
            more = {"steps": of, "sec_left": float(of - step), "time": at + number}
            file.write(json.dumps({**line, **more, "attempt": attempt}) + "\n")


def conclude(folder: RunFolder, number: int, cause: str, **facts: Any) -> None:
    outcome = {"state": "queued", "cause": cause, "reason": "", **facts}
    write_json_atomic(folder.attempt(number).outcome_json, outcome)


def queued_job(job_id: str, state: str, reason: str = "None", **facts: Any) -> QueuedJob:
    values = {"start": None, "nodes": "", "partition": "a100", "comment": "", **facts}
    return QueuedJob(job_id, job_id, state, reason, **values)


def tag(name: str) -> str:
    return comment_tag(token_of(name))


def without_slurm(folder: Path) -> dict[str, str]:
    """Environment of a machine without Slurm's programs."""
    return {**os.environ, "PATH": str(folder)}
