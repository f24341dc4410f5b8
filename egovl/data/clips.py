"""Frames of clips: places from the sampling rule, pixels from open readers.

Clips that lie in one file are decoded together in one pass over their sorted frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from egovl.data.configs import LoaderConfig
from egovl.data.decode import DecodeError, DecodeTimeoutError
from egovl.data.reader_cache import ReaderCache
from egovl.data.sampling import (
    DrawInteger,
    Place,
    SpanOutsideVideoError,
    VideoFacts,
    place_range_frames,
    place_segment_frames,
    range_frame_ids,
    segment_frame_ids,
    strided_frame_ids,
    window_range,
)
from egovl.data.types import ClipRef


@dataclass(frozen=True, slots=True)
class ClipRequest:
    """A clip and the source of its random frame choice; None chooses as in evaluation."""

    clip: ClipRef
    draw: DrawInteger | None


Frames = np.ndarray  # [T, H, W, 3] uint8
Source = tuple[Path, int] | None  # file and frame number; None is a black picture


class ClipReader:
    """Reads clips by the rule of a `LoaderConfig`. One per process."""

    def __init__(self, config: LoaderConfig) -> None:
        self._config = config
        self.readers = ReaderCache(config.backend, config.open_readers, config.decode_timeout_sec)

    def read(self, requests: Sequence[ClipRequest]) -> list[Frames | DecodeError]:
        """Frames of each clip, ``[T, H, W, 3]`` uint8, or why it has none."""
        results: list[Frames | DecodeError | None] = [None] * len(requests)
        groups: dict[Path, list[int]] = {}
        for row, request in enumerate(requests):
            video = request.clip.video
            file = video.chunk_file(video.chunk_of(request.clip.span.start_sec))
            groups.setdefault(file, []).append(row)
        for rows in groups.values():
            planned: list[tuple[int, ClipRef, list[Source]]] = []
            for row in rows:
                try:
                    planned.append((row, requests[row].clip, self._plan(requests[row])))
                except DecodeError as error:
                    results[row] = error
            for (row, _, _), frames in zip(planned, self._decode(planned), strict=True):
                results[row] = frames
        return [result for result in results if result is not None]

    def _plan(self, request: ClipRequest) -> list[Source]:
        """File and frame number of each frame of a clip; those of several clips in a row."""
        clip = request.clip
        try:
            if clip.frames is not None:
                return [clip.video.place_of(frame) for frame in clip.frames]
            if clip.frame_range is not None:
                return self._in_file(clip, clip.frame_range, request.draw)
            if self._config.sampling == "window":
                found = self._facts(clip, 0)
                if found is None:
                    raise SpanOutsideVideoError(f"{clip.video.path} does not exist")
                bounds = window_range(clip.video, clip.span, found)
                return self._in_file(clip, bounds, request.draw)
            places = self._places(clip, request.draw)
        except DecodeError as error:
            raise _named(error, clip) from error
        except (SpanOutsideVideoError, IndexError, ValueError) as error:
            first = clip.video.chunk_file(clip.video.chunk_of(clip.span.start_sec))
            raise DecodeError(first, clip.span, str(error)) from error
        # a seek before the first frame gives the first frame, as in the published reader
        return [(clip.video.chunk_file(chunk), max(frame, 0)) for chunk, frame in places]

    def _facts(self, clip: ClipRef, chunk: int) -> VideoFacts | None:
        path = clip.video.chunk_file(chunk)
        return self.readers.facts(path) if path.exists() else None

    def _places(self, clip: ClipRef, draw: DrawInteger | None) -> list[Place]:
        """Places by the configured rule; several evaluation clips are one long one."""
        config = self._config
        count = config.num_frames * (config.num_clips if draw is None else 1)

        def facts(chunk: int) -> VideoFacts | None:
            return self._facts(clip, chunk)

        if config.sampling == "segment":
            return place_segment_frames(clip.video, clip.span, count, facts, draw)
        return place_range_frames(
            clip.video, clip.span, count, facts, draw, legacy=config.legacy_ranges
        )

    def _in_file(
        self, clip: ClipRef, bounds: tuple[int, float], draw: DrawInteger | None
    ) -> list[Source]:
        """Frames between two numbers of one file."""
        config = self._config
        file, num_clips = clip.video.chunk_file(0), config.num_clips if draw is None else 1
        count = config.num_frames * num_clips
        if config.sampling == "window":
            ids = strided_frame_ids(
                *bounds,
                config.num_frames,
                config.stride,
                num_windows=num_clips,
                draw=draw,
                legacy=config.legacy_windows,
            )
            return [None if i is None else (file, i) for i in ids]
        if config.sampling == "segment":
            return [(file, i) for i in segment_frame_ids(*bounds, count, draw)]
        start, end = bounds
        found = range_frame_ids(start, int(end), count, draw, legacy=config.legacy_ranges)
        found += found[-1:] * (count - len(found))
        return [(file, i) for i in found]

    def _decode(
        self, planned: list[tuple[int, ClipRef, list[Source]]]
    ) -> list[Frames | DecodeError]:
        """Frames of clips of one file; a damaged clip does not take its neighbours along."""
        try:
            pixels = self._pixels(
                [place for _, _, places in planned for place in places if place is not None]
            )
        except DecodeError as error:
            if len(planned) == 1 or isinstance(error, DecodeTimeoutError):
                return [_named(error, clip) for _, clip, _ in planned]
            return [self._decode([one])[0] for one in planned]
        frames: list[Frames | DecodeError] = []
        for _, _, places in planned:
            black = np.zeros_like(pixels[next(p for p in places if p is not None)])
            frames.append(np.stack([black if p is None else pixels[p] for p in places]))
        return frames

    def _pixels(self, places: Sequence[tuple[Path, int]]) -> dict[tuple[Path, int], np.ndarray]:
        wanted: dict[Path, set[int]] = {}
        for path, frame in places:
            wanted.setdefault(path, set()).add(frame)
        pixels = {}
        for path, frames in wanted.items():
            numbers = sorted(frames)
            for number, picture in zip(numbers, self.readers.read(path, numbers), strict=True):
                pixels[path, number] = picture
        return pixels


def _named(error: DecodeError, clip: ClipRef) -> DecodeError:
    """The same error with the span that was asked for."""
    return type(error)(error.path, clip.span, error.reason)
