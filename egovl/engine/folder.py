"""The run folder as egovl writes it; ``jobs`` reads the same names, a test compares them.

::

    <run>/config.yaml model.json result.json best.json metrics.jsonl tb/ ckpt/step-<k>/...COMMIT
    <run>/attempts/<n>/claim.json exit/<rank>.json
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from egovl.atomic import replacing

RUN_DIR_VARIABLE = "EGOVL_RUN_DIR"
ATTEMPT_VARIABLE = "EGOVL_ATTEMPT"


class Superseded(Exception):
    """A newer attempt holds the run: this process may write nothing more."""


class RunFolder:
    """Paths of one attempt of a run, with atomic writes and the fence between attempts."""

    def __init__(self, path: Path, attempt: int) -> None:
        self.path = path
        self.attempt = attempt
        self._fence = self.attempt_dir(attempt + 1) / "claim.json"

    @property
    def config(self) -> Path:
        """The resolved recipe."""
        return self.path / "config.yaml"

    @property
    def result(self) -> Path:
        """Written by rename when the run is done."""
        return self.path / "result.json"

    @property
    def model(self) -> Path:
        """Size of the model: parameters, forward FLOPs of one sample."""
        return self.path / "model.json"

    @property
    def best(self) -> Path:
        """Step, metric and value of the best checkpoint, where a metric is watched."""
        return self.path / "best.json"

    @property
    def metrics(self) -> Path:
        """Append-only, one json object a line."""
        return self.path / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        """Event files."""
        return self.path / "tb"

    @property
    def checkpoints(self) -> Path:
        """Parent of ``step-<k>``."""
        return self.path / "ckpt"

    def attempt_dir(self, attempt: int) -> Path:
        """Folder of one attempt."""
        return self.path / "attempts" / str(attempt)

    def exit_file(self, rank: int) -> Path:
        """Where a rank says how it ended."""
        return self.attempt_dir(self.attempt) / "exit" / f"{rank}.json"

    def require_current(self) -> None:
        """Raise ``Superseded`` when a newer attempt holds the claim: ranks outlive a slurmd."""
        if os.path.exists(self._fence):
            raise Superseded(
                f"{self.path}: attempt {self.attempt + 1} holds this run, "
                f"so attempt {self.attempt} writes nothing more"
            )

    def write_exit(self, rank: int, record: Mapping[str, Any]) -> None:
        """Write a rank's verdict; a superseded rank leaves none."""
        self.require_current()
        write_json(self.exit_file(rank), record)


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write beside, flush to disk, rename: readers see the old file or the new one, no part."""
    write_text(path, json.dumps(record, indent=1, sort_keys=True) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replace a text file atomically; parents are made."""
    with replacing(path) as file:
        file.write(text)


def next_attempt(path: Path) -> int:
    """The number that a run started by hand takes: one more than any attempt before it."""
    folders = (path / "attempts").glob("[0-9]*")
    return 1 + max((int(f.name) for f in folders if f.name.isdigit()), default=0)
