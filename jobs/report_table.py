"""A table of results as text: for the terminal, csv, markdown, json."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jobs.result_table import (
    CONFIG,
    METRIC,
    Column,
    Progress,
    ResultTable,
    Score,
    Spread,
    summary,
)
from jobs.run_row import RunRow

_GAP = "  "
_NAME_MIN, _CONFIG_MOST, _REMARKS = 16, 28, 12
# Last words of config keys that say nothing alone.
_VAGUE = ("file", "name", "path", "value")
PLUS_MINUS = "\u00b1"


def render_terminal(table: ResultTable, rows: Sequence[RunRow], width: int | None = None) -> str:
    """Return an aligned table.

    Args:
        table: what to show.
        rows: all runs, of which the table may show some.
        width: characters in a line: names are shortened, then columns dropped; None for no limit.
    """
    titles = _short_titles(table.columns)
    cells = [titles, *(format_line(table.columns, line.cells) for line in table.lines)]
    full = [max(map(len, column)) for column in zip(*cells, strict=True)]
    shown, widths = _fit(table.columns, full, width)
    text = [_line(table.columns, line, shown, widths) for line in cells]
    text.insert(1, _GAP.join("-" * each for each in widths))
    if table.left_out:
        text.append(f"{table.left_out} more line(s): see --limit 0 or the files")
    if len(shown) < len(full):
        dropped = [titles[place] for place in range(len(full)) if place not in shown]
        text.append(f"no room for {len(dropped)} column(s): {', '.join(dropped)}")
    return "\n".join([*text, "", *_remarks(table.remarks), summary(rows)])


def render_csv(table: ResultTable) -> str:
    """Return every value unrounded; causes, problems and the like have columns of their own."""
    import csv  # only what is asked for is loaded
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    is_grouped = any(column.name == "runs" for column in table.columns)
    heads = [_csv_heads(column, is_grouped) for column in table.columns]
    end = ["saved_step", "updated", "code", "reason", "problems"]
    writer.writerow(
        [*(head for some in heads for head in some), *([] if is_grouped else end), "path"]
    )
    for line in table.lines:
        cells = [
            value
            for some, cell in zip(heads, line.cells, strict=True)
            for value in _csv_values(some, cell, line.rows[0])
        ]
        row = line.rows[0]
        facts = [row.saved_step, row.updated, row.code, row.reason, "; ".join(row.problems)]
        paths = " ".join(row.path for row in line.rows)
        writer.writerow([*cells, *([] if is_grouped else facts), paths])
    return text.getvalue()


def render_markdown(table: ResultTable) -> str:
    """Return a markdown table with the terminal's columns in full."""
    heads = [column.name for column in table.columns]
    rule = [":-" if column.is_text else "-:" for column in table.columns]
    lines = [heads, rule, *(format_line(table.columns, line.cells) for line in table.lines)]
    return "".join(f"| {' | '.join(map(_escape, line))} |\n" for line in lines)


def render_json(table: ResultTable) -> str:
    """Return one object a line of the table; what is no finite number is null."""
    values = [_json_line(table.columns, line.cells, line.rows) for line in table.lines]
    return json.dumps(finite(values), indent=1)


def format_line(columns: Sequence[Column], cells: Sequence[Any]) -> list[str]:
    """Return the cells as short text."""
    return [
        format_hours(cell)
        if column.name == "hours"
        else shorten(format_cell(cell), _CONFIG_MOST)
        if column.role == CONFIG
        else format_cell(cell)
        for column, cell in zip(columns, cells, strict=True)
    ]


def format_cell(cell: Any) -> str:
    """Return a cell as short text: the best behind the last value where it is another."""
    match cell:
        case None:
            return ""
        case str():
            return cell
        case bool():
            return str(cell).lower()
        case Score():
            last, best = format_number(cell.last), format_number(cell.best)
            return last if best in (last, "nan") else f"{last} ({best})"
        case Spread():
            return format_spread(cell.mean, cell.deviation)
        case Progress():
            done = cell.steps is None or cell.steps == cell.step
            return str(cell.step) if done else f"{cell.step}/{cell.steps}"
        case int():
            return str(cell)
        case _:
            return format_number(cell)


def format_number(value: float | None, digits: int = 4) -> str:
    """Return a number in as many significant digits, "" for None; large ones keep their whole."""
    if value is None:
        return ""
    if not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:.0f}"
    return f"{value:.{digits}g}"


def format_spread(mean: float, deviation: float) -> str:
    """Return mean and deviation, both to the second digit of the deviation."""
    if math.isnan(deviation):
        return format_number(mean)
    if deviation == 0:
        return f"{format_number(mean)} {PLUS_MINUS} 0"
    places = max(0, 1 - math.floor(math.log10(deviation)))
    if places > 8:
        return f"{format_number(mean)} {PLUS_MINUS} {deviation:.2g}"
    return f"{mean:.{places}f} {PLUS_MINUS} {deviation:.{places}f}"


def format_hours(hours: float | None) -> str:
    """Return a duration as `0:07` or `53:20`, hours and minutes."""
    if hours is None:
        return ""
    minutes = round(hours * 60)
    return f"{minutes // 60}:{minutes % 60:02d}"


def shorten(text: str, width: int) -> str:
    """Return text within `width`, its middle replaced by dots; both ends tell runs apart."""
    if len(text) <= width:
        return text
    if width < 6:
        return text[:width]
    tail = (width - 2) // 2
    return text[: width - 2 - tail] + ".." + text[len(text) - tail :]


def finite(value: Any) -> Any:
    """Return json values with null for every number that json has no word for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(each) for key, each in value.items()}  # type: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]  # type: ignore[reportUnknownVariableType]
    return value


def _short_titles(columns: Sequence[Column]) -> list[str]:
    """Return the titles, config keys by as many of their last words as tell them apart."""
    taken = {column.name for column in columns if column.role != CONFIG}
    keys = [column.name for column in columns if column.role == CONFIG]
    titles: list[str] = []
    for column in columns:
        title = column.name
        if column.role == CONFIG:
            words = column.name.split(".")
            ends = [".".join(words[-count:]) for count in range(1, len(words) + 1)]
            title = next(
                end
                for end in ends
                if end == column.name or (end not in (*taken, *_VAGUE) and _is_only(end, keys))
            )
        titles.append(title)
    return titles


def _is_only(end: str, keys: Sequence[str]) -> bool:
    return sum(key == end or key.endswith(f".{end}") for key in keys) == 1


def _fit(
    columns: Sequence[Column], widths: Sequence[int], limit: int | None
) -> tuple[list[int], list[int]]:
    """Return the places of the columns that fit and their widths.

    Names are shortened first; then configs and metrics go, from the right, the more numerous first.
    """
    shown, final = list(range(len(columns))), list(widths)
    name = next(place for place, column in enumerate(columns) if column.name == "name")
    least = min(_NAME_MIN, widths[name])

    def room(name_width: int) -> int:
        used = sum(widths[place] for place in shown) + len(_GAP) * (len(shown) - 1)
        return (limit or 0) - (used - widths[name] + name_width)

    if limit is None:
        return shown, final
    while room(least) < 0:
        configs = [place for place in shown if columns[place].role == CONFIG]
        metrics = [place for place in shown if columns[place].role == METRIC]
        if not configs and not metrics:
            break
        shown.remove((configs if len(configs) > len(metrics) else metrics or configs)[-1])
    final[name] = min(widths[name], max(least, least + room(least)))
    return shown, [final[place] for place in shown]


def _line(
    columns: Sequence[Column], cells: Sequence[str], shown: Sequence[int], widths: Sequence[int]
) -> str:
    parts: list[str] = []
    for place, width in zip(shown, widths, strict=True):
        text = shorten(cells[place], width)
        parts.append(text.ljust(width) if columns[place].is_text else text.rjust(width))
    return _GAP.join(parts).rstrip()


def _remarks(remarks: Sequence[str]) -> Iterable[str]:
    if not remarks:
        return []
    more = len(remarks) - _REMARKS
    rest = [f"... and {more} more: see the page or --csv"] if more > 0 else []
    return [*remarks[:_REMARKS], *rest, ""]


def _csv_heads(column: Column, is_grouped: bool) -> list[str]:
    if column.role == METRIC and is_grouped:
        ends = ("", " std", " best", " best std", " n")
        return [f"{column.name}{end}" for end in ends]
    if column.role == METRIC:
        return [column.name, f"{column.name} best", f"{column.name} best step"]
    if column.name == "loss" and is_grouped:
        return ["loss", "loss std"]
    if is_grouped:
        return [column.name]
    return {"state": ["state", "cause"], "step": ["step", "steps"]}.get(column.name, [column.name])


def _csv_values(heads: Sequence[str], cell: Any, row: RunRow) -> Sequence[Any]:
    match cell:
        case Spread():
            deviations = (_known(cell.deviation), cell.best_mean, _known(cell.best_deviation))
            return (cell.mean, *deviations, cell.runs)[: len(heads)]
        case Score() | Progress():
            return cell
        case str() if heads[-1] == "cause":
            return (row.state, row.cause)
        case _:
            return (cell, *(None for _ in heads[1:]))


def _escape(cell: str) -> str:
    return cell.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _json_line(
    columns: Sequence[Column], cells: Sequence[Any], rows: Sequence[RunRow]
) -> dict[str, Any]:
    pairs = list(zip(columns, cells, strict=True))
    facts = {
        column.name: cell._asdict() if isinstance(cell, Progress | Spread) else cell
        for column, cell in pairs
        if column.role not in (METRIC, CONFIG)
    }
    found = {c.name: cell for c, cell in pairs if c.role == METRIC and cell is not None}
    metrics = {name: cell._asdict() for name, cell in found.items()}
    line = {**facts, "metrics": metrics, "paths": [row.path for row in rows]}
    line["config"] = {c.name: cell for c, cell in pairs if c.role == CONFIG}
    if len(rows) == 1:
        row = rows[0]
        line |= {"state": row.state, "cause": row.cause, "reason": row.reason}
        line |= {"step": row.step, "steps": row.steps, "saved_step": row.saved_step}
        line |= {"updated": row.updated, "code": row.code, "problems": row.problems}
        line |= {"last": row.last, "best": row.best, "facts": dict(row.facts)}
    return line
