"""Read a run's `metrics.jsonl`: append-only, steps repeat after a hard kill, lines may be damaged.

For each step the highest attempt wins.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

LOSS = "loss"
CURVE_POINTS = 120
_LOWER_IS_BETTER = ("loss", "error", "distance", "perplexity", "seconds")

Curve = list[tuple[int, float]]


@dataclass(frozen=True)
class RunMetrics:
    """What `metrics.jsonl` says.

    Attributes:
        curves: metric -> (step, value) in the order of steps, at most `CURVE_POINTS`; `loss` is the
            training loss, `<evaluation>/<metric>` the rest.
        last: metric -> its value at the last step that has one.
        best: metric -> its best value, the lowest of losses and errors, else the highest.
        step: last step written, None if there is none.
        hours: time between first and last line, summed over the attempts.
        damaged: numbers of the lines that could not be read, counted from 1.
    """

    curves: dict[str, Curve] = field(default_factory=dict[str, Curve])
    last: dict[str, float] = field(default_factory=dict[str, float])
    best: dict[str, float] = field(default_factory=dict[str, float])
    step: int | None = None
    hours: float = 0.0
    damaged: tuple[int, ...] = ()


def read_metrics(path: Path) -> RunMetrics:
    """Read a `metrics.jsonl`; raises OSError if it cannot be opened."""
    lines = path.read_bytes().splitlines()
    records, damaged = _parse(lines)
    newest: dict[str, dict[int, tuple[int, float]]] = {}
    times: dict[int, tuple[float, float]] = {}
    for record in records:
        step, attempt = int(record["step"]), int(record.get("attempt", 1))
        time = record.get("time")
        if isinstance(time, int | float):
            first, last = times.get(attempt, (time, time))
            times[attempt] = (min(first, time), max(last, time))
        for name, value in _values(record):
            points = newest.setdefault(name, {})
            if step not in points or points[step][0] <= attempt:
                points[step] = (attempt, value)
    curves = {
        name: [(step, value) for step, (_, value) in sorted(points.items())]
        for name, points in newest.items()
    }
    return RunMetrics(
        curves={name: thin(curve) for name, curve in curves.items()},
        last={name: curve[-1][1] for name, curve in curves.items()},
        best={
            name: find_best(name, (value for _, value in curve)) for name, curve in curves.items()
        },
        step=max((int(record["step"]) for record in records), default=None),
        hours=sum(last - first for first, last in times.values()) / 3600,
        damaged=tuple(damaged),
    )


def find_best(name: str, values: Iterable[float]) -> float:
    """Return the best of a metric's values."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return math.nan
    return min(finite) if any(word in name for word in _LOWER_IS_BETTER) else max(finite)


def thin(curve: Curve) -> Curve:
    """Return at most `CURVE_POINTS` points, first and last among them."""
    if len(curve) <= CURVE_POINTS:
        return curve
    stride = (len(curve) - 1) / (CURVE_POINTS - 1)
    return [curve[round(index * stride)] for index in range(CURVE_POINTS)]


def _values(record: Mapping[str, Any]) -> Iterable[tuple[str, float]]:
    if record.get("kind") != "eval":
        found = {LOSS: record.get("loss")}
    else:
        metrics = record.get("metrics")
        name = record.get("name", "eval")
        found = {f"{name}/{key}": value for key, value in _mapping(metrics).items()}
    for key, value in found.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield key, float(value)


def _parse(lines: list[bytes]) -> tuple[list[dict[str, Any]], list[int]]:
    try:
        parsed: list[Any] = json.loads(b"[" + b",".join(lines) + b"]")
    except ValueError:
        parsed = [_parse_line(line) for line in lines]  # slower, and it knows which line
    if len(parsed) != len(lines):
        parsed = [_parse_line(line) for line in lines]
    records: list[dict[str, Any]] = []
    damaged: list[int] = []
    for number, record in enumerate(parsed, start=1):
        if isinstance(record, dict) and _is_count(cast(Any, record).get("step")):
            records.append(cast("dict[str, Any]", record))
        else:
            damaged.append(number)
    return records, damaged


def _parse_line(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _mapping(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
