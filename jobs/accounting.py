"""How jobs ended that left the queue unseen: one `sacct` for all, seldom, and never needed.

Many sites have no accounting, or a slow one. Answers are kept beside the runs, and after a failure
it is not asked again for a while that doubles.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jobs import slurm
from jobs.errors import SubmitError
from jobs.run_folder import read_json, write_json_atomic

logger = logging.getLogger(__name__)

MEMORY = ".accounting.json"
_SCHEMA = 1
_FIRST_WAIT_SEC, _LONGEST_WAIT_SEC = 60, 3600
# A job unknown to it may still be written down; then it is asked for once more.
_UNKNOWN_SEC = 600


def find_ends(runs: Path, job_ids: Iterable[str]) -> dict[str, str]:
    """Return job id -> Slurm's word for its end, as far as the accounting can tell.

    Args:
        runs: folder of all runs, which holds what was answered before.
        job_ids: jobs that are not in the queue any more.
    """
    now = time.time()
    memory = _load(runs / MEMORY)
    known: dict[str, list[Any]] = memory["ends"]
    wanted = list(job_ids)
    fresh = [
        each
        for each in wanted
        if each not in known or (not known[each][0] and now > known[each][1] + _UNKNOWN_SEC)
    ]
    if fresh and now >= memory["not_before"]:
        _ask(memory, fresh, now)
        _save(runs / MEMORY, memory)
    return {each: known[each][0] for each in wanted if known.get(each, [""])[0]}


def _ask(memory: dict[str, Any], job_ids: list[str], now: float) -> None:
    try:
        ends = slurm.ended_jobs(job_ids)
    except SubmitError as error:
        logger.debug("no accounting: %s", error)
        wait = min(_LONGEST_WAIT_SEC, _FIRST_WAIT_SEC * 2 ** memory["failures"])
        memory["failures"] = min(memory["failures"] + 1, 10)
        memory["not_before"] = now + wait
        return
    memory["failures"], memory["not_before"] = 0, 0.0
    for job_id in job_ids:
        memory["ends"][job_id] = [ends.get(job_id, ""), now]


def _load(path: Path) -> dict[str, Any]:
    memory = read_json(path)
    if memory is None or memory.get("schema") != _SCHEMA:
        return {"schema": _SCHEMA, "ends": {}, "failures": 0, "not_before": 0.0}
    return memory


def _save(path: Path, memory: dict[str, Any]) -> None:
    try:
        write_json_atomic(path, memory)
    except OSError as error:  # somebody else's folder: it is asked again
        logger.debug("%s: %s", path, error)
