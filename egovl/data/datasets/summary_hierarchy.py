"""Which narrations lie below which summary (HierVL spec 3.2).

Three layouts are read: the released json, whose keys are summary texts, so that equal texts of two
videos share one entry; a folder of its parts, one json a row, found by their ``idx``; and ours, a
list of the same entries with ``video_uid`` beside them, found by video and time. Ours is also made
from EgoClip's table.
"""

from __future__ import annotations

import json
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from egovl.data.datasets.egoclip_table import ClipRow, read_rows

log = logging.getLogger(__name__)

Finder = Callable[[int, ClipRow], list[str]]
"""From a summary's row number and row to its narrations in the order of time."""


def narration_finder(
    hierarchy: Path | None, narrations: Path | None, *, same_source: bool = False
) -> Finder:
    """Look narrations up in a hierarchy file, or among all narrations of a table.

    Raises:
        ValueError: A hierarchy that is none.
    """
    if hierarchy is not None:
        return _warned(_folder_finder(hierarchy) if hierarchy.is_dir() else _file_finder(hierarchy))
    assert narrations is not None
    index = NarrationIndex.read(narrations)
    return _warned(lambda _, row: [r.text for r in index.within(row, same_source=same_source)])


def write_hierarchy(
    summaries: Path, narrations: Path, out: Path, *, same_source: bool = False
) -> int:
    """Write the narrations within every summary in our layout; return how many summaries."""
    index = NarrationIndex.read(narrations)
    entries = [
        hierarchy_entry(row, index.within(row, same_source=same_source))
        for row in read_summaries(summaries)
    ]
    unfinished = out.with_name(f".{out.name}")
    unfinished.write_text(json.dumps(entries), encoding="utf-8")
    unfinished.replace(out)
    return len(entries)


def read_summaries(path: Path, on_bad_row: str = "skip") -> Iterator[ClipRow]:
    """Rows of egosummary_full.csv, most of whose cells may be empty."""
    return read_rows(path, on_bad_row, gaps=True)


def hierarchy_entry(row: ClipRow, narrations: Sequence[ClipRow]) -> dict[str, Any]:
    """A summary and its narrations as the json holds them, times cut to milliseconds."""
    return {
        "video_uid": row.uid,
        "summary_text": row.text,
        "summary_start": _cut(row.start_sec),
        "summary_end": _cut(row.end_sec),
        "clip_start": [_cut(n.start_sec) for n in narrations],
        "clip_end": [_cut(n.end_sec) for n in narrations],
        "clip_text": [n.text for n in narrations],
        "tag_verb": [str(list(n.verbs)) for n in narrations],
        "tag_noun": [str(list(n.nouns)) for n in narrations],
    }


@dataclass
class NarrationIndex:
    """Narrations of every video in the order of their start."""

    rows: Mapping[str, list[ClipRow]]
    starts: Mapping[str, np.ndarray]

    @classmethod
    def read(cls, path: Path) -> NarrationIndex:
        """Take the rows of a table in EgoClip's format; bad ones are counted and left out."""
        rows: dict[str, list[ClipRow]] = defaultdict(list)
        for row in read_rows(path, "skip", gaps=True):
            rows[row.uid].append(row)
        for ordered in rows.values():
            ordered.sort(key=lambda row: row.start_sec)
        starts = {uid: np.array([r.start_sec for r in ordered]) for uid, ordered in rows.items()}
        return cls(rows, starts)

    def within(self, summary: ClipRow, *, same_source: bool = False) -> list[ClipRow]:
        """Narrations of the summary's video that lie wholly in its time."""
        if summary.uid not in self.rows:
            return []
        first = int(np.searchsorted(self.starts[summary.uid], summary.start_sec, side="left"))
        last = int(np.searchsorted(self.starts[summary.uid], summary.end_sec, side="right"))
        return [
            row
            for row in self.rows[summary.uid][first:last]
            if row.end_sec <= summary.end_sec and (not same_source or row.source == summary.source)
        ]


def _cut(seconds: float) -> float:
    return math.trunc(seconds * 1000) / 1000


def _file_finder(path: Path) -> Finder:
    stored = _read_json(path)
    if isinstance(stored, dict):
        return lambda _, row: _texts(stored.get(row.text), path, row)
    if not isinstance(stored, list):
        raise ValueError(f"{path} holds a {type(stored).__name__}, no summaries")
    by_place = {(e["video_uid"], e["summary_start"], e["summary_end"]): e for e in stored}

    def find(_: int, row: ClipRow) -> list[str]:
        entry = by_place.get((row.uid, _cut(row.start_sec), _cut(row.end_sec)))
        return _texts(entry, path, row)

    return find


def _folder_finder(folder: Path) -> Finder:
    parts: dict[int, Any] = {}
    for file in sorted(folder.glob("*.json")):
        part = _read_json(file)
        entries = [value for key, value in part.items() if key != "idx"]
        if "idx" not in part or len(entries) != 1:
            raise ValueError(f"{file} does not hold `idx` and one summary")
        parts[int(part["idx"])] = entries[0]
    return lambda number, row: _texts(parts.get(number), folder, row)


def _texts(entry: Any, path: Path, row: ClipRow) -> list[str]:
    if entry is None:
        return []
    try:
        return [str(text) for text in entry["clip_text"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: the entry of {row.text!r} has no clip_text") from error


def _warned(find: Finder) -> Finder:
    """The same; says once that summaries without narrations stand for themselves."""
    told = False

    def look_up(number: int, row: ClipRow) -> list[str]:
        nonlocal told
        found = find(number, row)
        if not found and not told:
            told = True
            log.warning(
                "summary %r of %s has no narrations, nor may others: each stands for itself",
                row.text,
                row.uid,
            )
        return found

    return look_up


def _read_json(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"annotations {path} does not exist")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not json: {error}") from error
