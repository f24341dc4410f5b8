"""What a run says while it runs: metrics.jsonl, TensorBoard, a progress bar; rank 0 only."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from egovl.engine.folder import RunFolder

logger = logging.getLogger(__name__)


class RunLog:
    """Appends to ``metrics.jsonl`` (one object a line, keys stable) and mirrors it in TensorBoard.

    After a hard kill steps may stand twice; readers take the highest attempt of a step.
    TensorBoard is told to purge what an earlier attempt wrote beyond ``start_step``.
    """

    def __init__(self, folder: RunFolder, start_step: int) -> None:
        self._folder = folder
        folder.path.mkdir(parents=True, exist_ok=True)
        close_half_line(folder)
        self._file: TextIO = open(folder.metrics, "a")  # noqa: SIM115 - open as long as the run
        self._board = SummaryWriter(str(folder.tensorboard), purge_step=start_step + 1)

    def train(self, records: list[dict[str, Any]]) -> None:
        """Write one line a step; each record has ``step`` and its scalars."""
        self._write([{"kind": "train", **record} for record in records])
        for record in records:
            for name, value in record.items():
                if name not in ("step", "steps", "sec_left"):
                    self._board.add_scalar(f"train/{name}", value, record["step"])

    def evaluation(self, step: int, name: str, metrics: Mapping[str, float]) -> None:
        """Write the metrics of one evaluation."""
        self._write([{"kind": "eval", "step": step, "name": name, "metrics": dict(metrics)}])
        for key, value in metrics.items():
            self._board.add_scalar(f"eval/{name}/{key}", value, step)
        self._board.flush()

    def _write(self, records: list[dict[str, Any]]) -> None:
        self._folder.require_current()
        stamp = {"attempt": self._folder.attempt, "time": round(time.time(), 3)}
        self._file.write("".join(json.dumps(record | stamp) + "\n" for record in records))
        self._file.flush()

    def close(self) -> None:
        """Flush both files."""
        self._file.close()
        self._board.close()


def close_half_line(folder: RunFolder) -> None:
    """End a line that a killed writer left half, so that the next one stays readable."""
    if folder.metrics.exists() and folder.metrics.stat().st_size:
        with open(folder.metrics, "rb+") as file:
            file.seek(-1, 2)
            if file.read(1) != b"\n":
                file.write(b"\n")


def evaluated_names(folder: RunFolder, step: int) -> set[str]:
    """Names of the evaluations that stand in ``metrics.jsonl`` for a step."""
    if not folder.metrics.exists():
        return set()
    found: set[str] = set()
    with open(folder.metrics) as lines:
        for line in lines:
            if '"eval"' not in line:
                continue
            try:
                record = json.loads(line)
            except ValueError:
                continue  # a half line of a killed writer
            if record.get("step") == step:
                found.add(record["name"])
    return found


class Progress:
    """A bar on a terminal; elsewhere a line every ``every_sec``: step, loss, clips/s, time left."""

    def __init__(self, total: int, start: int, what: str, every_sec: float = 20.0) -> None:
        self._what, self._total, self._done, self._start = what, total, start, start
        self._every_sec = every_sec
        self._began = self._shown = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=total, initial=start, desc=what, unit="step", dynamic_ncols=True)

    def update(self, steps: int, **shown: float) -> None:
        """Advance; ``shown`` are the latest scalars."""
        self._done += steps
        texts = {k: f"{v:.4g}" for k, v in shown.items()}
        if self._bar is not None:
            self._bar.set_postfix(texts, refresh=False)
            self._bar.update(steps)
            return
        now = time.monotonic()
        if now - self._shown >= self._every_sec or self._done == self._total:
            self._shown = now
            pace = (now - self._began) / max(self._done - self._start, 1)
            left = tqdm.format_interval(pace * (self._total - self._done))
            words = " ".join(f"{k} {v}" for k, v in texts.items())
            logger.info("%s %d/%d  %s  %s left", self._what, self._done, self._total, words, left)

    def close(self) -> None:
        """Leave the last state on the screen."""
        if self._bar is not None:
            self._bar.close()
