"""EGTEA Gaze+: trimmed clips with one action each (LaViLa spec 3.4)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from egovl.data.datasets.configs import EGTEAConfig
from egovl.data.datasets.epic_rows import check_root
from egovl.data.label_space import egtea_actions, read_lines
from egovl.data.manifest import keep_known
from egovl.data.types import ClipRef, Sample, Span, VideoSource


class EGTEA:
    """A whole clip, label ``action``, the action's name as text.

    Raises:
        FileNotFoundError: A file or the video folder is missing.
        ValueError: A row that cannot be read, or an action the list lacks.
    """

    label_sizes: Mapping[str, int] = {}

    def __init__(self, config: EGTEAConfig) -> None:
        check_root(config.video_root)
        self._root = config.video_root
        self._classes = egtea_actions(read_lines(config.classes))
        self.class_texts = {"action": self._classes.texts}
        self.num_classes = {"action": len(self._classes)}
        lines = enumerate(read_lines(config.annotations), 1)
        rows = [self._read(line, f"{config.annotations}, row {n}") for n, line in lines]
        what = f"{config.annotations}"
        self._rows = keep_known(rows, _manifest_names, config.manifest, what)

    def _read(self, line: str, where: str) -> tuple[str, int]:
        words = line.split()
        if len(words) < 2 or not words[1].isdecimal():
            raise ValueError(f"{where}: {line!r} is no clip and action number")
        number = int(words[1]) - 1
        if not 0 <= number < len(self._classes):
            raise ValueError(f"{where}: action {words[1]} of {len(self._classes)}")
        return words[0], number

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        name, action = self._rows[index]
        video = VideoSource(path=self._root / clip_file(name), fps=None)
        clip = ClipRef(video, Span(0.0, math.inf))
        return Sample(index, (clip,), (self._classes.names[action],), {"action": action})

    def chunk_of(self, index: int) -> int:
        """Every clip is a file of its own."""
        return index


def _manifest_names(row: tuple[str, int]) -> list[str]:
    return [clip_file(row[0]).with_suffix("").as_posix()]


def clip_file(name: str) -> Path:
    """Path of a clip: its recording session is the first three parts of its name."""
    return Path("-".join(name.split("-")[:3])) / f"{name}.mp4"
