"""Read a run's `metrics.jsonl`: append-only, steps repeat after a hard kill, lines may be damaged.

For each step the highest attempt wins. Of a very long file every evaluation is read and a regular
sample of the training lines: a curve on a screen has no more points.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

LOSS = "loss"
CURVE_POINTS = 200
EVALUATION_POINTS = 1000
SAMPLED_LINES = 4000
_TRAIN = '{"kind": "train"'
_WORDS = re.compile(r"[a-z]+")
_LOWER_IS_BETTER = frozenset(
    (
        *("loss", "losses", "error", "errors", "err", "distance", "dist", "rank", "medr", "meanr"),
        *("perplexity", "ppl", "nll", "mae", "mse", "rmse", "wer", "cer", "fid", "ece"),
        *("seconds", "sec", "latency"),
    )
)


class Curve(NamedTuple):
    """Values of one metric over the step; both lists are equally long."""

    steps: list[int]
    values: list[float]


# One metric of one run: its final value, its lowest and highest ones with their steps. A list, so
# that it comes from json as it is.
Extent = list[Any]
LAST, LOW, LOW_STEP, HIGH, HIGH_STEP = range(5)


class RunMetrics(NamedTuple):
    """What `metrics.jsonl` says.

    Attributes:
        curves: metric -> its curve, thinned; `loss` and other training losses, and
            `<evaluation>/<metric>`.
        extents: metric -> last, lowest and highest value, before thinning.
        step: last step of the newest attempt, None if there is none.
        steps: how many the run is to make, None if no line says so.
        hours: time between first and last line, summed over the attempts.
        updated: time of the newest line, seconds since 1970.
        starts: (attempt, its first step), ascending.
        damaged: how many lines could not be read.
        first_damaged: number of the first of them, counted from 1.
    """

    curves: dict[str, Curve]
    extents: dict[str, Extent]
    step: int | None = None
    steps: int | None = None
    hours: float = 0.0
    updated: float = 0.0
    starts: list[tuple[int, int]] = []  # noqa: RUF012 - a field of a tuple, never changed
    damaged: int = 0
    first_damaged: int = 0


# (step, attempt, value) as they stand in the file
_Point = tuple[int, int, float]


def parse_metrics(data: bytes) -> RunMetrics:
    """Read the content of a `metrics.jsonl`."""
    lines = data.decode("utf-8", "replace").split("\n")
    if lines[-1] == "":
        lines.pop()
    cut: list[int] = []
    is_sample = len(lines) > SAMPLED_LINES
    if is_sample:
        lines, cut = _sample(lines)
    points, ends, totals, damaged = _gather(_parse(lines))
    damaged = cut or damaged
    if is_sample:
        points = {name: _drop_repeated(name, each, ends) for name, each in points.items()}
    curves = {name: _curve(each) for name, each in points.items()}
    final = ends[max(ends)][1] if ends else {}
    spans = [(_time(first), _time(last)) for first, last in ends.values()]
    return RunMetrics(
        curves={name: thin(name, curve) for name, curve in curves.items()},
        extents={name: _extent(curve) for name, curve in curves.items()},
        step=final.get("step"),
        steps=max(totals, default=None),
        hours=sum(max(0.0, last - first) for first, last in spans) / 3600,
        updated=max((last for _, last in spans), default=0.0),
        starts=[(number, ends[number][0]["step"]) for number in sorted(ends)],
        damaged=len(damaged),
        first_damaged=damaged[0] if damaged else 0,
    )


def _gather(
    records: Sequence[Any],
) -> tuple[dict[str, list[_Point]], dict[int, list[dict[str, Any]]], set[int], list[int]]:
    """Return metric -> points, attempt -> [first, last record], totals, and which are no records.

    Totals are the numbers of steps that the run is to make, as its lines said.
    """
    points: dict[str, list[_Point]] = {}
    ends: dict[int, list[dict[str, Any]]] = {}
    damaged: list[int] = []
    losses: dict[tuple[str, ...], list[str]] = {}
    totals: set[str] = set()
    for number, each in enumerate(records, 1):
        record = cast("dict[str, Any]", each) if type(each) is dict else {}
        step, attempt = record.get("step"), record.get("attempt", 1)
        if type(step) is not int or type(attempt) is not int or step < 0:
            damaged.append(number)
            continue
        if attempt not in ends:
            ends[attempt] = [record, record]
        elif step >= ends[attempt][1]["step"]:
            ends[attempt][1] = record
        if record.get("kind") == "eval":
            found = _evaluation(record)
        else:
            keys = tuple(record)
            if keys not in losses:  # few sets of keys, many lines
                losses[keys] = [key for key in keys if key.startswith(LOSS)]
            found = [(key, record[key]) for key in losses[keys]]
            totals.add(str(record.get("steps")))
        for name, value in found:
            if type(value) is float or type(value) is int:
                if name not in points:
                    points[name] = []
                points[name].append((step, attempt, value))
    return points, ends, {int(each) for each in totals if each.isdecimal()}, damaged


def _evaluation(record: Mapping[str, Any]) -> list[tuple[str, Any]]:
    metrics = record.get("metrics")
    values = cast("dict[str, Any]", metrics) if type(metrics) is dict else {}
    prefix = f"{record.get('name', 'eval')}/"
    return [(prefix + key, value) for key, value in values.items()]


def _curve(points: Sequence[_Point]) -> Curve:
    """Return the points in the order of steps; of equal steps the highest attempt's."""
    steps, _, values = zip(*points, strict=True)
    unique = sorted(set(steps))
    if unique == list(steps):
        return Curve(unique, list(values))
    newest: dict[int, tuple[int, float]] = {}
    for step, attempt, value in points:
        if step not in newest or newest[step][0] <= attempt:
            newest[step] = (attempt, value)
    return Curve(unique, [newest[step][1] for step in unique])


@functools.cache
def is_lower_better(name: str) -> bool:
    """Return whether a metric is best low: losses, errors, distances, ranks, times."""
    words = _WORDS.findall(name.rpartition("/")[2].lower())
    return any(word in _LOWER_IS_BETTER or word.endswith("loss") for word in words)


def thin(name: str, curve: Curve) -> Curve:
    """Return at most `CURVE_POINTS` of a loss, `EVALUATION_POINTS` of the rest, with both ends."""
    limit = CURVE_POINTS if name.startswith(LOSS) else EVALUATION_POINTS
    if len(curve.steps) <= limit:
        return curve
    stride = (len(curve.steps) - 1) / (limit - 1)
    chosen = [round(index * stride) for index in range(limit)]
    return Curve([curve.steps[each] for each in chosen], [curve.values[each] for each in chosen])


def _extent(curve: Curve) -> Extent:
    steps, values = curve
    low, high = min(values), max(values)
    if not math.isfinite(high - low) or values[0] != values[0]:
        finite = [value for value in values if math.isfinite(value)]
        if not finite:
            return [values[-1], math.nan, None, math.nan, None]
        low, high = min(finite), max(finite)
    return [values[-1], low, steps[values.index(low)], high, steps[values.index(high)]]


def _time(record: Mapping[str, Any]) -> float:
    time = record.get("time")
    return float(time) if type(time) is float or type(time) is int else 0.0


def _parse(lines: Sequence[str]) -> list[Any]:
    """Return what each line holds, None where it is no json."""
    try:
        parsed: list[Any] = json.loads(f"[{','.join(lines)}]")
    except (ValueError, RecursionError):
        parsed = []
    if len(parsed) != len(lines):
        parsed = [_parse_line(line) for line in lines]  # slower, and it knows which line
    return parsed


def _parse_line(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _sample(lines: Sequence[str]) -> tuple[list[str], list[int]]:
    """Return the lines that are read, and the numbers of those of all that are cut short.

    Training lines at even distances, both lines at every change of the attempt, everything else.
    """
    cut = [number for number, line in enumerate(lines, 1) if line[:1] != "{" or line[-1:] != "}"]
    train = [place for place, line in enumerate(lines) if line.startswith(_TRAIN)]
    chosen = train[:: len(train) // SAMPLED_LINES + 1] + train[-1:]
    edges = {
        edge for left, right in itertools.pairwise(chosen) for edge in _edge(lines, left, right)
    }
    rest = {place for place, line in enumerate(lines) if not line.startswith(_TRAIN)}
    broken = {number - 1 for number in cut}
    return [lines[place] for place in sorted({*chosen, *edges, *rest} - broken)], cut


def _drop_repeated(
    name: str, points: list[_Point], ends: Mapping[int, Sequence[Mapping[str, Any]]]
) -> list[_Point]:
    """Return a sampled loss without what later attempts say again, in lines that were not read."""
    if not name.startswith(LOSS):
        return points
    spans = {attempt: (first["step"], last["step"]) for attempt, (first, last) in ends.items()}
    return [
        (step, attempt, value)
        for step, attempt, value in points
        if not any(b > attempt and low <= step <= high for b, (low, high) in spans.items())
    ]


def _edge(lines: Sequence[str], left: int, right: int) -> Iterable[int]:
    """Return the neighbours between which the attempt changes, by halving; none if it does not."""
    before = _attempt_of(lines[left])
    if before == _attempt_of(lines[right]):
        return ()
    while right - left > 1:
        middle = (left + right) // 2
        if _attempt_of(lines[middle]) == before:
            left = middle
        else:
            right = middle
    return (left, right)


def _attempt_of(line: str) -> Any:
    record = _parse_line(line)
    return cast("dict[str, Any]", record).get("attempt", 1) if isinstance(record, dict) else 1
