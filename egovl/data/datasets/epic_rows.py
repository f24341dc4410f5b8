"""Rows of EPIC-KITCHENS-100's csv files and the clips they stand for (LaViLa spec 3.2)."""

from __future__ import annotations

import ast
import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from egovl.data.datasets.configs import EpicConfig
from egovl.data.manifest import keep_known
from egovl.data.types import ClipRef, Span, VideoSource

NUM_VERBS, NUM_NOUNS = 97, 300
_NEEDED = (
    "narration_id",
    "participant_id",
    "video_id",
    "start_timestamp",
    "stop_timestamp",
    "start_frame",
    "stop_frame",
    "narration",
    "verb_class",
    "noun_class",
    "all_noun_classes",
)
_TIME = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class EpicRow:
    """One narrated action."""

    narration_id: str
    participant_id: str
    video_id: str
    start_sec: float
    stop_sec: float
    frames: tuple[int, int]
    narration: str
    verb: int
    noun: int
    nouns: tuple[int, ...]


def load_rows(path: Path) -> list[EpicRow]:
    """All rows of a file, in order.

    Raises:
        FileNotFoundError: No such file.
        ValueError: A column is missing or a row cannot be read; names file and line.
    """
    found = []
    for number, cells in read_csv(path, _NEEDED):
        try:
            found.append(_read_row(cells))
        except (ValueError, SyntaxError) as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    return found


def load_config_rows(config: EpicConfig) -> list[EpicRow]:
    """Rows of a dataset, of the videos that its manifest knows."""
    rows = load_rows(config.annotations)
    what = f"{config.annotations}"
    return keep_known(
        rows, lambda row: [f"{row.participant_id}/{row.video_id}"], config.manifest, what
    )


def load_sentences(path: Path) -> list[tuple[str, str]]:
    """Narration id and text of each unique sentence, in order."""
    return [
        (cells["narration_id"], cells["narration"])
        for _, cells in read_csv(path, ("narration_id", "narration"))
    ]


def read_csv(path: Path, needed: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Line number and named cells of every row.

    Raises:
        FileNotFoundError: No such file.
        ValueError: No rows, or a column is missing.
    """
    if not path.is_file():
        raise FileNotFoundError(f"annotations {path} does not exist")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [name for name in needed if name not in (reader.fieldnames or [])]
        if missing:
            raise ValueError(f"{path} lacks the columns {missing}; it has {reader.fieldnames}")
        rows = [(reader.line_num, row) for row in reader]
    if not rows:
        raise ValueError(f"{path} has no rows")
    return rows


def clip_of(config: EpicConfig, row: EpicRow) -> ClipRef:
    """Where the frames of a row come from."""
    span = Span(row.start_sec, row.stop_sec)
    if config.layout == "frames":
        video = VideoSource(path=config.video_root / row.video_id)
        return ClipRef(video, span, frame_range=row.frames)
    path = config.video_root / row.participant_id / f"{row.video_id}.MP4"
    return ClipRef(VideoSource(path=path, fps=None, rounding="outward"), span)


def check_root(root: Path) -> None:
    """Refuse a missing video folder before anything is loaded."""
    if not root.is_dir():
        raise FileNotFoundError(
            f"video_root {root} is not a folder; set it in configs/paths.yaml or with an override"
        )


def _read_row(cells: dict[str, str]) -> EpicRow:
    row = EpicRow(
        narration_id=cells["narration_id"],
        participant_id=cells["participant_id"],
        video_id=cells["video_id"],
        start_sec=_seconds(cells["start_timestamp"]),
        stop_sec=_seconds(cells["stop_timestamp"]),
        frames=(int(cells["start_frame"]), int(cells["stop_frame"])),
        narration=cells["narration"],
        verb=int(cells["verb_class"]),
        noun=int(cells["noun_class"]),
        nouns=tuple(int(noun) for noun in ast.literal_eval(cells["all_noun_classes"])),
    )
    if not 0 <= row.verb < NUM_VERBS or not all(0 <= n < NUM_NOUNS for n in (row.noun, *row.nouns)):
        raise ValueError(
            f"verb {row.verb} or nouns {row.noun}, {row.nouns} are outside {NUM_VERBS} and "
            f"{NUM_NOUNS} classes"
        )
    return row


def _seconds(timestamp: str) -> float:
    found = _TIME.fullmatch(timestamp)
    if found is None:
        raise ValueError(f"{timestamp!r} is no HH:MM:SS.fff")
    hours, minutes, seconds = found.groups()
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
