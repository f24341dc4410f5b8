"""EgoClip's tab separated table, converted row by row, every cell checked."""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import pyarrow as pa

from egovl.data.annotations import ClipTable, ClipTableWriter, Conversion, converted
from egovl.data.manifest import and_manifest

log = logging.getLogger(__name__)

COLUMNS = (
    "clip_idx",
    "video_uid",
    "video_dur",
    "narration_source",
    "narration_ind",
    "narration_time",
    "clip_start",
    "clip_end",
    "clip_text",
    "tag_verb",
    "tag_noun",
)
NUM_VERBS, NUM_NOUNS = 118, 582
_VERSION = 1  # of what is converted
_INTEGER_LIST = re.compile(r"\[\s*(\d+\s*(,\s*\d+\s*)*,?\s*)?\]")


class BadRowError(ValueError):
    """A row that cannot be read; the message names file and line."""


def load_table(
    path: Path,
    on_bad_row: Literal["raise", "skip"],
    cache_folder: Path | None = None,
    manifest: Path | None = None,
) -> ClipTable:
    """The converted table, made now if it is missing or old; columns ``text, verbs, nouns``.

    With a manifest, only rows of its videos.

    Raises:
        FileNotFoundError: No such file.
        BadRowError: A row cannot be read, and bad rows are not skipped.
        ValueError: The file has no rows or lacks a column.
    """
    write = partial(_convert, path, on_bad_row, manifest)
    conversion = Conversion("egoclip", _VERSION, on_bad_row, write)
    return ClipTable(converted(and_manifest([path], manifest), conversion, cache_folder))


@dataclass(frozen=True, slots=True)
class _Row:
    uid: str
    start_sec: float
    end_sec: float
    narration_sec: float
    text: str
    verbs: tuple[int, ...]
    nouns: tuple[int, ...]


def _convert(path: Path, on_bad_row: str, manifest: Path | None, folder: Path) -> None:
    numbers = pa.list_(pa.int16())
    columns = {"text": pa.large_string(), "verbs": numbers, "nouns": numbers}
    writer, first_bad, num_bad = ClipTableWriter(folder, columns, manifest), "", 0
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file, delimiter="\t")
        position = _positions(next(rows, []), path)
        tags: dict[str, tuple[int, ...]] = {}
        for cells in rows:
            try:
                row = _read_row(cells, position, tags)
            except ValueError as error:
                message = f"{path}, line {rows.line_num}: {error}"
                if on_bad_row == "raise":
                    raise BadRowError(
                        f"{message}; correct it or set dataset.on_bad_row=skip"
                    ) from error
                num_bad += 1
                first_bad = first_bad or message
                continue
            writer.add(
                row.uid,
                row.start_sec,
                row.end_sec,
                row.narration_sec,
                text=row.text,
                verbs=row.verbs,
                nouns=row.nouns,
            )
    if num_bad:
        log.warning("%d rows of %s skipped, the first: %s", num_bad, path, first_bad)
    if writer.is_empty:
        raise ValueError(f"{path} has no rows")
    writer.close()


def _positions(header: Sequence[str], path: Path) -> list[int]:
    """Where the needed columns stand; a file without a header or columns says so."""
    if not header:
        raise ValueError(f"{path} is empty")
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise ValueError(f"{path} lacks the columns {missing}; it has {list(header)}")
    return [list(header).index(name) for name in COLUMNS]


def _read_row(
    cells: Sequence[str], position: Sequence[int], tags: dict[str, tuple[int, ...]]
) -> _Row:
    if len(cells) != len(position):
        raise ValueError(f"{len(cells)} cells instead of {len(position)}")
    _, uid, duration, _, _, narration, start, end, text, verbs, nouns = (cells[i] for i in position)
    start_sec, end_sec = max(float(start), 0.0), max(float(end), 0.0)
    if not start_sec < end_sec:
        raise ValueError(f"clip_start {start} and clip_end {end} hold no time")
    if start_sec >= float(duration):
        raise ValueError(f"clip_start {start} lies behind the video's end at {duration} s")
    if not uid:
        raise ValueError("video_uid is empty")
    return _Row(
        uid=uid,
        start_sec=start_sec,
        end_sec=end_sec,
        narration_sec=float(narration),
        text=text,
        verbs=_tags(verbs, NUM_VERBS, tags),
        nouns=_tags(nouns, NUM_NOUNS, tags),
    )


def _tags(cell: str, limit: int, known: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    """Numbers of a list literal. The published reader evaluates the cell as code."""
    values = known.get(cell)
    if values is None:
        if not _INTEGER_LIST.fullmatch(cell.strip()):
            raise ValueError(f"{cell!r} is not a list of class numbers")
        values = known[cell] = tuple(_numbers(cell))
    if values and max(values) >= limit:
        raise ValueError(f"{cell!r} has a class number of {limit} or more")
    return values


def _numbers(cell: str) -> Iterator[int]:
    return (int(number) for number in re.findall(r"\d+", cell))
