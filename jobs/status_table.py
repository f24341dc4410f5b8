"""Runs as text for a terminal: the table of `list` and `status`, at any width."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Sequence

from jobs.judgement import GOING_ON, STATES
from jobs.status import RunStatus

_HEAD = ("KIND", "NAME", "STATE", "TRY", "STEP", "LEFT", "JOB", "AGE")
_RIGHT = frozenset((3, 4, 5, 7))
_NAME, _STATE = 1, 2
_GAP = "  "
_NAME_MIN, _NAME_LONG = 20, 32
_NOTE_SHORT = 20
_NOTE_MIN = 40  # a note that is cut needs this much room beside its run
_INDENT = "    "
_COLOURS = {"running": 32, "queued": 33, "waiting": 33, "lost": 31, "failed": 31, "unknown": 35}


def render_table(rows: Sequence[RunStatus], width: int | None, *, colour: bool = False) -> str:
    """Return a table of runs; a note that has no room beside its run stands below it.

    Args:
        rows: the runs, in the order to show.
        width: characters in a line, None for no limit.
        colour: whether states are coloured.
    """
    now = time.time()
    cells = [_cells(row, now) for row in rows]
    widths = [max(len(line[i]) for line in [_HEAD, *cells]) for i in range(len(_HEAD))]
    notes = [describe_note(row, now) for row in rows]
    # long names give way to short notes, and shorter ones only to the other columns
    shown = min(_NOTE_SHORT, max(map(len, notes), default=0)) + len(_GAP)
    for least, beside in ((_NAME_LONG, shown), (_NAME_MIN, 0)):
        over = sum(widths) + len(_GAP) * (len(widths) - 1) + beside - (width or 10**6)
        widths[_NAME] = max(min(least, widths[_NAME]), widths[_NAME] - max(0, over))
    used = sum(widths) + len(_GAP) * len(widths)
    lines = [_line(_HEAD, widths, "")]
    for row, line, note in zip(rows, cells, notes, strict=True):
        text = _line(line, widths, row.state if colour else "")
        room = len(note) if width is None else width - used
        if note and (len(note) <= room or room >= _NOTE_MIN):
            lines.append(text + _GAP + cut(note, room))
            lines[0] = _line(_HEAD, widths, "") + _GAP + "NOTE"
            continue
        lines.append(text)
        if note:
            lines.append(_INDENT + cut(note, (width or len(note)) - len(_INDENT)))
    return "\n".join(line.rstrip() for line in lines)


def _cells(row: RunStatus, now: float) -> list[str]:
    attempt = str(row.attempt) if row.attempt else ""
    age = format_duration(now - row.since) if row.since else ""
    left = "" if row.left_sec is None else format_duration(row.left_sec)
    job_id = row.job_id if row.executor in ("slurm", "") else f"pid {row.job_id}"
    return [row.kind, row.name, row.state, attempt, describe_step(row), left, job_id, age]


def _line(cells: Sequence[str], widths: Sequence[int], state: str) -> str:
    parts: list[str] = []
    for column, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        text = shorten(cell, width)
        text = text.rjust(width) if column in _RIGHT else text.ljust(width)
        code = _COLOURS.get(state) if column == _STATE else None
        parts.append(f"\x1b[{code}m{text}\x1b[0m" if code else text)
    return _GAP.join(parts)


def describe_step(row: RunStatus) -> str:
    """Return `120/5000`, `120`, or nothing."""
    if row.step is None:
        return ""
    return f"{row.step}/{row.steps}" if row.steps else str(row.step)


def describe_note(row: RunStatus, now: float) -> str:
    """Return what a reader has to know beyond the state: why it waits, why it ended."""
    words: list[str] = []
    if row.pending:
        words.append(row.pending)
        if row.starts and row.starts > now:
            words.append(f"starts about {format_clock(row.starts, now)}")
    if row.state in GOING_ON:
        if row.cause:
            words.append(f"after {row.cause}")
        elif row.reason:
            words.append(row.reason)
    elif row.state != "done":
        words.append(": ".join(each for each in (row.cause, row.reason) if each))
    return ", ".join(" ".join(word.split()) for word in words if word)


def summarise(rows: Sequence[RunStatus]) -> str:
    """Return one line: how many runs there are in which state."""
    counts = Counter(row.state for row in rows)
    states = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    return f"{len(rows)} run{'s' if len(rows) != 1 else ''}: {states}" if rows else "no runs"


def format_duration(seconds: float) -> str:
    """Return `45s`, `12m`, `2h10m`, `3d4h`: at most two units."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    minutes, hours, days = whole // 60 % 60, whole // 3600 % 24, whole // 86400
    if days >= 10:
        return f"{days}d"
    if days:
        return f"{days}d{hours}h" if hours else f"{days}d"
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m"


def format_clock(moment: float, now: float) -> str:
    """Return a time of day, with the date if it is not within half a day."""
    local = time.localtime(moment)
    return time.strftime("%H:%M" if abs(moment - now) < 43200 else "%a %d %b %H:%M", local)


def shorten(text: str, width: int) -> str:
    """Return text within `width`, its middle replaced by dots: both ends tell runs apart."""
    if len(text) <= width:
        return text
    from jobs.report_table import shorten as shorten_middle  # only where something is too long

    return shorten_middle(text, width)


def cut(text: str, width: int) -> str:
    """Return the beginning of a text, within `width`."""
    return text if len(text) <= width else text[: max(0, width - 2)].rstrip() + ".."


def wants_colour() -> bool:
    """Return whether standard output is a terminal that shows colours."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and "NO_COLOR" not in os.environ
