"""The manifest of `prepare videos`: which videos are there, in which files, with how many frames.

One json object a line. A recipe's `dataset.manifest` leaves out the annotations of videos that it
lacks, so that a part of a corpus can be trained on as it is.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

log = logging.getLogger(__name__)

MANIFEST = "manifest.jsonl"
_Row = TypeVar("_Row")


@dataclass(frozen=True)
class PreparedVideo:
    """One line: files are relative to the manifest's folder."""

    name: str
    files: tuple[str, ...]
    frames: tuple[int, ...]
    fps: float
    height: int
    width: int

    @property
    def num_frames(self) -> int:
        """Frames of all files."""
        return sum(self.frames)


def load_manifest(path: Path) -> dict[str, PreparedVideo]:
    """Videos by name, in the file's order.

    Raises:
        FileNotFoundError: No such file.
        ValueError: A line that is no such record; names file and line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"manifest {path} does not exist: run `prepare videos` to its end")
    videos: dict[str, PreparedVideo] = {}
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                video = _read(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}, line {number}: {error!r}") from error
            videos[video.name] = video
    if not videos:
        raise ValueError(f"{path} names no video")
    return videos


def and_manifest(sources: Sequence[Path], manifest: Path | None) -> tuple[Path, ...]:
    """Annotation files with the manifest, on which their converted copy depends too."""
    return (*sources, *([] if manifest is None else [manifest]))


def keep_known(
    rows: Sequence[_Row], videos: Callable[[_Row], Sequence[str]], manifest: Path | None, what: str
) -> list[_Row]:
    """Rows of which the manifest has every video; all of them without a manifest.

    Raises:
        ValueError: None is left.
    """
    if manifest is None:
        return list(rows)
    known = load_manifest(manifest)
    kept = [row for row in rows if all(name in known for name in videos(row))]
    report_left_out(len(rows) - len(kept), len(rows), manifest, what)
    return kept


def report_left_out(left_out: int, total: int, manifest: Path, what: str) -> None:
    """Say how many rows stand for videos that a manifest lacks.

    Raises:
        ValueError: All do.
    """
    if left_out == total:
        raise ValueError(f"{what}: {manifest} has the videos of none of its {total} rows")
    if left_out:
        log.warning("%s: %d of %d rows left out, %s lacks them", what, left_out, total, manifest)


def _read(record: Mapping[str, object]) -> PreparedVideo:
    files, frames = record["files"], record["frames"]
    if not isinstance(files, list) or not isinstance(frames, list) or len(files) != len(frames):
        raise ValueError("files and frames must be lists of one length")
    return PreparedVideo(
        name=str(record["key"]),
        files=tuple(map(str, files)),
        frames=tuple(map(int, frames)),
        fps=float(str(record["fps"])),
        height=int(str(record["height"])),
        width=int(str(record["width"])),
    )
