"""Stay beside a run and show how it goes, over all its attempts and jobs, until it ends."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any, cast

from jobs.log_tail import LogTail
from jobs.run_folder import RunFolder
from jobs.standing import FINAL
from jobs.status import RunStatus, StatusReader
from jobs.status_table import format_clock

POLL_SEC = 1.0
TRAIN_SEC = 5.0  # between two lines about training steps, and after a line of the log
# A run that goes on is looked for in the queue soon: its job may be held back.
LOOK_AFTER_STOP_SEC = 5.0
# What is shown of the metrics that were there before.
_BACKLOG_BYTES = 65536


def follow(
    run: RunFolder, poll_sec: float = POLL_SEC, *, all_ranks: bool = False, as_json: bool = False
) -> int:
    """Show logs, metrics and states as they come; Ctrl-C leaves the run alone.

    Files are looked at every `poll_sec`, Slurm at most twice a minute.

    Args:
        run: the run.
        poll_sec: between looks at its files.
        all_ranks: show every rank's log, each line led by its rank; otherwise rank 0's.
        as_json: one object a line, told apart by `event`: state, queue, log, metrics, end.

    Returns:
        0 if the run is done, 1 if it ended otherwise or was lost, 130 if the reader left.
    """
    show = _ShowJson() if as_json else _ShowText(all_ranks)
    try:
        return _Follower(run, show, all_ranks).stay(poll_sec)
    except KeyboardInterrupt:
        print(
            f"\nthe run goes on; follow it again with: python -m jobs follow {run.path}",
            file=sys.stderr if as_json else sys.stdout,
        )
        return 130


class _Follower:
    """One run, and what has been shown of it."""

    def __init__(self, run: RunFolder, show: _ShowText, all_ranks: bool) -> None:
        self._run = run
        self._show = show
        self._reader = StatusReader(run.path.parent.parent)
        self._logs = LogTail(run, all_ranks=all_ranks)
        self._metrics = _new_lines(run)
        self._thinned = _Thinned()
        self._state: tuple[Any, ...] = ()
        self._queued: tuple[Any, ...] = ()

    def stay(self, poll_sec: float) -> int:
        """Show what comes until the run ends; returns the exit code."""
        while True:
            row = self._reader.read_one(self._run.path)
            state = self._run.read_state()
            if row is None:
                self._show.end(f"{self._run.path} is gone", "lost", 1)
                return 1
            is_over = row.state in (*FINAL, "lost")
            self._show_output(is_over)
            self._show_state(row, state)
            if is_over:
                code = 0 if row.state == "done" else 1
                self._show.end(self._last_words(row, state), row.state, code)
                return code
            self._reader.lift_wait(row)
            time.sleep(poll_sec)

    def _show_output(self, is_over: bool) -> None:
        lines = self._logs.lines(self._run.latest_attempt(), is_over=is_over)
        for line in lines:
            self._show.log(line.attempt, line.rank, line.text)
        if lines:
            self._thinned.wait()
        for record in self._thinned.take(next(self._metrics), is_over):
            self._show.metrics(record)

    def _show_state(self, row: RunStatus, state: dict[str, Any]) -> None:
        now = tuple(state.get(name) for name in ("state", "attempt", "cause", "job_id"))
        if now != self._state and now[0] is not None:
            self._state = now
            self._show.state(state)
            if row.state == "queued":
                self._reader.look_soon(LOOK_AFTER_STOP_SEC)
        queued = (row.state == "unknown", row.pending, round((row.starts or 0) / 60))
        if queued != self._queued:
            self._queued = queued
            if row.pending or row.state == "unknown":
                self._show.queue(row)

    def _last_words(self, row: RunStatus, state: dict[str, Any]) -> str:
        """Return what the state, which was shown, does not say: an end that nobody wrote down."""
        words: list[str] = []
        if row.state != state.get("state"):
            words.append(f"{row.state}: {row.reason or row.cause}")
        if row.state == "lost":
            words.append(f"go on with: python -m jobs resume {row.name}")
        if row.state in ("failed", "lost"):
            logs = self._run.attempt(max(1, self._run.latest_attempt())).logs
            words.append(f"logs: {logs}")
        return "\n".join(words)


class _ShowText:
    """Prints for people."""

    def __init__(self, all_ranks: bool = False) -> None:
        self._all_ranks = all_ranks

    def log(self, attempt: int, rank: int, text: str) -> None:
        """Show a line of a rank's log."""
        print(f"[{rank}] {text}" if self._all_ranks else text, flush=True)

    def metrics(self, record: dict[str, Any]) -> None:
        """Show a line of `metrics.jsonl`."""
        print(describe_metrics(record), flush=True)

    def state(self, state: dict[str, Any]) -> None:
        """Show a new state."""
        print(describe_state(state), flush=True)

    def queue(self, row: RunStatus) -> None:
        """Show why the job waits."""
        print(f"[{_describe_queue(row)}]", flush=True)

    def end(self, words: str, state: str, code: int) -> None:
        """Show what is left to say at the end."""
        if words:
            print(words, file=sys.stderr, flush=True)


class _ShowJson(_ShowText):
    """Prints one json object a line."""

    def log(self, attempt: int, rank: int, text: str) -> None:
        self._print("log", {"attempt": attempt, "rank": rank, "text": text})

    def metrics(self, record: dict[str, Any]) -> None:
        self._print("metrics", record)

    def state(self, state: dict[str, Any]) -> None:
        self._print("state", state)

    def queue(self, row: RunStatus) -> None:
        facts = {"state": row.state, "job_id": row.job_id, "pending": row.pending}
        self._print("queue", {**facts, "starts": row.starts})

    def end(self, words: str, state: str, code: int) -> None:
        self._print("end", {"state": state, "exit_code": code, "message": words})

    def _print(self, event: str, facts: dict[str, Any]) -> None:
        print(json.dumps({"event": event, **facts}), flush=True)


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

    def wait(self) -> None:
        """Hold training lines back for a while: the log itself has just spoken."""
        self._due = time.time() + TRAIN_SEC

    def _release(self, is_due: bool) -> list[dict[str, Any]]:
        if self._waiting is None or not is_due:
            return []
        line, self._waiting = self._waiting, None
        self._due = time.time() + TRAIN_SEC
        return [line]


def _new_lines(run: RunFolder) -> Iterator[list[dict[str, Any]]]:
    """Yield, each time, the whole lines that `metrics.jsonl` got since the last time."""
    offset = max(0, _size(run) - _BACKLOG_BYTES)
    is_cut = offset > 0
    while True:
        whole = b""
        if _size(run) > offset:
            with run.metrics_jsonl.open("rb") as file:
                file.seek(offset)
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            offset += len(whole)
        lines = whole.splitlines()[is_cut:]
        is_cut = is_cut and not whole
        yield [record for line in lines if (record := _parse(line)) is not None]


def _size(run: RunFolder) -> int:
    try:
        return run.metrics_jsonl.stat().st_size
    except OSError:
        return 0


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return a line's object; None for one that a killed writer left half."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return cast("dict[str, Any]", record) if isinstance(record, dict) else None


def _describe_queue(row: RunStatus) -> str:
    if row.state == "unknown":
        return "Slurm does not answer"
    text = f"job {row.job_id} waits: {row.pending}"
    if row.starts and row.starts > time.time():
        text += f", starts about {format_clock(row.starts, time.time())}"
    return text


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
