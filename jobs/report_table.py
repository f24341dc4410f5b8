"""Rows of `jobs.collect` as text: terminal table, csv, markdown, json."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from jobs.collect import STATES, RunRow, metric_names

FIXED = ("kind", "name", "state", "step", "attempts", "hours", "loss")
_LEFT = ("kind", "name", "state")
_GAP = "  "
_NAME, _NAME_MIN = FIXED.index("name"), 16


def render_terminal(rows: Sequence[RunRow], width: int | None = None) -> str:
    """Return an aligned table; names are shortened, then metrics dropped, to fit `width`.

    Args:
        rows: the runs.
        width: characters in a line, None for no limit.
    """
    metrics = metric_names(rows)
    table = [[*FIXED, *metrics], *([*_cells(row), *_metric_cells(row, metrics)] for row in rows)]
    full = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    widths = full if width is None else _fit(full, width)
    lines = [_line(cells, widths) for cells in table]
    lines.insert(1, _GAP.join("-" * each for each in widths))
    dropped = len(full) - len(widths)
    if dropped:
        lines.append(f"{dropped} more metric(s) do not fit: see --csv, --markdown or --html")
    return "\n".join([*lines, "", *_remarks(rows), summary(rows)])


def _fit(widths: Sequence[int], limit: int) -> list[int]:
    """Return narrower columns: first without metrics from the right, then a shorter name."""
    kept = list(widths)
    least = min(_NAME_MIN, kept[_NAME])

    def spare(name_width: int) -> int:
        others = sum(kept) - kept[_NAME] + len(_GAP) * (len(kept) - 1)
        return limit - others - name_width

    while len(kept) > len(FIXED) and spare(least) < 0:
        kept.pop()
    kept[_NAME] = min(kept[_NAME], max(least, least + spare(least)))
    return kept


def render_csv(rows: Sequence[RunRow]) -> str:
    """Return every value unrounded: fixed columns, each metric's last and best, what went wrong."""
    metrics = metric_names(rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    both = [name for metric in metrics for name in (metric, f"{metric} best")]
    writer.writerow([*FIXED, "saved_step", "updated", *both, "note", "problems", "path"])
    for row in rows:
        values = [value for name in metrics for value in (row.last.get(name), row.best.get(name))]
        fixed = [row.kind, row.name, row.state, row.step, row.attempts, row.hours, row.loss]
        end = [row.note, "; ".join(row.problems), row.path]
        writer.writerow([*fixed, row.saved_step, row.updated, *values, *end])
    return text.getvalue()


def render_markdown(rows: Sequence[RunRow]) -> str:
    """Return a markdown table of the terminal's columns."""
    metrics = metric_names(rows)
    names = [*FIXED, *metrics]
    lines = [names, [":-" if name in _LEFT else "-:" for name in names]]
    lines += [[*_cells(row), *_metric_cells(row, metrics)] for row in rows]
    return "".join(f"| {' | '.join(_escape(cell) for cell in line)} |\n" for line in lines)


def render_json(rows: Sequence[RunRow]) -> str:
    """Return the rows without their curves; what is not a finite number is null."""
    values = [asdict(row) for row in rows]
    for row in values:
        del row["curves"]
        row["loss"] = _finite(row["loss"])
        for key in ("last", "best"):
            row[key] = {name: _finite(value) for name, value in row[key].items()}
    return json.dumps(values, indent=1)


def summary(rows: Sequence[RunRow]) -> str:
    """Return one line: how many runs there are in which state."""
    counts = Counter(row.state for row in rows)
    states = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    return f"{len(rows)} run(s): {states}" if rows else "no runs"


def format_number(value: float | None, digits: int = 4) -> str:
    """Return a number in as many significant digits, "" for None; large ones keep their whole."""
    if value is None:
        return ""
    if not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:.0f}"
    return f"{value:.{digits}g}"


def format_hours(hours: float) -> str:
    """Return a duration as `0:07` or `53:20`, hours and minutes."""
    minutes = round(hours * 60)
    return f"{minutes // 60}:{minutes % 60:02d}"


def _cells(row: RunRow) -> list[str]:
    step = "" if row.step is None else str(row.step)
    numbers = [step, str(row.attempts), format_hours(row.hours), format_number(row.loss)]
    return [row.kind, row.name, row.state, *numbers]


def _metric_cells(row: RunRow, metrics: Sequence[str]) -> list[str]:
    """Return last values, the best behind in brackets where it is another."""
    cells: list[str] = []
    for name in metrics:
        last, best = format_number(row.last.get(name)), format_number(row.best.get(name))
        cells.append(last if best in (last, "nan") else f"{last} ({best})")
    return cells


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    parts: list[str] = []
    for column, (cell, width) in enumerate(zip(cells, widths, strict=False)):
        text = shorten(cell, width)
        parts.append(text.ljust(width) if column < len(_LEFT) else text.rjust(width))
    return _GAP.join(parts).rstrip()


def shorten(text: str, width: int) -> str:
    """Return text within `width`, its middle replaced by dots; both ends tell runs apart."""
    if len(text) <= width:
        return text
    if width < 6:
        return text[:width]
    tail = (width - 2) // 2
    return text[: width - 2 - tail] + ".." + text[len(text) - tail :]


def _remarks(rows: Sequence[RunRow]) -> list[str]:
    remarks: list[str] = []
    for row in rows:
        if row.note and row.state != "done":
            remarks.append(f"{row.kind}/{row.name}: {row.state}: {row.note}")
        remarks += [f"{row.kind}/{row.name}: {problem}" for problem in row.problems]
    return [*remarks, ""] if remarks else []


def _escape(cell: str) -> str:
    return cell.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
