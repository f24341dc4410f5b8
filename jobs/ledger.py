"""`runs/.ledger.jsonl`: what was handed to a scheduler, so that no job is ever out of sight.

A line `submitting` stands there before sbatch runs, with the tag that is also the job's comment;
`submitted` or `refused` close it. A launcher that is killed in between leaves a tag open, and the
next look at the queue closes it. The line of an array names the folder of its launch in place of a
run.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs import slurm
from jobs.node import is_alive, process_start
from jobs.run_folder import RunFolder, append_line, read_json, write_json_atomic

logger = logging.getLogger(__name__)

LEDGER = ".ledger.jsonl"
# How long a submission from another machine, without a job so far, counts as under way.
SUBMITTING_SEC = 120

_TAG = "egovl-"
_LINE = re.compile(rb'^\{"tag": "([^"]+)".*"event": "([a-z]+)"', re.MULTILINE)


@dataclass(frozen=True)
class Entry:
    """One line `submitting`.

    Attributes:
        tag: the job's comment.
        time: seconds since the epoch.
        pid: of the process that submits, on `host`.
    """

    tag: str
    run: RunFolder
    executor: str
    time: float
    host: str = ""
    pid: int = 0

    @property
    def token(self) -> str:
        """What names the submission inside its run folder."""
        return self.tag.removeprefix(_TAG)

    @property
    def is_under_way(self) -> bool:
        """Whether its launcher may still be at it."""
        if self.host == socket.gethostname():
            return self.pid != os.getpid() and is_alive(self.pid, None)
        return time.time() < self.time + SUBMITTING_SEC


def comment_tag(token: str) -> str:
    """Return the comment by which the job of a submission is found in the queue."""
    return f"{_TAG}{token}"


class Ledger:
    """The ledger of one folder of runs."""

    def __init__(self, runs: Path) -> None:
        self.path = runs / LEDGER

    def submitting(self, run: RunFolder, token: str, executor: str) -> None:
        """Write down that a job is about to be handed to the scheduler."""
        self._append(run, token, executor, "submitting", host=socket.gethostname(), pid=os.getpid())

    def submitted(self, run: RunFolder, token: str, executor: str, job_id: str) -> None:
        """Write down what the scheduler calls it."""
        self._append(run, token, executor, "submitted", job_id=job_id)

    def refused(self, run: RunFolder, token: str, executor: str) -> None:
        """Write down that the scheduler did not take it."""
        self._append(run, token, executor, "refused")

    def open_submissions(self) -> list[Entry]:
        """Return the submissions of which nobody has written down how they came out.

        A line that a crash or a full disk has cut off is passed over.
        """
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            return []
        lines: dict[bytes, int] = {}
        for match in _LINE.finditer(text):
            if match[2] == b"submitting":
                lines[match[1]] = match.start()
            else:
                lines.pop(match[1], None)
        found = (_parse(text[start : text.find(b"\n", start)]) for start in lines.values())
        return [entry for entry in found if entry is not None]

    def find_event(self, token: str) -> tuple[str, str]:
        """Return the executor and the last event of a submission, empty where it has no line."""
        line = self.last_line(token)
        return str(line.get("executor", "")), str(line.get("event", ""))

    def last_line(self, token: str) -> dict[str, Any]:
        """Return the newest line about a submission; empty where there is none."""
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            return {}
        start = text.rfind(f'{{"tag": "{comment_tag(token)}"'.encode())
        try:
            return json.loads(text[start : text.find(b"\n", start)]) if start >= 0 else {}
        except ValueError:
            return {}

    def _append(self, run: RunFolder, token: str, executor: str, event: str, **facts: Any) -> None:
        line = {"tag": comment_tag(token), "run": str(run.path), "executor": executor}
        append_line(self.path, {**line, "event": event, **facts, "time": time.time()})


def _parse(line: bytes) -> Entry | None:
    try:
        values = json.loads(line)
        return Entry(
            tag=str(values["tag"]),
            run=RunFolder(Path(values["run"])),
            executor=str(values["executor"]),
            time=float(values["time"]),
            host=str(values.get("host", "")),
            pid=int(values.get("pid", 0)),
        )
    except (ValueError, KeyError, TypeError):
        return None


def adopt_found(runs: Path, found: Mapping[str, str]) -> None:
    """Record the jobs in the queue whose launcher died before it wrote them down.

    Args:
        runs: folder of the runs.
        found: comment -> job id, an array's own, of the jobs in the queue.
    """
    ledger = Ledger(runs)
    for entry in ledger.open_submissions() if found else ():
        job_id = found.get(entry.tag)
        if job_id is None or entry.is_under_way:
            continue
        if entry.run.path.is_dir():
            adopt(entry.run, entry.token, job_id)
        else:
            logger.warning("job %s belongs to %s, which is gone", job_id, entry.run.path)
            ledger.submitted(entry.run, entry.token, "slurm", job_id)


def adopt(run: RunFolder, token: str, job_id: str) -> None:
    """Record the job of one submission, and close its line."""
    record_job(run, token, job_id, "slurm")
    Ledger(run.path.parent.parent).submitted(run, token, "slurm", job_id)


def find_lost_job(run: RunFolder, token: str) -> dict[str, Any] | None:
    """Adopt the job of one submission; None if there is none.

    Raises:
        SubmitError: if it was handed to Slurm, which does not answer.
    """
    ledger = Ledger(run.path.parent.parent)
    executor, event = ledger.find_event(token)
    if executor not in ("slurm", "") or event == "refused" or not slurm.is_installed():
        return None
    if not executor and not slurm.slurm_answers():
        return None
    job_id = slurm.find_by_comment(comment_tag(token))
    if job_id is None:
        return None
    adopt(run, token, job_id)
    return read_json(run.job_json(token))


def record_job(run: RunFolder, token: str, job_id: str, executor: str) -> None:
    """Write down what the scheduler calls a submission."""
    host = socket.gethostname()
    facts: dict[str, Any] = {"job_id": job_id, "executor": executor, "host": host}
    facts["time"] = time.time()
    if executor == "slurm":
        _name_pickle(run, token, job_id)
    else:
        facts["process_start"] = process_start(int(job_id))
    write_json_atomic(run.job_json(token), facts)


def _name_pickle(run: RunFolder, token: str, job_id: str) -> None:
    """Finish what submitit does after sbatch: the job looks for its pickle under its own number.

    The text of a pickle holds the token as it is.
    """
    name = f"{job_id}_submitted.pkl"
    if (run.submission / name).exists():
        return
    for path in (*run.submission.glob("*.pkl"), *run.path.glob("chunk*/*.pkl")):
        if re.fullmatch(r"[0-9a-f]{32}", path.stem) and token.encode() in path.read_bytes():
            path.rename(path.with_name(name))
            return
