"""Work that is no training, as a run: a share of an array's task, with the same last words.

Where `jobs` started the process, the run folder gets what that expects of a rank: an exit file and
a result. By hand there is no folder, and nothing is written.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from egovl.engine.folder import (
    ATTEMPT_VARIABLE,
    RUN_DIR_VARIABLE,
    RunFolder,
    Superseded,
    write_json,
)
from egovl.engine.heartbeat import beat

logger = logging.getLogger(__name__)

EXIT_FAILED, EXIT_USAGE = 1, 2
_HOPELESS = (ValueError, FileNotFoundError)  # a second try would end the same way


@dataclass(frozen=True)
class Done:
    """What a share of work came to."""

    is_whole: bool
    """False where a stop request ended it; the next attempt goes on."""
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    inputs: Mapping[str, str] = field(default_factory=dict[str, str])
    """Hashes of what the result depends on."""


def rank_of() -> tuple[int, int]:
    """This process's rank and how many there are, as torchrun says it."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def report_progress(done: int) -> None:
    """Say that the work goes on: a rank that is silent for long counts as hung."""
    beat("step", done)


def run_work(work: Callable[[], Done]) -> int:
    """Do the work and leave its last words; returns the exit status.

    Errors of the user's making end with 2 by hand, and tell `jobs` that a retry cannot help.
    """
    folder = _folder()
    try:
        done = work()
    except (ValueError, OSError, RuntimeError) as error:
        logger.error("%s", error)
        logger.debug("raised at", exc_info=True)
        hopeless = isinstance(error, _HOPELESS)
        _leave(folder, "failed", f"{type(error).__name__}: {error}", retry=not hopeless)
        return EXIT_USAGE if hopeless and folder is None else EXIT_FAILED
    if done.is_whole and folder is not None and rank_of()[0] == 0:
        record = {"schema": 1, "step": 0, "attempt": folder.attempt}
        content = {"metrics": dict(done.metrics), "inputs": dict(done.inputs)}
        write_json(folder.result, record | content)
    _leave(folder, "done" if done.is_whole else "stopped", "")
    return 0


def _folder() -> RunFolder | None:
    path, attempt = os.environ.get(RUN_DIR_VARIABLE), os.environ.get(ATTEMPT_VARIABLE)
    return RunFolder(Path(path), int(attempt)) if path and attempt else None


def _leave(folder: RunFolder | None, state: str, message: str, *, retry: bool = True) -> None:
    if folder is None:
        return
    rank, world_size = rank_of()
    record = {"rank": rank, "world_size": world_size, "step": 0, "saved_step": None}
    try:
        folder.write_exit(rank, {"state": state, "message": message, "retry": retry, **record})
    except Superseded as error:
        logger.warning("%s", error)
