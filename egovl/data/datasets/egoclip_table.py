"""The EgoClip table, packed: numpy columns and one text blob, memory mapped from a cache folder.

3.8 million rows parse once; afterwards every process of a node maps the same pages. The packed copy
is named after the size and time of the annotation file, so a changed file is parsed again.
"""

from __future__ import annotations

import csv
import hashlib
import logging
import os
import re
import shutil
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

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
_FORMAT = 1  # of the packed copy
_INTEGER_LIST = re.compile(r"\[\s*(\d+\s*(,\s*\d+\s*)*,?\s*)?\]")


class BadRowError(ValueError):
    """A row that cannot be read; the message names file and line."""


@dataclass(frozen=True)
class EgoClipTable:
    """Columns of ``N`` rows.

    Attributes:
        video: ``[N]`` int32, position in ``uids``.
        start_sec: ``[N]`` float64, cut at 0. Likewise ``end_sec``.
        narration_sec: ``[N]`` float64.
        text_ends: ``[N]`` int64, end of each text in ``text_bytes`` (UTF-8).
        verb_ends: ``[N]`` int64, end of each row's tags in ``verbs`` int16. Likewise nouns.
        uid_ends: ``[V]`` int64, end of each video id in ``uid_bytes``.
    """

    folder: Path
    video: np.ndarray
    start_sec: np.ndarray
    end_sec: np.ndarray
    narration_sec: np.ndarray
    text_bytes: np.ndarray
    text_ends: np.ndarray
    verbs: np.ndarray
    verb_ends: np.ndarray
    nouns: np.ndarray
    noun_ends: np.ndarray
    uid_bytes: np.ndarray
    uid_ends: np.ndarray

    def __len__(self) -> int:
        return len(self.video)

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        # a started process maps the files again instead of receiving copies
        return map_table, (self.folder,)

    def text(self, row: int) -> str:
        """Narration of a row."""
        return _text(self.text_bytes, self.text_ends, row)

    def uid(self, row: int) -> str:
        """Video id of a row."""
        return _text(self.uid_bytes, self.uid_ends, int(self.video[row]))

    def tags(self, row: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Verb and noun ids of a row."""
        return (
            tuple(_part(self.verbs, self.verb_ends, row).tolist()),
            tuple(_part(self.nouns, self.noun_ends, row).tolist()),
        )


def _part(values: np.ndarray, ends: np.ndarray, row: int) -> np.ndarray:
    return values[(ends[row - 1] if row else 0) : ends[row]]


def _text(data: np.ndarray, ends: np.ndarray, row: int) -> str:
    return _part(data, ends, row).tobytes().decode("utf-8")


def load_table(
    path: Path, on_bad_row: Literal["raise", "skip"], cache_folder: Path | None = None
) -> EgoClipTable:
    """The packed copy of an annotation file, made now if it is missing or old.

    Raises:
        FileNotFoundError: No such file.
        BadRowError: A row cannot be read, and bad rows are not skipped.
        ValueError: The file has no rows or lacks a column.
    """
    if not path.is_file():
        raise FileNotFoundError(f"annotations {path} does not exist")
    stat = path.stat()
    key = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns} {on_bad_row} {_FORMAT}"
    name = f"{path.name}.packed-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    for parent in (cache_folder or path.parent, _private_folder()):
        packed = parent / name
        if packed.is_dir():
            return map_table(packed)
        try:
            parent.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=parent))
        except OSError as error:
            log.info("cannot keep the packed table in %s (%s)", parent, error)
            continue
        return _pack(path, on_bad_row, scratch, packed)
    raise OSError(f"no writable folder for the packed copy of {path}; set dataset.cache_folder")


def _private_folder() -> Path:
    return Path(tempfile.gettempdir()) / f"egovl-tables-{os.getuid()}"


def _pack(path: Path, on_bad_row: str, scratch: Path, packed: Path) -> EgoClipTable:
    """Parse into ``scratch`` and rename; of several processes that do so at once, one wins."""
    try:
        for column, values in _parse(path, on_bad_row).items():
            np.save(scratch / f"{column}.npy", values)
        try:
            scratch.rename(packed)
        except OSError:
            if not packed.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return map_table(packed)


def map_table(folder: Path) -> EgoClipTable:
    """Map a packed copy."""
    names = [name for name in EgoClipTable.__dataclass_fields__ if name != "folder"]
    columns = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names}
    return EgoClipTable(folder=folder, **columns)


@dataclass
class _Builder:
    video: array[int] = field(default_factory=lambda: array("i"))
    start_sec: array[float] = field(default_factory=lambda: array("d"))
    end_sec: array[float] = field(default_factory=lambda: array("d"))
    narration_sec: array[float] = field(default_factory=lambda: array("d"))
    text_bytes: bytearray = field(default_factory=bytearray)
    text_ends: array[int] = field(default_factory=lambda: array("q"))
    verbs: array[int] = field(default_factory=lambda: array("h"))
    verb_ends: array[int] = field(default_factory=lambda: array("q"))
    nouns: array[int] = field(default_factory=lambda: array("h"))
    noun_ends: array[int] = field(default_factory=lambda: array("q"))
    uids: dict[str, int] = field(default_factory=dict)

    def add(self, row: _Row) -> None:
        self.video.append(self.uids.setdefault(row.uid, len(self.uids)))
        self.start_sec.append(row.start_sec)
        self.end_sec.append(row.end_sec)
        self.narration_sec.append(row.narration_sec)
        self.text_bytes += row.text.encode("utf-8")
        self.text_ends.append(len(self.text_bytes))
        self.verbs.extend(row.verbs)
        self.verb_ends.append(len(self.verbs))
        self.nouns.extend(row.nouns)
        self.noun_ends.append(len(self.nouns))

    def columns(self) -> dict[str, np.ndarray]:
        uids = [uid.encode("utf-8") for uid in self.uids]
        blobs = {"text_bytes": bytes(self.text_bytes), "uid_bytes": b"".join(uids)}
        columns: dict[str, np.ndarray] = {
            name: np.frombuffer(blob, dtype=np.uint8) for name, blob in blobs.items()
        }
        columns["uid_ends"] = np.cumsum([len(uid) for uid in uids], dtype=np.int64)
        for name, value in vars(self).items():
            if isinstance(value, array):
                columns[name] = np.frombuffer(value, dtype=value.typecode)
        return columns


@dataclass(frozen=True, slots=True)
class _Row:
    uid: str
    start_sec: float
    end_sec: float
    narration_sec: float
    text: str
    verbs: tuple[int, ...]
    nouns: tuple[int, ...]


def _parse(path: Path, on_bad_row: str) -> dict[str, np.ndarray]:
    builder, first_bad, num_bad = _Builder(), "", 0
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file, delimiter="\t")
        position = _positions(next(rows, []), path)
        tags: dict[str, tuple[int, ...]] = {}
        for cells in rows:
            try:
                builder.add(_read_row(cells, position, tags))
            except ValueError as error:
                message = f"{path}, line {rows.line_num}: {error}"
                if on_bad_row == "raise":
                    raise BadRowError(
                        f"{message}; correct it or set dataset.on_bad_row=skip"
                    ) from error
                num_bad += 1
                first_bad = first_bad or message
    if num_bad:
        log.warning("%d rows of %s skipped, the first: %s", num_bad, path, first_bad)
    if not len(builder.video):
        raise ValueError(f"{path} has no rows")
    return builder.columns()


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
