"""The table of results, whatever it is written as: which columns, which lines, in which order."""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatch
from typing import Any, NamedTuple

from jobs.collect import Collection
from jobs.config_columns import Configs
from jobs.errors import ConfigError, unknown_name
from jobs.metrics_file import LAST, is_lower_better
from jobs.run_groups import (
    SEED,
    find_evaluated,
    group_label,
    join_evaluations,
    seed_groups,
    seed_of,
)
from jobs.run_row import STATES, RunRow, best_of

FACT, CONFIG, METRIC = "fact", "config", "metric"
_RUN_FACTS = ("kind", "name", "state", "step", "attempts", "hours", "loss")
_GROUP_FACTS = ("kind", "name", "runs", "state", "seeds", "step", "hours", "loss")
_PIVOT_FACTS = ("name", "state", "step")


class Score(NamedTuple):
    """A metric of one run: its last value, its best and where that was."""

    last: float
    best: float
    step: int | None


class Spread(NamedTuple):
    """A number over the runs of a group: sample deviation, nan for one run."""

    mean: float
    deviation: float
    runs: int
    best_mean: float
    best_deviation: float


class Progress(NamedTuple):
    """The last step of how many."""

    step: int
    steps: int | None


class Column(NamedTuple):
    """One column.

    Attributes:
        name: unique; of a metric or a config key its full name.
        role: fact, config or metric.
        better: max or min where one end is better.
    """

    name: str
    role: str
    better: str = ""

    @property
    def is_text(self) -> bool:
        """Whether its cells are words."""
        return self.name in ("kind", "name", "collection", "state", "seeds") and self.role == FACT


class Line(NamedTuple):
    """One line: a cell for every column (None, text, number, or one of the tuples above)."""

    cells: list[Any]
    rows: list[RunRow]


class ResultTable(NamedTuple):
    """Columns and lines.

    Attributes:
        remarks: on what the lines do not show.
        is_ordered: whether the order says which is better.
        left_out: how many lines there are beyond these.
    """

    columns: list[Column]
    lines: list[Line]
    remarks: list[str]
    is_ordered: bool
    left_out: int = 0


class TableRequest(NamedTuple):
    """What the table is to show.

    Attributes:
        group: one line for the runs that differ in the seed alone.
        pivot: one line for each model, with the metrics of all its evaluations.
        best: `METRIC`, `METRIC:min` or `METRIC:max`: every metric is shown at the step where this
            one was best, and the best run comes first.
        metrics: shell patterns of the metrics wanted, in this order; empty for all.
        sort: `COLUMN`, `COLUMN:asc` or `COLUMN:desc`.
    """

    group: bool = False
    pivot: bool = False
    best: str = ""
    metrics: tuple[str, ...] = ()
    sort: str = ""


def build_table(collection: Collection, request: TableRequest, newest: int = 0) -> ResultTable:
    """Build the table.

    Args:
        collection: the runs.
        request: what to show of them.
        newest: lines at most, of the newest runs or the first in an order; 0 for all.

    Raises:
        ConfigError: if it asks for a metric or a column that is not there.
    """
    rows, remarks = collection.rows, list(collection.problems)
    evaluated = find_evaluated(collection, rows, rows)
    if evaluated or request.pivot:
        rows, notes = join_evaluations(rows, evaluated, is_pivot=request.pivot)
        remarks += notes
    if request.pivot:
        bare = [row for row in rows if not row.metrics]
        rows = [row for row in rows if row.metrics]
        if bare:
            remarks.append(f"{len(bare)} run(s) without any metric are left out")
    is_ordered, left_out = bool(request.best or request.sort), 0
    if newest and not is_ordered and not request.group:
        left_out = max(0, len(rows) - newest)
        rows = _newest(rows, newest)  # before lines are made that nobody sees
    metrics = choose_metrics(metric_names(rows), request.metrics)
    best, better = _best_metric(metrics, request.best)
    scores = _Scores(collection, rows, best, better)
    if request.group:
        table = _group_table(collection, rows, metrics, scores)
    else:
        table = _run_table(collection, rows, metrics, scores, is_pivot=request.pivot)
    table = table._replace(remarks=[*remarks, *_remarks(collection.rows)])
    if best:
        table = _sorted(table, _column(table, best), is_rising=better == "min")
    if request.sort:
        table = _sort(table, request.sort, scores.better)
    if newest and len(table.lines) > newest:
        left_out = len(table.lines) - newest
        table = table._replace(lines=table.lines[:newest])
    return table._replace(left_out=left_out)


def _newest(rows: Sequence[RunRow], count: int) -> Sequence[RunRow]:
    """Return the newest of the rows in the order they have."""
    if len(rows) <= count:
        return rows
    oldest = sorted(row.updated for row in rows)[-count]
    kept = [row for row in rows if row.updated >= oldest]
    return kept[-count:]


def metric_names(rows: Iterable[RunRow]) -> list[str]:
    """Return every metric that any row has, sorted."""
    return sorted({name for row in rows for name in row.metrics})


def choose_metrics(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """Return the metrics that match, in the order of the patterns.

    Raises:
        ConfigError: if nothing matches a pattern.
    """
    if not patterns:
        return list(names)
    chosen: dict[str, None] = {}
    for pattern in patterns:
        found = [name for name in names if fnmatch(name, pattern) or name.endswith(f"/{pattern}")]
        if not found:
            raise ConfigError(unknown_name("metric", pattern, names))
        chosen.update(dict.fromkeys(found))
    return list(chosen)


def summary(rows: Sequence[RunRow]) -> str:
    """Return one line: how many runs there are in which state."""
    counts = Counter(row.state for row in rows)
    ordered = [*STATES, *sorted(counts.keys() - set(STATES))]
    states = ", ".join(f"{counts[state]} {state}" for state in ordered if counts[state])
    return f"{len(rows)} run(s): {states}" if rows else "no runs"


class _Scores:
    """The cells of metrics."""

    def __init__(
        self, collection: Collection, rows: Sequence[RunRow], best: str, better: str
    ) -> None:
        self._best, self._better = best, better
        self._at = _values_at_best(collection, rows, best, better) if best else {}

    def better(self, name: str) -> str:
        """Return which end of a metric is better."""
        if name == self._best:
            return self._better
        return "min" if is_lower_better(name) else "max"

    def score(self, row: RunRow, name: str) -> Score | None:
        """Return the cell of one metric of one run."""
        extent = row.metrics.get(name)
        if extent is None:
            return None
        value, step = best_of(name, extent, self.better(name))
        if not self._best:
            return Score(extent[LAST], value, step)
        if name != self._best:
            value, step = self._at.get(row.path, {}).get(name, (extent[LAST], None))
        return Score(value, value, step)


def _run_table(
    collection: Collection,
    rows: Sequence[RunRow],
    metrics: Sequence[str],
    scores: _Scores,
    *,
    is_pivot: bool,
) -> ResultTable:
    facts: list[str] = [*(_PIVOT_FACTS if is_pivot else _RUN_FACTS)]
    if not is_pivot and any(row.collection for row in rows):
        facts.insert(1, "collection")
    configs = Configs(collection)
    keys = [] if is_pivot else configs.differing(rows)
    lines = [
        Line(
            [
                *(_FACTS[fact](row) for fact in facts),
                *configs.values(row, keys),
                *(scores.score(row, name) for name in metrics),
            ],
            [row],
        )
        for row in rows
    ]
    return ResultTable(_columns(facts, keys, metrics, scores), lines, [], is_ordered=False)


def _group_table(
    collection: Collection, rows: Sequence[RunRow], metrics: Sequence[str], scores: _Scores
) -> ResultTable:
    configs = Configs(collection)
    groups = seed_groups(collection, rows)
    keys = [key for key in configs.differing([group[0] for group in groups]) if key != SEED]
    lines: list[Line] = []
    for group in groups:
        seeds = {seed_of(collection, row) for row in group} - {""}
        facts = {
            "kind": group[0].kind,
            "name": group_label(group),
            "runs": len(group),
            "state": _group_state(group),
            "seeds": " ".join(sorted(seeds, key=lambda seed: (len(seed), seed))),
            "step": min((row.step for row in group if row.step is not None), default=None),
            "hours": sum(row.hours for row in group),
            "loss": spread([(row.loss, row.loss) for row in _counted(group)]),
        }
        found = [[scores.score(row, name) for row in _counted(group)] for name in metrics]
        spreads = [spread([(each.last, each.best) for each in some if each]) for some in found]
        cells = [*facts.values(), *configs.values(group[0], keys), *spreads]
        lines.append(Line(cells, group))
    return ResultTable(_columns(_GROUP_FACTS, keys, metrics, scores), lines, [], is_ordered=False)


def spread(values: Sequence[tuple[float | None, float | None]]) -> Spread | None:
    """Return mean and sample deviation of (last, best) values; None if there are none."""
    lasts = [last for last, _ in values if last is not None and math.isfinite(last)]
    bests = [best for _, best in values if best is not None and math.isfinite(best)]
    if not lasts:
        return None
    mean, deviation = _mean_deviation(lasts)
    return Spread(mean, deviation, len(lasts), *_mean_deviation(bests or lasts))


def _mean_deviation(values: Sequence[float]) -> tuple[float, float]:
    # by hand: the statistics module takes longer to load than a table to print
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, math.nan
    return mean, math.sqrt(math.fsum((each - mean) ** 2 for each in values) / (len(values) - 1))


def _counted(group: Sequence[RunRow]) -> Sequence[RunRow]:
    """Return the runs whose values make the mean: the finished ones, or all if none is."""
    return [row for row in group if row.state == "done"] or group


def _group_state(group: Sequence[RunRow]) -> str:
    counts = Counter(row.state for row in group)
    if len(counts) == 1:
        return group[0].state
    return ", ".join(f"{count} {state}" for state, count in counts.most_common())


def _state(row: RunRow) -> str:
    return f"{row.state}: {row.cause}" if row.cause and row.state != "done" else row.state


def _progress(row: RunRow) -> Progress | None:
    return None if row.step is None else Progress(row.step, row.steps)


_FACTS: Mapping[str, Callable[[RunRow], Any]] = {
    "kind": lambda row: row.kind,
    "collection": lambda row: row.collection,
    "name": lambda row: row.name,
    "state": _state,
    "step": _progress,
    "attempts": lambda row: row.attempts,
    "hours": lambda row: row.hours,
    "loss": lambda row: row.loss,
}


def _columns(
    facts: Sequence[str], keys: Sequence[str], metrics: Sequence[str], scores: _Scores
) -> list[Column]:
    return [
        *(Column(fact, FACT) for fact in facts),
        *(Column(key, CONFIG) for key in keys),
        *(Column(name, METRIC, scores.better(name)) for name in metrics),
    ]


def _best_metric(metrics: Sequence[str], best: str) -> tuple[str, str]:
    """Return the metric of `--best` and its better end."""
    if not best:
        return "", ""
    name, colon, better = best.rpartition(":")
    if not colon or better not in ("min", "max"):
        name, better = best, ""
    [chosen, *others] = choose_metrics(metrics, [name])
    if others:
        known = ", ".join([chosen, *others])
        raise ConfigError(f"--best {name}: more than one metric has this name: {known}")
    return chosen, better or ("min" if is_lower_better(chosen) else "max")


def _values_at_best(
    collection: Collection, rows: Sequence[RunRow], best: str, better: str
) -> dict[str, dict[str, tuple[float, int]]]:
    """Return path -> metric -> (value, step) at or before the step where `best` was best."""
    found: dict[str, dict[str, tuple[float, int]]] = {}
    chosen = [row for row in rows if best in row.metrics]
    for row, text in zip(chosen, collection.curves(chosen), strict=True):
        _, at = best_of(best, row.metrics[best], better)
        curves: dict[str, Any] = json.loads(text)
        for name, (steps, values) in curves.items():
            if isinstance(steps, str):
                steps = curves[steps][0]
            place = bisect_right(steps, at) - 1 if at is not None else -1
            if place >= 0:
                value = values[place]
                seen = math.nan if value is None else value
                found.setdefault(row.path, {})[name] = (seen, steps[place])
    return found


def _remarks(rows: Sequence[RunRow]) -> list[str]:
    remarks: list[str] = []
    for row in rows:
        if row.reason and row.state != "done":
            cause = f"{row.cause}: " if row.cause else ""
            remarks.append(f"{row.path}: {row.state}: {cause}{row.reason}")
        remarks += [f"{row.path}: {problem}" for problem in row.problems]
    return remarks


def _column(table: ResultTable, name: str) -> int:
    names = [column.name for column in table.columns]
    if name in names:
        return names.index(name)
    ends = [
        place for place, each in enumerate(names) if re.search(rf"[./]{re.escape(name)}$", each)
    ]
    if len(ends) != 1:
        raise ConfigError(unknown_name("column to sort by", name, names))
    return ends[0]


def _sort(table: ResultTable, sort: str, better: Callable[[str], str]) -> ResultTable:
    name, colon, way = sort.rpartition(":")
    if not colon or way not in ("asc", "desc"):
        name, way = sort, ""
    place = _column(table, name)
    column = table.columns[place]
    if not way:
        if column.role == METRIC or column.name == "loss":
            way = "asc" if better(column.name) == "min" else "desc"
        else:
            way = "asc" if column.is_text or column.role == CONFIG else "desc"
    return _sorted(table, place, is_rising=way == "asc")


def _sorted(table: ResultTable, place: int, *, is_rising: bool) -> ResultTable:
    """Return the lines by one column; those without a value come last either way."""
    keyed = [(sort_key(line.cells[place]), line) for line in table.lines]
    known = [pair for pair in keyed if pair[0] is not None]
    numbers = [pair for pair in known if not isinstance(pair[0], str)]
    words = [pair for pair in known if isinstance(pair[0], str)]
    for part in (numbers, words):
        part.sort(key=lambda pair: pair[0], reverse=not is_rising)
    ordered = [*numbers, *words, *(pair for pair in keyed if pair[0] is None)]
    return table._replace(lines=[line for _, line in ordered], is_ordered=True)


def sort_key(cell: Any) -> Any:
    """Return what a cell is sorted by, None for what comes last."""
    match cell:
        case Score():
            value = cell.last
        case Spread():
            value = cell.mean
        case Progress():
            value = cell.step
        case _:
            value = cell
    return None if isinstance(value, float) and math.isnan(value) else value
