"""Rows of `jobs.collect` as one html page: table, curves, details of every run.

The page is a single file without outside parts. Everything that comes from a run is escaped; the
table and the plots are there without JavaScript, which only sorts and filters.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Sequence
from html import escape
from pathlib import Path

from jobs.chart import COLORS, line_chart, sparkline
from jobs.collect import RunRow, metric_names
from jobs.metrics_file import LOSS, find_best
from jobs.report_assets import SCRIPT, STYLE
from jobs.report_table import FIXED, format_hours, format_number, summary

_TEXT = ("kind", "name", "state")
_TITLES = {LOSS: "training loss"}
# Beyond these a plot is unreadable; the newest runs are shown.
_PLOTS, _RUNS_IN_PLOT = 9, len(COLORS)
# Details with plots; the rest is in the table and in the csv.
_DETAILED_RUNS = 200


def write_report(path: Path, rows: Sequence[RunRow], title: str) -> None:
    """Write the page, replacing an older one whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=".report-")
    with open(handle, "w", encoding="utf-8") as file:
        file.write(render_html(rows, title))
    os.chmod(beside, 0o644)
    os.replace(beside, path)


def render_html(rows: Sequence[RunRow], title: str) -> str:
    """Return the page."""
    now = time.strftime("%Y-%m-%d %H:%M")
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
            f'<h1>{escape(title)}</h1><div class="soft">{escape(summary(rows))}, {now}</div>',
            _table(rows) if rows else "<p>No runs yet.</p>",
            _comparison(rows),
            _details(rows),
            f"<script>{SCRIPT}</script></body></html>",
        ]
    )


def _table(rows: Sequence[RunRow]) -> str:
    metrics = metric_names(rows)
    heads = "".join(_head(name) for name in (*FIXED, *metrics))
    winners = {
        name: find_best(name, [row.last[name] for row in rows if name in row.last])
        for name in metrics
    }
    lines = [_row(index, row, metrics, winners) for index, row in enumerate(rows)]
    return (
        '<div class="bar"><input id="filter" type="search" placeholder="Filter runs" '
        'aria-label="Filter runs"><span class="soft">Click a column to sort. Metrics: last value, '
        "best on the way in brackets; bold is the highest of all runs (losses: lowest).</span>"
        f'</div><div class="frame"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _head(name: str) -> str:
    kind = ' class="text"' if name in _TEXT else ""
    group, slash, metric = name.rpartition("/")
    label = f"<small>{escape(group)}</small>{escape(metric)}" if slash else escape(name)
    return f'<th data-name="{escape(name)}"{kind}><button>{label}</button></th>'


def _row(index: int, row: RunRow, metrics: Sequence[str], winners: dict[str, float]) -> str:
    name = escape(row.name)
    shown = f'<a href="#run-{index}">{name}</a>' if index < _DETAILED_RUNS else name
    said = escape("; ".join([row.note, *row.problems] if row.note else row.problems))
    warning = ' <span class="warn">!</span>' if row.problems else ""
    cells = [
        f'<td class="text">{escape(row.kind)}</td><td class="text">{shown}</td>',
        f'<td class="text" title="{said}"><span class="state {row.state}">{row.state}</span>'
        f"{warning}</td>",
        _cell(row.step, "" if row.step is None else f"{row.step:,}"),
        _cell(row.attempts, str(row.attempts)),
        _cell(row.hours, format_hours(row.hours)),
        _cell(row.loss, sparkline(row.curves.get(LOSS, [])) + format_number(row.loss)),
    ]
    for metric in metrics:
        last, best = row.last.get(metric), row.best.get(metric)
        text = format_number(last)
        if format_number(best) not in (text, "nan", ""):
            text += f" <small>({format_number(best)})</small>"
        cells.append(_cell(last, text, is_top=last is not None and last == winners[metric]))
    return f"<tr>{''.join(cells)}</tr>"


def _cell(value: float | None, text: str, is_top: bool = False) -> str:
    known = value is not None and math.isfinite(value)
    top = ' class="top"' if is_top else ""
    return f'<td{top} data-value="{value if known else ""}">{text}</td>'


def _comparison(rows: Sequence[RunRow]) -> str:
    """Return one plot per metric over the newest runs, each run in one colour throughout."""
    newest = sorted((row for row in rows if row.curves), key=lambda row: row.updated)
    shown = newest[-_RUNS_IN_PLOT:]
    figures = [
        _figure(_TITLES.get(name, name), [(row.name, row.curves.get(name, [])) for row in shown])
        for name in [LOSS, *metric_names(shown)][:_PLOTS]
    ]
    if not any(figures):
        return ""
    return f'<h2>Curves over the step</h2><div class="charts">{"".join(figures)}</div>'


def _figure(title: str, series: Sequence[tuple[str, list[tuple[int, float]]]]) -> str:
    chart = line_chart(title, series)
    if not chart:
        return ""
    legend = "".join(
        f'<span><i style="background:{COLORS[index % len(COLORS)]}"></i>{escape(label)}</span>'
        for index, (label, curve) in enumerate(series)
        if label and curve
    )
    key = f'<div class="legend">{legend}</div>' if legend else ""
    return f"<figure><figcaption>{escape(title)}</figcaption>{chart}{key}</figure>"


def _details(rows: Sequence[RunRow]) -> str:
    if not rows:
        return ""
    parts = [_detail(index, row) for index, row in enumerate(rows[:_DETAILED_RUNS])]
    if len(rows) > _DETAILED_RUNS:
        parts.append(f"<p>{len(rows) - _DETAILED_RUNS} more runs: narrow with --kind, --name.</p>")
    return f"<h2>Runs</h2>{''.join(parts)}"


def _detail(index: int, row: RunRow) -> str:
    updated = time.strftime("%Y-%m-%d %H:%M", time.localtime(row.updated)) if row.updated else "-"
    facts = {
        "folder": row.path,
        "state": f"{row.state}: {row.note}" if row.note else row.state,
        "step": f"{row.step}, saved {row.saved_step}" if row.saved_step is not None else row.step,
        "attempts": row.attempts,
        "training time": f"{format_hours(row.hours)} h",
        "last sign of life": updated,
        **{
            name: f"{value:g} (best {row.best.get(name, value):g})"
            for name, value in sorted(row.last.items())
        },
    }
    terms = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>"
        for name, value in facts.items()
        if value is not None
    )
    problems = "".join(f'<div class="warn">{escape(problem)}</div>' for problem in row.problems)
    charts = "".join(
        _figure(_TITLES.get(name, name), [("", curve)])
        for name, curve in sorted(row.curves.items(), key=lambda item: item[0] != LOSS)
    )
    return (
        f'<details id="run-{index}"><summary><b>{escape(row.name)}</b> '
        f'<span class="soft">{escape(row.kind)}</span></summary>{problems}'
        f'<dl>{terms}</dl><div class="charts">{charts}</div></details>'
    )
