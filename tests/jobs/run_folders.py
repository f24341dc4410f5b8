"""Run folders as jobs and egovl leave them, for the tests of what reads them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def train_line(
    step: int, loss: float, attempt: int = 1, time: float | None = None
) -> dict[str, Any]:
    return {
        "kind": "train",
        "step": step,
        "attempt": attempt,
        "time": 1.7e9 + step if time is None else time,
        "loss": loss,
        "lr": 3e-5,
        "clips_per_sec": 100.0,
    }


def eval_line(step: int, inter: float, intra: float, attempt: int = 1) -> dict[str, Any]:
    return {
        "kind": "eval",
        "step": step,
        "attempt": attempt,
        "time": 1.7e9 + step,
        "name": "egomcq",
        "metrics": {"inter_video": inter, "intra_video": intra},
    }


def make_run(
    runs: Path,
    run: str,
    lines: Sequence[dict[str, Any]] = (),
    state: dict[str, Any] | None = None,
    metrics: dict[str, float] | None = None,
    commits: Sequence[int] = (),
    config: str | None = None,
    arguments: Sequence[str] = (),
) -> Path:
    """Write `<runs>/<run>`, run being `<kind>/<name>`; `metrics` makes it a finished run."""
    folder = runs / run
    (folder / "attempts/1").mkdir(parents=True)
    facts = {"schema": 1, "spec": {"arguments": list(arguments)}}
    (folder / "run.json").write_text(json.dumps(facts))
    if config is not None:
        (folder / "config.yaml").write_text(config)
    if lines:
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "metrics.jsonl").write_text(text)
    if state is not None:
        (folder / "state.json").write_text(json.dumps(state))
    if metrics is not None:
        last = lines[-1]["step"] if lines else 0
        result = {"schema": 1, "step": last, "attempt": 1, "seconds": 3600, "metrics": metrics}
        (folder / "result.json").write_text(json.dumps({**result, "train_loss": 0.5}))
    for step in commits:
        (folder / f"ckpt/step-{step}").mkdir(parents=True)
        (folder / f"ckpt/step-{step}/COMMIT").write_text(json.dumps({"step": step}))
    return folder
