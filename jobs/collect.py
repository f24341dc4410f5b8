"""One row per run folder: what it is, how far it came, what it scored.

Reads `state.json`, `result.json`, `metrics.jsonl` and the COMMIT marks; anything may be missing,
half written or damaged: a row says so in `problems` and the rest is shown.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, cast

from jobs.metrics_cache import MetricsCache, load_metrics_cache
from jobs.metrics_file import LOSS, Curve, RunMetrics, find_best

STATES = ("done", "running", "queued", "stopped", "failed", "cancelled", "incomplete")
_MARKS = frozenset(
    ("run.json", "state.json", "result.json", "metrics.jsonl", "config.yaml", "attempts", "ckpt")
)


@dataclass(frozen=True)
class RunRow:
    """One run.

    Attributes:
        kind: first folder below `runs`, "-" for a run that lies there itself.
        name: the run folder's name.
        state: one of `STATES`; `incomplete` if nothing says how it ended.
        step: the last step reached, None if it never made one.
        saved_step: step of the newest complete checkpoint.
        hours: of training, over all attempts.
        loss: last training loss.
        last: metric -> final value, or the newest one of an unfinished run, losses apart.
        best: metric -> best value on the way.
        updated: seconds since 1970 of the last sign of life.
        note: why it stopped or failed, if anything says so.
        problems: what could not be read.
        curves: metric -> (step, value), thinned out for plots.
    """

    kind: str
    name: str
    path: str
    state: str = "incomplete"
    step: int | None = None
    saved_step: int | None = None
    attempts: int = 0
    hours: float = 0.0
    loss: float | None = None
    last: dict[str, float] = field(default_factory=dict[str, float])
    best: dict[str, float] = field(default_factory=dict[str, float])
    updated: float = 0.0
    note: str = ""
    problems: tuple[str, ...] = ()
    curves: dict[str, Curve] = field(default_factory=dict[str, Curve])


def collect_runs(runs: Path, kind: str = "*", name: str = "*") -> list[RunRow]:
    """Return the rows of all runs below a folder, by kind, the newest last.

    Args:
        runs: the folder with `<kind>/<name>` folders; it may be absent.
        kind: shell pattern of the kinds wanted.
        name: shell pattern of the run names wanted; a part of the name is enough.
    """
    pattern = name if any(sign in name for sign in "*?[") else f"*{name}*"
    cache = load_metrics_cache(runs)
    rows = [
        read_run(path, of_kind, entries, cache)
        for path, of_kind, entries in _find_runs(runs)
        if fnmatch(of_kind, kind) and fnmatch(os.path.basename(path), pattern)
    ]
    cache.save()
    return sorted(rows, key=lambda row: (row.kind, row.updated, row.name))


def metric_names(rows: Iterable[RunRow]) -> list[str]:
    """Return every metric that any row has, sorted."""
    return sorted({name for row in rows for name in row.last})


def read_run(path: str, kind: str, entries: frozenset[str], cache: MetricsCache) -> RunRow:
    """Read one run folder; `entries` are the names in it."""
    problems: list[str] = []
    state = _read_object(path, "state.json", entries, problems)
    result = _read_object(path, "result.json", entries, problems)
    metrics = _read_metrics(path, entries, cache, problems)
    commit = _newest_commit(path) if "ckpt" in entries else None
    final = _numbers(result.get("metrics"))
    last = {name: value for name, value in metrics.last.items() if name != LOSS} | final
    steps = [metrics.step, commit, _count(result.get("step"))]
    loss = _number(result.get("train_loss"))
    return RunRow(
        kind=kind,
        name=os.path.basename(path),
        path=path,
        state=_state(state, result),
        step=max((step for step in steps if step is not None), default=None),
        saved_step=commit,
        attempts=_attempts(path) if "attempts" in entries else 0,
        hours=metrics.hours or (_number(result.get("seconds")) or 0.0) / 3600,
        loss=metrics.last.get(LOSS) if loss is None else loss,
        last=last,
        best={
            name: find_best(name, [value, metrics.best.get(name, math.nan)])
            for name, value in last.items()
        },
        updated=_last_change(path, entries),
        note=_note(state),
        problems=tuple(problems),
        curves=metrics.curves,
    )


def _find_runs(runs: Path) -> Iterable[tuple[str, str, frozenset[str]]]:
    for kind, path in _folders(runs):
        entries = frozenset(os.listdir(path))
        if entries & _MARKS:
            yield path, "-", entries
            continue
        for _, run in _folders(path):
            entries = frozenset(os.listdir(run))
            if entries & _MARKS:
                yield run, kind, entries


def _folders(path: str | Path) -> list[tuple[str, str]]:
    try:
        with os.scandir(path) as entries:
            found = [(each.name, each.path) for each in entries if each.is_dir()]
    except FileNotFoundError:
        return []
    return [(name, place) for name, place in sorted(found) if not name.startswith(".")]


def _read_object(
    path: str, name: str, entries: frozenset[str], problems: list[str]
) -> dict[str, Any]:
    if name not in entries:
        return {}
    try:
        with open(f"{path}/{name}", "rb", buffering=0) as file:
            values = json.loads(file.read())
    except (OSError, ValueError) as error:
        problems.append(f"{name}: {error}")
        return {}
    if not isinstance(values, dict):
        problems.append(f"{name}: holds no object")
        return {}
    return cast("dict[str, Any]", values)


def _read_metrics(
    path: str, entries: frozenset[str], cache: MetricsCache, problems: list[str]
) -> RunMetrics:
    if "metrics.jsonl" not in entries:
        return RunMetrics()
    try:
        metrics = cache.read(f"{path}/metrics.jsonl")
    except OSError as error:
        problems.append(f"metrics.jsonl: {error}")
        return RunMetrics()
    if metrics.damaged:
        count, first = len(metrics.damaged), metrics.damaged[0]
        problems.append(f"metrics.jsonl: {count} damaged line(s), the first is line {first}")
    return metrics


def _state(state: dict[str, Any], result: dict[str, Any]) -> str:
    if result:
        return "done"
    written = state.get("state")
    return str(written) if written in STATES else "incomplete"


def _note(state: dict[str, Any]) -> str:
    words = [state.get("cause"), state.get("reason"), state.get("message")]
    return ": ".join(str(word) for word in words if word)


def _newest_commit(path: str) -> int | None:
    names = [name for name in _list(f"{path}/ckpt") if name.startswith("step-")]
    steps = sorted((int(name[5:]) for name in names if name[5:].isdecimal()), reverse=True)
    return next((step for step in steps if os.path.isfile(f"{path}/ckpt/step-{step}/COMMIT")), None)


def _attempts(path: str) -> int:
    return sum(name.isdecimal() for name in _list(f"{path}/attempts"))


def _list(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


def _last_change(path: str, entries: frozenset[str]) -> float:
    """Return when the run last wrote; not the folder's own time, which copying changes."""
    times: list[float] = []
    for name in ("metrics.jsonl", "state.json", "result.json", "run.json"):
        if name in entries:
            try:
                times.append(os.stat(f"{path}/{name}").st_mtime)
            except OSError:
                continue  # replaced this moment
    return max(times, default=0.0)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _numbers(value: Any) -> dict[str, float]:
    pairs = cast("dict[str, Any]", value).items() if isinstance(value, dict) else ()
    return {str(key): number for key, each in pairs if (number := _number(each)) is not None}
