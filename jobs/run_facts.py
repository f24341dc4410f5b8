"""What the files of a run say about it: a few small reads, for a thousand runs in a blink.

Paths are spelled out here as in `jobs.run_folder`, whose objects take longer to make than a file to
read; a test holds both together.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from jobs.run_folder import RunFolder
from jobs.standing import FINAL

_TAIL_BYTES = 4096
_LARGEST = 1 << 20
_EMPTY: dict[str, Any] = {}


@dataclass(frozen=True)
class RunFacts:
    """One run as its folder shows it; whether that is still true only the scheduler knows.

    Attributes:
        kind: first folder below `runs`.
        name: the run folder's name.
        state: `state.json`; empty if there is none.
        attempt: the newest attempt that somebody has claimed; 0 if there is none.
        token: of the submission that holds it; empty where `state.json` names the job itself.
        job: what the scheduler calls that submission: job_id, executor, and a process's start.
        owner: user id of the one whose run it is.
    """

    path: str
    kind: str
    name: str
    state: dict[str, Any] = field(default_factory=dict[str, Any])
    attempt: int = 0
    token: str = ""
    job: dict[str, Any] = field(default_factory=dict[str, Any])
    owner: int = 0

    @property
    def run(self) -> RunFolder:
        """The run's folder."""
        return RunFolder(Path(self.path))

    @property
    def written(self) -> str:
        """The state that the run itself has written last; empty if none."""
        return str(self.state.get("state") or "")

    @property
    def job_id(self) -> str:
        """The scheduler's number; empty if there is none yet."""
        return str(self.job.get("job_id") or "")

    @property
    def executor(self) -> str:
        """The executor: slurm, local, debug; empty if unknown."""
        return str(self.job.get("executor") or self.state.get("executor") or "")

    @property
    def version(self) -> tuple[Any, ...]:
        """What changes when the run goes from one hand or state to another."""
        return (self.written, self.attempt, self.job_id, self.state.get("updated"))


def list_run_folders(runs: Path) -> Iterator[tuple[str, str, str]]:
    """Yield path, kind and name of everything that may be a run, in no order."""
    for kind_path, kind in _folders(str(runs)):
        for path, name in _folders(kind_path):
            yield path, kind, name


def _folders(path: str) -> list[tuple[str, str]]:
    try:
        with os.scandir(path) as entries:
            return [
                (each.path, each.name)
                for each in entries
                if not each.name.startswith(".") and each.is_dir()
            ]
    except (FileNotFoundError, NotADirectoryError):
        return []


def read_all(runs: Path) -> list[RunFacts]:
    """Return the facts of all runs below a folder, which may be absent."""
    found = (read_facts(path, kind, name) for path, kind, name in list_run_folders(runs))
    return [facts for facts in found if facts is not None]


def read_facts(path: str, kind: str, name: str) -> RunFacts | None:
    """Return the facts of one run; None if the folder is no run that was ever launched."""
    state, owner = _read_object(f"{path}/state.json")
    if not state:
        try:
            owner = os.stat(f"{path}/run.json").st_uid
        except OSError:
            return None
    attempt: Any = state.get("attempt")
    # a process has a start beside its number, which stands with the submission only
    is_enough = state.get("executor") == "slurm" or state.get("state") in FINAL
    names_job = state.get("job_id") and is_enough and isinstance(attempt, int)
    if names_job and not os.path.exists(f"{path}/attempts/{attempt + 1}/claim.json"):
        return RunFacts(path, kind, name, state, attempt, "", state, owner)
    attempt, claim = _read_newest_claim(path)
    token = str(claim.get("token") or "")
    job = _read_object(f"{path}/submission/{token}.json")[0] if token else _EMPTY
    return RunFacts(path, kind, name, state, attempt, token, job, owner)


def _read_newest_claim(path: str) -> tuple[int, dict[str, Any]]:
    try:
        names = os.listdir(f"{path}/attempts")
    except OSError:
        return 0, _EMPTY
    for number in sorted((int(name) for name in names if name.isdecimal()), reverse=True):
        claim, _ = _read_object(f"{path}/attempts/{number}/claim.json")
        if claim:
            return number, claim
    return 0, _EMPTY


def _read_object(path: str) -> tuple[dict[str, Any], int]:
    """Return the object in a file and the file's owner; empty if it is missing or not whole."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return {}, 0
    try:
        owner = os.fstat(handle).st_uid
        data = json.loads(os.read(handle, _LARGEST).decode())
    except (OSError, ValueError):
        return {}, 0
    finally:
        os.close(handle)
    return (cast("dict[str, Any]", data), owner) if isinstance(data, dict) else ({}, 0)


def read_cause(path: str, attempt: int) -> tuple[str, str]:
    """Return why an attempt ended, as a cause and in words; empty if it did not say."""
    outcome, _ = _read_object(f"{path}/attempts/{attempt}/outcome.json")
    return str(outcome.get("cause") or ""), str(outcome.get("reason") or "")


def read_last_step(path: str) -> dict[str, Any]:
    """Return the newest line about a training step in a run's `metrics.jsonl`; empty if none."""
    try:
        handle = os.open(f"{path}/metrics.jsonl", os.O_RDONLY)
    except OSError:
        return {}
    try:
        size = os.fstat(handle).st_size
        start = max(0, size - _TAIL_BYTES)
        text = os.pread(handle, _TAIL_BYTES, start)
    except OSError:
        return {}
    finally:
        os.close(handle)
    lines = text[: text.rfind(b"\n") + 1].decode(errors="replace").splitlines()
    for line in reversed(lines if start == 0 else lines[1:]):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and cast(Any, record).get("kind") == "train":
            return cast("dict[str, Any]", record)
    return {}
