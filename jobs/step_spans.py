"""Which steps an attempt made and when, found in `metrics.jsonl` by bisection.

The file only grows, and its lines come attempt by attempt (an older one is fenced off), so the
place where an attempt begins is found with a few dozen small reads, however long the run.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

_BLOCK = 8192


@dataclass(frozen=True)
class Span:
    """First and last step of an attempt, and the times at which they were written."""

    step_first: int
    step_last: int
    began: float
    ended: float


class StepSpans:
    """Looks into one `metrics.jsonl`."""

    def __init__(self, path: Path) -> None:
        try:
            self._file: int | None = os.open(path, os.O_RDONLY)
            self._size = os.fstat(self._file).st_size
        except OSError:
            self._file, self._size = None, 0

    def __enter__(self) -> StepSpans:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            os.close(self._file)

    def find(self, attempt: int) -> Span | None:
        """Return what an attempt wrote; None if it wrote nothing."""
        start = self._first_offset(attempt)
        end = self._first_offset(attempt + 1)
        found, last = self._record_after(start), self._record_before(end)
        if found is None or last is None or found[1]["attempt"] != attempt:
            return None
        first = found[1]
        began, ended = (float(each.get("time") or 0.0) for each in (first, last))
        return Span(int(first["step"]), int(last["step"]), began, ended)

    def last_evaluation(self) -> dict[str, Any]:
        """Return the newest evaluation within the last two blocks; empty if there is none."""
        start = max(0, self._size - 2 * _BLOCK)
        for line in reversed(self._read(start, 2 * _BLOCK).splitlines()):
            record = _parse(line)
            if record is not None and record.get("kind") == "eval":
                return record
        return {}

    def _read(self, start: int, size: int) -> bytes:
        return b"" if self._file is None else os.pread(self._file, size, start)

    def _first_offset(self, attempt: int) -> int:
        """Return the smallest offset behind which no line is of an older attempt."""
        low, high = 0, self._size
        while low < high:
            middle = (low + high) // 2
            found = self._record_after(middle)
            if found is None or found[1]["attempt"] >= attempt:
                high = middle
            else:
                low = found[0]
        return low

    def _record_after(self, offset: int) -> tuple[int, dict[str, Any]] | None:
        """Return the first whole record that starts at or after an offset, and where it ends."""
        text, place = b"", max(0, offset - 1)
        is_start = offset == 0
        while place + len(text) < self._size:
            more = self._read(place + len(text), _BLOCK)
            if not more:
                return None
            text += more
            while (end := text.find(b"\n")) >= 0:
                line, text = text[:end], text[end + 1 :]
                place += end + 1
                record = _parse(line) if is_start else None
                is_start = True
                if record is not None:
                    return place, record
        return None

    def _record_before(self, end: int) -> dict[str, Any] | None:
        """Return the last whole record that starts before an offset."""
        size = _BLOCK
        while True:
            start = max(0, end - size)
            text = self._read(start, end - start + _BLOCK)
            found = None
            place = start
            for number, line in enumerate(text.splitlines(keepends=True)):
                if place >= end:
                    break
                is_whole = line.endswith(b"\n") and (number > 0 or start == 0)
                found = (_parse(line) if is_whole else None) or found
                place += len(line)
            if found is not None or start == 0:
                return found
            size *= 2


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict):
        return None
    known = cast("dict[str, Any]", record)
    known.setdefault("attempt", 1)
    return known if isinstance(known.get("step"), int) else None
