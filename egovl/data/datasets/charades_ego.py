"""Charades-Ego: whole videos with all their classes, or single actions (both papers, 3.3, 3.10)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from egovl.data.datasets.configs import CharadesEgoConfig
from egovl.data.datasets.epic_rows import check_root, read_csv
from egovl.data.label_space import LabelSpace, charades_classes, read_lines
from egovl.data.manifest import keep_known
from egovl.data.types import ClipRef, Sample, Span, VideoSource

_NEEDED = ("id", "actions", "length")


@dataclass(frozen=True, slots=True)
class CharadesAction:
    """One annotated action of a video."""

    video_id: str
    code: str
    start_sec: float
    end_sec: float


@dataclass(frozen=True, slots=True)
class CharadesVideo:
    """One video and what happens in it."""

    video_id: str
    length_sec: float
    actions: tuple[CharadesAction, ...]


class CharadesEgo:
    """Label ``action``: with ``unit: video`` 0/1 over all classes, with ``action`` a class number.

    Raises:
        FileNotFoundError: A file or the video folder is missing.
        ValueError: A row that cannot be read, or a class the list lacks.
    """

    def __init__(self, config: CharadesEgoConfig) -> None:
        check_root(config.video_root)
        self._config = config
        self._classes = charades_classes(read_lines(config.classes))
        videos = keep_known(
            load_videos(config.annotations),
            lambda video: [video.video_id],
            config.manifest,
            f"{config.annotations}",
        )
        _check_codes(videos, self._classes, config.annotations)
        self._videos = videos
        self._actions = [action for video in videos for action in _lasting(video)]
        is_video = config.unit == "video"
        self.class_texts = {"action": self._classes.texts}
        self.num_classes = {"action": len(self._classes)}
        self.label_sizes: Mapping[str, int] = self.num_classes if is_video else {}
        self._numbers = self._classes.numbers

    def __len__(self) -> int:
        return len(self._videos if self._config.unit == "video" else self._actions)

    def __getitem__(self, index: int) -> Sample:
        if self._config.unit == "video":
            video = self._videos[index]
            end_sec = video.length_sec if self._config.legacy_length else math.inf
            clip = ClipRef(self._source(video.video_id, "none"), Span(0.0, end_sec))
            numbers = tuple(self._numbers[action.code] for action in video.actions)
            return Sample(index, (clip,), ("",), {"action": numbers})
        action = self._actions[index]
        number = self._numbers[action.code]
        span = Span(action.start_sec, action.end_sec)
        clip = ClipRef(self._source(action.video_id, "outward"), span)
        return Sample(index, (clip,), self._classes.texts[number], {"action": number})

    def chunk_of(self, index: int) -> str:
        """Video of a sample."""
        chosen = self._videos if self._config.unit == "video" else self._actions
        return chosen[index].video_id

    def _source(self, video_id: str, rounding: str) -> VideoSource:
        return VideoSource(
            path=self._config.video_root / f"{video_id}.mp4",
            fps=None,
            seek_offset=self._config.seek_offset,
            rounding="none" if rounding == "none" else "outward",
        )


def load_videos(path: Path) -> list[CharadesVideo]:
    """Videos of a released csv, in order.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Names file and line.
    """
    videos = []
    for number, cells in read_csv(path, _NEEDED):
        try:
            actions = tuple(_read_actions(cells["id"], cells["actions"]))
            videos.append(CharadesVideo(cells["id"], float(cells["length"]), actions))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    return videos


def _read_actions(video_id: str, cell: str) -> Iterator[CharadesAction]:
    for part in cell.split(";") if cell else ():
        words = part.split()
        if len(words) != 3:
            raise ValueError(f"{part!r} is no class with start and end")
        yield CharadesAction(video_id, words[0], float(words[1]), float(words[2]))


def _lasting(video: CharadesVideo) -> Iterator[CharadesAction]:
    """Actions that last; a few of the released ones end where they begin."""
    return (action for action in video.actions if action.end_sec > action.start_sec >= 0)


def _check_codes(videos: list[CharadesVideo], classes: LabelSpace, path: Path) -> None:
    known = set(classes.names)
    for video in videos:
        for action in video.actions:
            if action.code not in known:
                raise ValueError(f"{path}, video {video.video_id}: no class {action.code!r}")
