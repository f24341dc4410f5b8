"""What run folders said, by their times and sizes, so that only changed ones are read again.

Two append-only files in the folder of runs, one json list a line; the last line of a path counts.
Losing them costs only time, so a damaged line is dropped and its run read again.

    .collect.jsonl         ["run", *Entry] and ["part", name, {"dotted.key": value}]
    .collect-curves.jsonl  ["path", metrics mtime, size, {"metric": [steps, values]}]
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

from jobs.run_row import RunRow

INDEX_NAME, CURVES_NAME = ".collect.jsonl", ".collect-curves.jsonl"
# Another version of this program may have other fields: its index is not read.
_HEAD = json.dumps(["egovl collect", 2, *RunRow._fields])
_RUN_FIELDS, _PART_FIELDS, _ROW_FIELDS = 7, 3, len(RunRow._fields)


class Entry(NamedTuple):
    """What is known of one run, and of when; times in ns since 1970, sizes in bytes."""

    folder_time: int
    metrics_time: int
    metrics_size: int
    checkpoint_time: int
    is_settled: int
    row: RunRow

    def line(self) -> str:
        """Return the entry as a line of the index."""
        return json.dumps(["run", *self])

    def curve_line(self, curves: str) -> str:
        """Return the line of its curves, given as json text."""
        return f"{self._curve_stamp()}{curves}]"

    def _curve_stamp(self) -> str:
        return f"[{json.dumps(self.row.path)}, {self.metrics_time}, {self.metrics_size}, "

    def curves_in(self, line: str) -> str | None:
        """Return the curves in a line; None if it is of another state of the run, or damaged."""
        stamp = self._curve_stamp()
        return line[len(stamp) : -1] if line.startswith(stamp) and line.endswith("}]") else None


class RunIndex:
    """The remembered rows of one folder of runs.

    Attributes:
        entries: path of the run -> what is known.
        parts: name of a part of a config -> its dotted keys.
    """

    def __init__(self, runs: str) -> None:
        self._file = f"{runs}/{INDEX_NAME}"
        self._curves = f"{runs}/{CURVES_NAME}"
        self.entries: dict[str, Entry] = {}
        self.parts: dict[str, dict[str, Any]] = {}
        lines = _read_lines(self._file)
        self._is_ours = bool(lines) and lines[0] == _HEAD
        self._count = len(lines)
        if self._is_ours:
            self.add(lines)

    def add(self, lines: Sequence[str]) -> None:
        """Take lines of the index; those that are damaged or of another form are passed over."""
        try:
            parsed: list[Any] = json.loads(f"[{','.join(lines)}]")
        except ValueError:
            parsed = list(_parse_each(lines))
        for line in parsed:
            if line[0] == "run" and len(line) == _RUN_FIELDS and len(line[6]) == _ROW_FIELDS:
                row = RunRow._make(line[6])
                self.entries[row.path] = Entry._make([*line[1:6], row])
            elif line[0] == "part" and len(line) == _PART_FIELDS:
                self.parts[line[1]] = line[2]

    def save(self, lines: Sequence[str], curves: Sequence[str], known: Iterable[str]) -> list[str]:
        """Append what is new, or write all anew where most lines are outdated.

        Args:
            lines: of the index.
            curves: lines of the curves.
            known: paths of all runs there are.

        Returns:
            Why it could not be remembered, nothing if it was.
        """
        if not lines:
            return []
        try:
            _append(self._file, lines, is_new=not self._is_ours)
            _append(self._curves, curves, is_new=not self._is_ours)
            if self._count + len(lines) > 100 + 2 * (len(self.entries) + len(self.parts)):
                self._compact(known)
        except OSError as error:
            return [f"what was read is not remembered: {error}"]
        return []

    def fingerprint(self) -> str:
        """Return a text that changes with the index; empty if there is none."""
        try:
            state = os.stat(self._file)
        except OSError:
            return ""
        return f"{state.st_ino}-{state.st_mtime_ns}-{state.st_size}"

    def load_curves(self) -> dict[str, str]:
        """Return path -> json text of a run's curves, where they are known and up to date."""
        found: dict[str, str] = {}
        for line in _read_lines(self._curves)[1:]:
            entry = self.entries.get(line[2 : line.find('", ')])
            curves = entry.curves_in(line) if entry else None
            if entry and curves:
                found[entry.row.path] = curves
        return found

    def _compact(self, known: Iterable[str]) -> None:
        curves = self.load_curves()
        entries = [self.entries[path] for path in known if path in self.entries]
        used = {name for entry in entries for name in entry.row.config}
        lines = [part_line(name, flat) for name, flat in self.parts.items() if name in used]
        _replace(self._file, [_HEAD, *lines, *(entry.line() for entry in entries)])
        curve_lines = [
            entry.curve_line(curves[entry.row.path])
            for entry in entries
            if entry.row.path in curves
        ]
        _replace(self._curves, [_HEAD, *curve_lines])


def part_line(name: str, flat: Mapping[str, Any]) -> str:
    """Return the line of a part of a config."""
    return json.dumps(["part", name, flat])


def _read_lines(path: str) -> list[str]:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().split("\n")
    except OSError:
        return []


def _parse_each(lines: Sequence[str]) -> Iterable[list[Any]]:
    for line in lines:
        try:
            value: Any = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, list) and value:
            yield cast("list[Any]", value)


def _append(path: str, lines: Sequence[str], *, is_new: bool) -> None:
    """Add lines in one write; the first starts a line, whatever a killed writer left."""
    text = "\n".join(["", *lines])
    flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if is_new else os.O_APPEND)
    with open(os.open(path, flags, 0o644), "w", encoding="ascii") as file:
        file.write(_HEAD + text if is_new else text)


def _replace(path: str, lines: Sequence[str]) -> None:
    beside = f"{path}.{os.getpid()}"
    with open(beside, "w", encoding="ascii") as file:
        file.write("\n".join(lines))
    os.replace(beside, path)
