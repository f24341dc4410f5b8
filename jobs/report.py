"""A table of results as one html page: sortable table, curves, what every run is.

The page is a single file without outside parts. What comes from runs lies in it as json, every "<"
of it escaped, and the page's script puts it in as text, never as markup; curves are parsed and
drawn when they are looked at, so that thousands of runs open quickly. Style and script are the
files in `page/`.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from html import escape
from typing import Any, cast

from jobs.collect import Collection
from jobs.result_table import ResultTable, summary
from jobs.run_groups import seed_groups
from jobs.run_row import RunRow

_PAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "page")
_PARTS = ("page.css", "chart.js", "table.js", "runs.js")
_HEAD_BYTES = 1000

_BODY = """<body><header><h1>{title}</h1><div class="soft">{summary} &middot; {when}</div></header>
<noscript><p class="problem">This page draws its table with JavaScript, which is off here.
The same numbers: collect_results.py --markdown or --csv.</p></noscript>
<div class="bar"><input id="filter" type="search" placeholder="Filter: name, state, key=value"
 aria-label="Filter runs"><span id="states" class="chips" role="group" aria-label="States"></span>
<details id="columns" class="menu"><summary>Columns</summary><div></div></details>
<span id="shown" class="soft" aria-live="polite"></span></div>
<div class="frame" tabindex="0" role="region" aria-label="Runs"><table><thead><tr></tr></thead>
<tbody></tbody></table><div id="more"></div></div>
<section><h2>Curves</h2><div class="controls"><label>smoothing <input id="weight" type="range"
 min="0" max="0.95" step="0.05" value="0.5"><output id="weight-shown">0.5</output></label>
<label><input id="log" type="checkbox"> logarithmic</label>
<label><input id="band" type="checkbox"> mean &plusmn; deviation over seeds</label></div>
<ul id="legend" class="legend"></ul><div id="charts" class="charts"></div>
<div id="differences"></div></section>
"""


def is_current(path: str, collection: Collection, options: str) -> bool:
    """Return whether a page shows these runs, written by this code with these options."""
    key = _key(collection, options)
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return bool(key) and f'content="{escape(key)}"' in file.read(_HEAD_BYTES)
    except OSError:
        return False


def write_report(
    path: str, collection: Collection, table: ResultTable, title: str, options: str = ""
) -> None:
    """Write the page, replacing an older one whole.

    Args:
        path: of the page.
        collection: the runs.
        table: what to show of them.
        title: of the page.
        options: what the table was asked to be, for `is_current`.
    """
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    beside = f"{path}.{os.getpid()}"
    with open(beside, "w", encoding="utf-8") as file:
        file.write(render_html(collection, table, title, _key(collection, options)))
    os.replace(beside, path)


def render_html(collection: Collection, table: ResultTable, title: str, key: str = "") -> str:
    """Return the page; `key` goes into its head."""
    rows = list({id(row): row for line in table.lines for row in line.rows}.values())
    style, *scripts = [_read(name) for name in _PARTS]
    body = _BODY.format(
        title=escape(title),
        summary=escape(summary(rows)),
        when=time.strftime("%Y-%m-%d %H:%M"),
    )
    remarks = "".join(f"<li>{escape(remark)}</li>" for remark in table.remarks[:500])
    curves = "\n".join(collection.curves(rows))
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f'<meta name="runs" content="{escape(key)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title><style>{style}</style></head>",
            body,
            f'<section><h2>Remarks</h2><ul class="remarks">{remarks}</ul></section>'
            if remarks
            else "",
            _embed("data", "application/json", _data(collection, table, rows)),
            _embed("curves", "text/plain", curves),
            f'<script>"use strict";{"".join(scripts)}</script></body></html>',
        ]
    )


def _embed(name: str, kind: str, text: str) -> str:
    # inside json a "<" stands only in strings, where it may be written like this
    escaped = text.replace("<", "\\u003c")
    return f'<script type="{kind}" id="{name}">{escaped}</script>'


def _data(collection: Collection, table: ResultTable, rows: list[RunRow]) -> str:
    places = {id(row): place for place, row in enumerate(rows)}
    used = {name for row in rows for name in row.config}
    groups = [group for group in seed_groups(collection, rows) if len(group) > 1]
    values = {
        "columns": [
            [column.name, column.role, column.better, column.is_text] for column in table.columns
        ],
        "lines": [[line.cells, [places[id(row)] for row in line.rows]] for line in table.lines],
        "fields": RunRow._fields,
        "rows": rows,
        "parts": {name: collection.part(name) for name in used},
        "groups": [[places[id(row)] for row in group] for group in groups],
        "isGrouped": any(column.name == "runs" for column in table.columns),
        "isOrdered": table.is_ordered,
    }
    try:
        return json.dumps(values, allow_nan=False, separators=(",", ":"))
    except ValueError:
        return json.dumps(_spell(values), separators=(",", ":"))


def _spell(value: Any) -> Any:
    """Return json values with numbers that json cannot say as words."""
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    if isinstance(value, Mapping):
        return {key: _spell(each) for key, each in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_spell(each) for each in cast("list[Any]", value)]
    return value


def _read(name: str) -> str:
    with open(f"{_PAGE}/{name}", encoding="ascii") as file:
        return file.read()


def _key(collection: Collection, options: str) -> str:
    """Return a text that changes with what the page would show; empty if nothing can tell."""
    runs = collection.fingerprint()
    code = max(os.stat(f"{_PAGE}/{name}").st_mtime_ns for name in _PARTS)
    return f"{runs} {code} {options}" if runs else ""
