"""Frames of the captioner's clips from files: chunks of a video, or whole files.

Egoinstructor spec 3.1, 3.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from egovl.data.caption_frames import chunk_names, chunked_reads, spread_frame_ids, whole_reads
from egovl.data.decode import DecodeError
from egovl.data.reader_cache import ReaderCache
from egovl.data.sampling import SpanOutsideVideoError
from egovl.data.transforms import squash


@dataclass(frozen=True)
class ClipFiles:
    """Where the clips of one view lie.

    Attributes:
        root: the folder.
        chunk_sec: seconds per file ``<vid>/<number>.mp4``; None: whole files ``<vid>.mp4``.
        fps: rate that turns seconds of chunks into frames; whole files have their own.
    """

    root: Path
    chunk_sec: int | None = None
    fps: float = 30.0

    def chunk(self, video: str, number: int) -> Path:
        """File of a chunk, under either of its names.

        Raises:
            DecodeError: there is none.
        """
        places = [self.root / video / name for name in chunk_names(number)]
        found = next((place for place in places if place.exists()), None)
        if found is None:
            raise DecodeError(places[0], None, f"no such file, nor {places[1].name} beside it")
        return found

    def whole(self, video: str) -> Path:
        """File of a whole video; a name with its ending is taken as it is."""
        named = self.root / video
        return named if named.suffix and named.exists() else self.root / f"{video}.mp4"


def read_clip(
    readers: ReaderCache, files: ClipFiles, video: str, span: tuple[float, float], count: int
) -> np.ndarray:
    """Frames ``[count, H, W, 3]`` uint8 of a clip.

    Raises:
        DecodeError: a file is missing or damaged, or ends before the clip.
    """
    if files.chunk_sec is None:
        path = files.whole(video)
        try:
            ids = whole_reads(span, count, readers.facts(path))
        except SpanOutsideVideoError as error:
            raise DecodeError(path, None, str(error)) from error
        return _frames(readers, path, ids)

    def num_frames(number: int) -> int:
        return readers.facts(files.chunk(video, number)).num_frames

    reads = chunked_reads(span, count, num_frames, chunk_sec=files.chunk_sec, fps=files.fps)
    parts = [_frames(readers, files.chunk(video, number), ids) for number, ids in reads]
    if sum(map(len, parts)) < count:
        raise DecodeError(
            files.root / video, None, f"the clip {span[0]:g} .. {span[1]:g} s has too few frames"
        )
    return np.concatenate(parts)


def read_spread(readers: ReaderCache, path: Path, count: int) -> np.ndarray:
    """Frames ``[count, H, W, 3]`` uint8 spread over a whole file.

    Raises:
        DecodeError: the file is missing or damaged.
    """
    return _frames(readers, path, spread_frame_ids(readers.facts(path).num_frames, count))


def _frames(readers: ReaderCache, path: Path, ids: Sequence[int]) -> np.ndarray:
    last = readers.facts(path).num_frames - 1
    wanted = [min(max(i, 0), last) for i in ids]
    numbers = sorted(set(wanted))
    pictures = readers.read(path, numbers)
    place = {number: row for row, number in enumerate(numbers)}
    return pictures[[place[i] for i in wanted]]


def to_pixels(
    frames: np.ndarray, size: int, *, antialias: bool = False, as_float: bool = False
) -> Tensor:
    """Frames as ``[F, C, size, size]``, 0 .. 255; float32 goes beyond that as published."""
    pixels = squash(torch.from_numpy(frames), size, antialias=antialias).transpose(0, 1)
    return pixels if as_float else pixels.round().clamp(0, 255).to(torch.uint8)
