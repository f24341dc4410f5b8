"""Stay beside a run and show how it goes, until it ends."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

from jobs.run_folder import RunFolder
from jobs.standing import FINAL, find_standing

POLL_SEC = 1.0
TRAIN_SEC = 5.0  # between two lines about training steps
STANDING_SEC = 30.0  # between looks at whether anybody is still at work


def follow(run: RunFolder, poll_sec: float = POLL_SEC) -> int:
    """Print states and metrics as they come; Ctrl-C leaves the run alone.

    Returns:
        0 if the run is done, 1 if it ended otherwise, 130 if the reader left.
    """
    try:
        return _follow(run, poll_sec)
    except KeyboardInterrupt:
        print(f"\nthe run goes on; follow it again with: python -m jobs follow {run.path}")
        return 130


def _follow(run: RunFolder, poll_sec: float) -> int:
    shown: tuple[Any, ...] = ()
    metrics = _new_lines(run)
    look_at = time.time() + STANDING_SEC
    thinned = _Thinned()
    while True:
        state = run.read_state()
        is_over = state.get("state") in FINAL
        for line in thinned.take(next(metrics), is_over):
            print(describe_metrics(line), flush=True)
        now = (state.get("state"), state.get("attempt"), state.get("cause"))
        if now != shown and now[0] is not None:
            shown = now
            print(describe_state(state), flush=True)
        if is_over:
            return 0 if state["state"] == "done" else 1
        if time.time() >= look_at:
            look_at = time.time() + STANDING_SEC
            standing = find_standing(run)
            if standing.state == "idle":
                print(f"lost: {standing.message}; launch it again to resume", file=sys.stderr)
                return 1
        time.sleep(poll_sec)


class _Thinned:
    """All lines but those of training steps, of which the newest is shown every few seconds."""

    def __init__(self) -> None:
        self._due = 0.0
        self._waiting: dict[str, Any] | None = None

    def take(self, lines: list[dict[str, Any]], is_over: bool) -> list[dict[str, Any]]:
        """Return what to show now; at a run's end nothing is held back."""
        shown: list[dict[str, Any]] = []
        for line in lines:
            if line.get("kind") == "train":
                self._waiting = line
                continue
            shown += self._release(is_over or line.get("kind") == "eval")
            shown.append(line)
        return shown + self._release(is_over or time.time() >= self._due)

    def _release(self, is_due: bool) -> list[dict[str, Any]]:
        if self._waiting is None or not is_due:
            return []
        line, self._waiting = self._waiting, None
        self._due = time.time() + TRAIN_SEC
        return [line]


def _new_lines(run: RunFolder) -> Iterator[list[dict[str, Any]]]:
    """Yield, each time, the whole lines that `metrics.jsonl` got since the last time."""
    offset = 0
    while True:
        lines: list[dict[str, Any]] = []
        if run.metrics_jsonl.exists():
            with run.metrics_jsonl.open("rb") as file:
                file.seek(offset)
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            offset += len(whole)
            lines = [json.loads(line) for line in whole.splitlines() if line.strip()]
        yield lines


def describe_state(state: dict[str, Any]) -> str:
    """Return a run's state as one line."""
    parts = [str(state["state"])]
    if state.get("attempt"):
        parts.append(f"attempt {state['attempt']}")
    if state.get("cause") not in (None, state["state"]):
        parts.append(f"cause {state['cause']}")
    if state.get("job_id"):
        parts.append(f"job {state['job_id']}")
    if state.get("reason"):
        parts.append(str(state["reason"]))
    return "[" + ", ".join(parts) + "]"


def describe_metrics(line: dict[str, Any]) -> str:
    """Return one line of `metrics.jsonl` for people; times are those the trainer expects."""
    hidden = ("kind", "step", "steps", "attempt", "time", "name", "metrics", "samples", "sec_left")
    values = {**{k: v for k, v in line.items() if k not in hidden}, **line.get("metrics", {})}
    shown = "  ".join(f"{name} {_number(value)}" for name, value in values.items())
    step = f"{line.get('step')}/{line['steps']}" if "steps" in line else line.get("step")
    if "sec_left" in line:
        minutes, seconds = divmod(round(line["sec_left"]), 60)
        shown += f"  {minutes}:{seconds:02d} left"
    return f"{line.get('name') or line.get('kind')}  step {step}  {shown}"


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
