"""Clips spread over a long video, and HowTo100M's classification (HierVL spec 3.4, 3.7)."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from egovl.data.datasets.long_video_configs import HowTo100MConfig, SpreadConfig
from egovl.data.types import ClipRef, Sample, Span, VideoSource

PUBLISHED_WRAP_SEC = 600.0
_SHORTEST_SEC = 1 / 30  # what is left of a clip that the legacy rule made empty
_COLUMNS = ("video_uid", "clip_start", "clip_end", "fps", "label")


def spread_clips(
    start_sec: float, end_sec: float, spread: SpreadConfig
) -> list[tuple[float, float]]:
    """Start and end of every clip of a long video, evenly spread, in order.

    With ``legacy_backwards`` a clip may be empty, as published; otherwise none is.
    """
    length = min(spread.clip_sec, end_sec - start_sec)
    room = end_sec - start_sec - length - spread.margin_sec
    if not spread.legacy_backwards:
        room = max(room, 0.0)
    last = max(spread.num_clips - 1, 1)
    starts = [start_sec + i / last * room for i in range(spread.num_clips)]
    return [(max(start, 0.0), max(start + length, 0.0)) for start in starts]


@dataclass(frozen=True, slots=True)
class LongClips:
    """Clips of a long video, as many as the config says, of which the first are there."""

    clips: tuple[ClipRef, ...]
    num_there: int

    @property
    def labels(self) -> Mapping[str, int]:
        """What tells a task which clips to mask."""
        return {"num_clips": self.num_there}


def long_clips(video: VideoSource, span: tuple[float, float], spread: SpreadConfig) -> LongClips:
    """References to a long video's clips; where it has fewer than others, the last is repeated."""
    count = spread.num_clips
    if spread.sec_per_clip is not None:
        count = min(max(round((span[1] - span[0]) / spread.sec_per_clip), 1), count)
    own = SpreadConfig(
        count, spread.clip_sec, spread.margin_sec, legacy_backwards=spread.legacy_backwards
    )
    spans = [
        Span(start, max(end, start + _SHORTEST_SEC)) for start, end in spread_clips(*span, own)
    ]
    spans += spans[-1:] * (spread.num_clips - count)
    return LongClips(tuple(ClipRef(video, one) for one in spans), count)


@dataclass(frozen=True, slots=True)
class _Row:
    video: str
    span: tuple[float, float]
    fps: float
    label: int


class HowTo100M:
    """Long videos with a class each, label ``label``.

    Raises:
        FileNotFoundError: The rows or the video folder are missing.
        ValueError: A row that cannot be read; the message names file and line.
    """

    label_sizes: Mapping[str, int] = {}

    def __init__(self, config: HowTo100MConfig) -> None:
        if not config.video_root.is_dir():
            raise FileNotFoundError(
                f"video_root {config.video_root} is not a folder; set it in configs/paths.yaml or "
                "with an override"
            )
        self._config = config
        self._rows = [r for r in _load(config.annotations) if r.label < config.num_classes]
        if not self._rows:
            raise ValueError(
                f"{config.annotations} has no row of the first {config.num_classes} classes"
            )

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        config, row = self._config, self._rows[index]
        video = VideoSource(
            path=config.video_root / row.video,
            fps=row.fps,
            seek_offset=config.seek_offset,
            legacy_wrap_sec=PUBLISHED_WRAP_SEC if config.legacy_wrap else None,
        )
        long = long_clips(video, row.span, config.spread)
        return Sample(index, long.clips, ("",), {"label": row.label, **long.labels})

    def chunk_of(self, index: int) -> str:
        """The video."""
        return self._rows[index].video


def _load(path: Path) -> list[_Row]:
    if not path.is_file():
        raise FileNotFoundError(f"annotations {path} does not exist")
    rows = []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, delimiter="\t")
        missing = [name for name in _COLUMNS if name not in (reader.fieldnames or [])]
        if missing:
            raise ValueError(f"{path} lacks the columns {missing}; it has {reader.fieldnames}")
        for cells in reader:
            try:
                rows.append(_read_row(cells))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
    return rows


def _read_row(cells: Mapping[str, str]) -> _Row:
    span = max(float(cells["clip_start"]), 0.0), float(cells["clip_end"])
    fps, label = float(cells["fps"]), int(cells["label"])
    if not span[0] < span[1]:
        raise ValueError(f"clip_start {span[0]} and clip_end {span[1]} hold no time")
    if not fps > 0 or label < 0 or not cells["video_uid"]:
        raise ValueError(f"fps {fps}, label {label}, video {cells['video_uid']!r}")
    return _Row(cells["video_uid"], span, fps, label)
