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
_NAME_MIN, _NOTE_MIN = 20, 40
_INDENT = "    "
_COLOURS = {"running": 32, "queued": 33, "waiting": 33, "lost": 31, "failed": 31, "unknown": 35}


def render_table(rows: Sequence[RunStatus], width: int | None, *, colour: bool = False) -> str:
    """Return a table of runs; where a note has no room beside its run, it stands below it.

    Args:
        rows: the runs, in the order to show.
        width: characters in a line, None for no limit.
        colour: whether states are coloured.
    """
    now = time.time()
    cells = [_cells(row, now) for row in rows]
    notes = [describe_note(row, now) for row in rows]
    widths = [max(len(line[i]) for line in [_HEAD, *cells]) for i in range(len(_HEAD))]
    room = _note_room(widths, width, notes)
    is_beside = room is None or room > 0
    lines = [_line(_HEAD, widths, "") + (_GAP + "NOTE" if is_beside and any(notes) else "")]
    for row, line, note in zip(rows, cells, notes, strict=True):
        text = _line(line, widths, row.state if colour else "")
        if note and is_beside:
            text += _GAP + (note if room is None else cut(note, room))
        lines.append(text)
        if note and not is_beside:
            lines.append(_INDENT + cut(note, (width or len(note)) - len(_INDENT)))
    return "\n".join(line.rstrip() for line in lines)


def _note_room(widths: list[int], width: int | None, notes: Sequence[str]) -> int | None:
    """Shorten the column of names until all fits; return what is left for the notes beside."""
    if width is None:
        return None
    spare = width - (sum(widths) - widths[_NAME]) - len(_GAP) * (len(widths) - 1)
    least = min(_NAME_MIN, widths[_NAME])
    wanted = min(_NOTE_MIN, max(map(len, notes), default=0))
    beside = spare - len(_GAP) - wanted
    has_room = wanted > 0 and beside >= least
    widths[_NAME] = min(widths[_NAME], max(least, beside if has_room else spare))
    return spare - widths[_NAME] - len(_GAP) if has_room else 0


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
    from jobs.report_table import shorten as shorten_middle  # only where something is too long

    return text if len(text) <= width else shorten_middle(text, width)


def cut(text: str, width: int) -> str:
    """Return the beginning of a text, within `width`."""
    return text if len(text) <= width else text[: max(0, width - 2)].rstrip() + ".."


def wants_colour() -> bool:
    """Return whether standard output is a terminal that shows colours."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and "NO_COLOR" not in os.environ
