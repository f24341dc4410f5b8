"""Every path of a run, and the only ways its files are written.

A run folder is the contract between jobs and what it runs: both sides spell the same names.

    run.json  state.json                        jobs: immutable facts; the present state
    config.yaml  result.json  metrics.jsonl     the trained program
    ckpt/step-<k>/...COMMIT                     the trained program; whole once it has COMMIT
    attempts/<n>/claim.json                     who holds attempt n; a newer one fences an older one
    attempts/<n>/start.json                     which job runs it: the first that its claim let in
    attempts/<n>/stop.json rdzv.json outcome.json nodes/<k>.json exit/<rank>.json logs/
    attempts/<n>/preflight/<k>.json             what was checked on node k, with seconds;
                                                rank.<r>.json: what rank r found
    attempts/<n>/stacks/<rank>.txt              where each rank stood when one of them hung
    submission/<token>.json                     what the scheduler calls a submission; .spec.json,
                                                what it runs; .sbatch.json, how it is submitted
    children/<kind>.<name>.json                 a run that waits for this one

Files are written beside and renamed, or linked where exactly one writer may win, so a reader sees
a whole file or none. Readers get None for a missing or broken file.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from jobs.errors import RunError

# Hard links do not exist on these answers; the file is then created in place with O_EXCL.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


def write_json_atomic(path: Path, data: Mapping[str, Any]) -> None:
    """Replace `path` by `data`: written beside, synced, renamed."""
    beside = _write_beside(path, data)
    os.replace(beside, path)
    _sync_folder(path.parent)


def create_json(path: Path, data: Mapping[str, Any]) -> bool:
    """Write `data` to `path` unless it exists; of several writers exactly one gets True."""
    beside = _write_beside(path, data)
    try:
        os.link(beside, path)
    except FileExistsError:
        # a network disk may lose the reply of a link that it made
        return beside.stat().st_nlink == 2
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _create_in_place(path, data)
    finally:
        beside.unlink(missing_ok=True)
    _sync_folder(path.parent)
    return True


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in a json file; None if there is no such file or it is not whole."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return cast("dict[str, Any]", data) if isinstance(data, dict) else None


def append_line(path: Path, data: Mapping[str, Any]) -> None:
    """Add one json line in a single write, so that lines of several processes do not mix.

    A last line that a crash has cut off is ended first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(handle).st_size
        is_torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
        os.write(handle, ("\n" * is_torn + json.dumps(data) + "\n").encode())
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_beside(path: Path, data: Mapping[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.urandom(16).hex()}")
    try:
        _create_in_place(beside, data)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    return beside


def _create_in_place(path: Path, data: Mapping[str, Any]) -> bool:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(data, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(handle)
    return True


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network disks cannot sync a folder
            raise
    finally:
        os.close(handle)


@dataclass(frozen=True)
class Holder:
    """Who holds an attempt: the submission's token and Slurm's restart count (0 the first time)."""

    token: str
    restart: int


class AttemptFolder:
    """Paths of one attempt, `attempts/<number>`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number = int(path.name)
        self.claim_json = path / "claim.json"
        self.start_json = path / "start.json"
        self.stop_json = path / "stop.json"
        self.rendezvous_json = path / "rdzv.json"
        self.outcome_json = path / "outcome.json"
        self.logs = path / "logs"
        self.exits = path / "exit"
        self.nodes = path / "nodes"
        self.preflight = path / "preflight"
        self.stacks = path / "stacks"

    def exit_json(self, rank: int) -> Path:
        """What a rank wrote as it left."""
        return self.exits / f"{rank}.json"

    def node_json(self, node: int) -> Path:
        """What the agent of a node says about itself."""
        return self.nodes / f"{node}.json"

    def preflight_json(self, node: int) -> Path:
        """What was checked on a node before it trained."""
        return self.preflight / f"{node}.json"

    def rank_preflight_json(self, rank: int | str) -> Path:
        """What a rank has found out about its node before it began."""
        return self.preflight / f"rank.{rank}.json"

    def stack_text(self, rank: int) -> Path:
        """Where a rank stood when it, or another, hung."""
        return self.stacks / f"{rank}.txt"

    def rank_log(self, node: int, local_rank: int) -> Path:
        """Output of one rank."""
        return self.logs / f"{node}.{local_rank}.log"

    def torchrun_log(self, node: int) -> Path:
        """Output of torchrun itself on one node."""
        return self.logs / f"{node}.torchrun.log"

    @property
    def main_log(self) -> Path:
        """Link to the log of rank 0, which may be on any node."""
        return self.logs / "rank0.log"

    @property
    def holder(self) -> Holder | None:
        """Who holds this attempt; None if its claim is missing or broken."""
        claim = read_json(self.claim_json)
        if claim is None:
            return None
        return Holder(str(claim.get("token", "")), int(claim.get("restart", 0)))


class RunFolder:
    """Paths of one run, and the claims on its attempts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run_json = path / "run.json"
        self.state_json = path / "state.json"
        self.config_yaml = path / "config.yaml"
        self.result_json = path / "result.json"
        self.metrics_jsonl = path / "metrics.jsonl"
        self.tensorboard = path / "tb"
        self.checkpoints = path / "ckpt"
        self.attempts = path / "attempts"
        self.provenance = path / "provenance"
        self.submission = path / "submission"
        self.children = path / "children"

    def job_json(self, token: str) -> Path:
        """What the scheduler calls the submission with this token."""
        return self.submission / f"{token}.json"

    def spec_json(self, token: str) -> Path:
        """What the submission with this token runs; a later one may have other resources."""
        return self.submission / f"{token}.spec.json"

    def sbatch_json(self, token: str) -> Path:
        """How the submission with this token was submitted: submitit's parameters."""
        return self.submission / f"{token}.sbatch.json"

    def cluster_json(self, token: str) -> Path:
        """The cluster profile with which the submission with this token was made."""
        return self.submission / f"{token}.cluster.json"

    def attempt(self, number: int) -> AttemptFolder:
        """Return the folder of attempt `number`, counted from 1."""
        return AttemptFolder(self.attempts / str(number))

    def attempt_numbers(self) -> list[int]:
        """Return the numbers of all attempts that somebody has claimed, ascending."""
        numbers = [int(name) for name in _names(self.attempts) if name.isdecimal()]
        return sorted(number for number in numbers if self.attempt(number).claim_json.exists())

    def latest_attempt(self) -> int:
        """Return the newest claimed attempt; 0 if there is none."""
        return max(self.attempt_numbers(), default=0)

    def claim_attempt(
        self, number: int, token: str, restart: int, by: str = "", after: str = ""
    ) -> bool:
        """Take attempt `number` for a holder; False if it is taken already.

        Args:
            number: the attempt, counted from 1.
            token: of the submission that will run it.
            restart: Slurm's restart count of the execution that will run it.
            by: what took it, for people who read the file.
            after: the job that is to submit it, and whose end it then waits for.
        """
        claim = {
            "token": token,
            "restart": restart,
            "by": by,
            "after": after,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "time": time.time(),
            "commit": self.last_commit_step(),
        }
        return create_json(self.attempt(number).claim_json, claim)

    def find_claim(self, token: str, restart: int) -> int | None:
        """Return the attempt that this holder has; None if it has none."""
        wanted = Holder(token, restart)
        for number in reversed(self.attempt_numbers()):
            if self.attempt(number).holder == wanted:
                return number
        return None

    def last_commit_step(self) -> int | None:
        """Return the newest step whose checkpoint is complete, read from the COMMIT marks."""
        steps = [
            step
            for name in _names(self.checkpoints)
            if name.startswith("step-")
            and (step := _commit_step(self.checkpoints / name / "COMMIT")) is not None
        ]
        return max(steps, default=None)

    def read_facts(self) -> dict[str, Any]:
        """Return `run.json`: what was launched, from where.

        Raises:
            RunError: if it is not there.
        """
        facts = read_json(self.run_json)
        if facts is None:
            raise RunError(f"{self.path} is not a run folder: it has no whole run.json")
        return facts

    def read_state(self) -> dict[str, Any]:
        """Return `state.json`; empty if there is none."""
        return read_json(self.state_json) or {}

    def write_state(self, state: str, **facts: Any) -> None:
        """Replace `state.json`.

        Args:
            state: waiting (for other runs), queued, running, stopped, done, failed or cancelled.
            facts: attempt, job_id, executor, cause, reason: what explains the state.
        """
        now = {"state": state, "step": self.last_commit_step(), "updated": time.time()}
        write_json_atomic(self.state_json, {**now, **facts})


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _commit_step(mark: Path) -> int | None:
    step = (read_json(mark) or {}).get("step")
    return step if isinstance(step, int) else None
