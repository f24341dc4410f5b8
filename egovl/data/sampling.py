"""Which frames of a clip are read: pure arithmetic, no files.

Three published rules. ``segment`` (LaViLa): n segments that share their end points, the middle or a
random frame of each. ``range`` (EgoVLP): n disjoint ranges. ``window`` (LaViLa's EGTEA): every
``stride``-th frame of one window or of several spread over the clip. A random rule takes
``draw(low, high)``, which returns an integer of the closed range; without it the choice is the
fixed one of evaluation.

A place is ``(chunk, frame)``: chunk number of a `VideoSource` and frame number within that file.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from egovl.data.types import Span, VideoSource

DrawInteger = Callable[[int, int], int]
Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class VideoFacts:
    """Length and rate of one file."""

    num_frames: int
    fps: float


ChunkFacts = Callable[[int], VideoFacts | None]  # None: there is no such chunk


class SpanOutsideVideoError(ValueError):
    """The span starts behind the end of the video, or its first chunk does not exist."""


def segment_frame_ids(
    start: int, end: float, num_frames: int, draw: DrawInteger | None = None
) -> list[int]:
    """Frame ids of LaViLa's rule: one per segment of ``[start, end)``.

    Neighbouring segments share an end point, and rounding is half-to-even, as published.

    Raises:
        ValueError: An empty range with ``draw``.
    """
    segment = (end - start - 1) / num_frames
    ids = []
    for i in range(num_frames):
        low = round(segment * i) + start
        high = min(round(segment * (i + 1)) + start, end)
        if draw is None:
            ids.append(int((low + high) // 2))
        elif low > high:
            raise ValueError(f"no frame to draw from {start} .. {end}: the clip is empty")
        else:
            ids.append(draw(low, int(high)))
    return ids


def range_frame_ids(
    start: int,
    end: int,
    num_frames: int,
    draw: DrawInteger | None = None,
    *,
    fix_start: int | None = None,
    legacy: bool = False,
) -> list[int]:
    """Frame ids of EgoVLP's rule: one per disjoint range of ``[start, end)``.

    Args:
        start: First frame.
        end: One past the last frame.
        num_frames: Ids wanted.
        draw: Random choice in each range; None takes its middle.
        fix_start: Takes this offset in each range instead.
        legacy: As published: at most ``end`` ids; a middle may fall one before an empty range; the
            last frame of a range is never drawn, so that a short clip raises (parity: egovlp
            ``frame_sampling``).

    Raises:
        IndexError: A range too short to draw from, under ``legacy``.
    """
    count = min(num_frames, end) if legacy else num_frames
    edges = np.linspace(start, end, count + 1).astype(int).tolist()
    ids = []
    for low, next_low in itertools.pairwise(edges):
        if fix_start is not None:
            ids.append(low + fix_start)
        elif draw is None:
            middle = (low + next_low - 1) // 2
            ids.append(middle if legacy else max(middle, low))
        elif legacy:
            if next_low - 2 < low:
                raise IndexError(f"range {low} .. {next_low} is too short for the legacy draw")
            ids.append(draw(low, next_low - 2))
        else:
            ids.append(draw(low, max(next_low - 1, low)))
    return ids


def strided_frame_ids(
    start: int,
    end: float,
    num_frames: int,
    stride: int,
    *,
    num_windows: int = 1,
    draw: DrawInteger | None = None,
    legacy: bool = False,
) -> list[int | None]:
    """Every ``stride``-th frame of windows of ``num_frames * stride`` frames, one after the other.

    With ``draw`` a window begins anywhere in the clip, else they are spread evenly over it, one in
    the middle. In a clip that is too short the last frame is repeated.

    Args:
        start: First frame.
        end: One past the last frame.
        num_frames: Ids per window.
        stride: Distance of neighbouring ids.
        num_windows: Windows wanted.
        draw: Random place of each window.
        legacy: LaViLa: a clip always begins at frame 0, a single window at its beginning, and what
            is missing is black, None here (parity: lavila ``sampling``, datasets).
    """
    first = 0 if legacy else start
    spare = end - first - num_frames * stride
    if draw is not None:
        starts = [draw(0, max(int(spare), 0)) for _ in range(num_windows)]
    elif num_windows == 1 and not legacy:
        starts = [max(int(spare), 0) // 2]
    else:
        starts = np.linspace(0, max(spare, 0), num_windows).astype(int).tolist()
    ids: list[int | None] = []
    for offset in starts:
        for i in range(num_frames):
            frame = first + offset + i * stride
            ids.append(frame if frame < end else None if legacy else max(math.ceil(end) - 1, first))
    return ids


def keyframe_ids(start: int, end: int, num_frames: int = 16) -> list[int]:
    """Evenly spaced frame numbers of ``[start, end)`` that are multiples of the spacing.

    The spacing is the window over ``num_frames`` rounded up, or down if that gives too few
    (EgoVLP's OSCC and PNR).

    Raises:
        ValueError: Fewer frames than wanted.
    """
    length = end - start
    if length < num_frames:
        raise ValueError(f"{length} frames {start} .. {end} hold no {num_frames}")
    ids: list[int] = []
    for spacing in (math.ceil(length / num_frames), length // num_frames):
        ids = [frame for frame in range(start, end) if frame % spacing == 0][:num_frames]
        if len(ids) == num_frames:
            break
    return ids


def window_frame_ids(start: float, end: float, video_frames: int, num_windows: float) -> list[int]:
    """Middles of ``int(num_windows)`` equal ranges of a clip cut to the video (EgoVLP's NLQ)."""
    low, high = max(0, start), min(video_frames, end)
    edges = np.linspace(low, high, int(num_windows) + 1).astype(int).tolist()
    return [(a + b - 1) // 2 for a, b in itertools.pairwise(edges)]


def place_segment_frames(
    source: VideoSource,
    span: Span,
    num_frames: int,
    facts: ChunkFacts,
    draw: DrawInteger | None = None,
) -> list[Place]:
    """Places of LaViLa's rule; a clip may go on in the next chunk.

    Raises:
        SpanOutsideVideoError: The first chunk is missing or ends before the span.
    """
    if source.chunk_sec is None:
        return _whole_file_segments(source, span, num_frames, facts, draw)
    chunk = source.chunk_of(span.start_sec)
    first = _first_chunk(source, span, chunk, facts)
    fps = source.fps or first.fps
    offset = round((span.start_sec - chunk * source.chunk_sec) * fps)
    duration = max(int((span.end_sec - span.start_sec) * fps), num_frames)
    if not source.legacy_outside and offset >= first.num_frames and facts(chunk + 1) is None:
        raise SpanOutsideVideoError(_outside(source, span, chunk, first))
    ids = segment_frame_ids(offset, offset + duration, num_frames, draw)
    if max(ids) < first.num_frames:
        return [(chunk, i) for i in ids]
    following = facts(chunk + 1)
    if following is None:
        start = min(offset, first.num_frames - 1)
        ids = segment_frame_ids(start, first.num_frames, num_frames, draw)
        return [(chunk, i) for i in ids]
    if source.legacy_outside:
        return [
            (chunk, i)
            if i < first.num_frames
            else (chunk + 1, min(i % first.num_frames, following.num_frames - 1))
            for i in ids
        ]
    return [_walk(chunk, i, facts) for i in ids]


def _whole_file_segments(
    source: VideoSource,
    span: Span,
    num_frames: int,
    facts: ChunkFacts,
    draw: DrawInteger | None,
) -> list[Place]:
    video = _first_chunk(source, span, 0, facts)
    fps = source.fps or video.fps
    if source.rounding == "duration" or math.isinf(span.end_sec):
        offset = round(span.start_sec * fps)
        end_sec = min(span.end_sec, video.num_frames / video.fps)
        if end_sec <= span.start_sec:
            raise SpanOutsideVideoError(_outside(source, span, 0, video))
        duration = max(int((end_sec - span.start_sec) * fps), num_frames)
        end: float = min(offset + duration, video.num_frames)
    else:
        offset, end = frame_bounds(source, span, fps)
        if not source.legacy_outside and offset >= video.num_frames:
            raise SpanOutsideVideoError(_outside(source, span, 0, video))
    if not source.legacy_outside:
        end = min(end, video.num_frames)
        # rounding can put the start on the end of the file, where no frame is left to draw
        offset = min(offset, math.ceil(end) - 1)
    ids = segment_frame_ids(offset, end, num_frames, draw)
    return [(0, min(i, video.num_frames - 1)) for i in ids]


def frame_bounds(source: VideoSource, span: Span, fps: float) -> tuple[int, float]:
    """First frame of a span and its end, rounded as the source says (not ``duration``)."""
    end = span.end_sec * fps
    return round(span.start_sec * fps), math.ceil(end) if source.rounding == "outward" else end


def whole_file_range(source: VideoSource, span: Span, video: VideoFacts) -> tuple[int, int]:
    """First frame of a clip of a whole file and one past its last, truncated, within the file.

    Raises:
        SpanOutsideVideoError: The file ends before the span.
    """
    fps = source.fps or video.fps
    start = int(fps * span.start_sec)
    end = video.num_frames if math.isinf(span.end_sec) else int(fps * span.end_sec)
    end = min(max(end, start + 1), video.num_frames)
    if start >= end:
        raise SpanOutsideVideoError(_outside(source, span, 0, video))
    return start, end


def window_range(source: VideoSource, span: Span, video: VideoFacts) -> tuple[int, float]:
    """As `whole_file_range`, the seconds rounded as the source says.

    Raises:
        SpanOutsideVideoError: The file ends before the span.
    """
    start, last = whole_file_range(source, span, video)
    if source.rounding == "duration" or math.isinf(span.end_sec):
        return start, last
    start, end = frame_bounds(source, span, source.fps or video.fps)
    end = min(end, video.num_frames)
    return min(start, math.ceil(end) - 1), end


def _walk(chunk: int, frame: int, facts: ChunkFacts) -> Place:
    """Carry a frame number over as many chunks as it reaches, to the last frame of the last one."""
    video = facts(chunk)
    assert video is not None
    while frame >= video.num_frames:
        following = facts(chunk + 1)
        if following is None:
            return chunk, video.num_frames - 1
        frame -= video.num_frames
        chunk, video = chunk + 1, following
    return chunk, frame


def place_range_frames(
    source: VideoSource,
    span: Span,
    num_frames: int,
    facts: ChunkFacts,
    draw: DrawInteger | None = None,
    *,
    legacy: bool = False,
) -> list[Place]:
    """Places of EgoVLP's rule; the last one is repeated if the rule gives fewer than wanted.

    A place may be one before the file's beginning when ``seek_offset`` is -1: the reader takes the
    first frame then, as the published one does.

    Raises:
        SpanOutsideVideoError: The first chunk is missing or ends before the span.
    """
    chunk = source.chunk_of(span.start_sec)
    first = _first_chunk(source, span, chunk, facts)
    if source.legacy_wrap_sec is not None:
        return _wrapped_places(source, span, num_frames, first, draw, legacy=legacy)
    if source.chunk_sec is None:
        start, end = whole_file_range(source, span, first)
        ids = _range_ids(start, end, num_frames, span, draw, legacy)
        return [(0, _shift(i, first, source)) for i in ids]
    fps = source.fps or first.fps
    start, end = int(fps * span.start_sec), int(fps * span.end_sec)
    per_chunk = int(fps * source.chunk_sec)
    local_start = start - chunk * per_chunk
    goes_on = end > (chunk + 1) * per_chunk and facts(chunk + 1)
    if local_start >= first.num_frames and not goes_on and not source.legacy_outside:
        raise SpanOutsideVideoError(_outside(source, span, chunk, first))
    ids = _range_ids(start, end, num_frames, span, draw, legacy)
    if source.legacy_boundary:
        return _legacy_chunk_places(source, span, ids, per_chunk, facts)
    return [_chunk_place(source, i, chunk, per_chunk, facts) for i in ids]


def _range_ids(
    start: int, end: int, num_frames: int, span: Span, draw: DrawInteger | None, legacy: bool
) -> list[int]:
    ids = range_frame_ids(start, end, num_frames, draw, legacy=legacy)
    if not ids:
        raise IndexError(f"the legacy rule finds no frame in {span.start_sec} .. {span.end_sec} s")
    return ids + ids[-1:] * (num_frames - len(ids))


def _chunk_place(
    source: VideoSource, index: int, first_chunk: int, per_chunk: int, facts: ChunkFacts
) -> Place:
    chunk = max(index // per_chunk, first_chunk)
    video = facts(chunk)
    while video is None and chunk > first_chunk:  # the clip ends behind the video
        chunk -= 1
        video = facts(chunk)
    assert video is not None
    return chunk, _shift(index - chunk * per_chunk, video, source)


def _legacy_chunk_places(
    source: VideoSource, span: Span, ids: Sequence[int], per_chunk: int, facts: ChunkFacts
) -> list[Place]:
    assert source.chunk_sec is not None
    start_chunk, end_chunk = source.chunk_of(span.start_sec), source.chunk_of(span.end_sec)
    bound = int((source.fps or 30.0) * source.chunk_sec * (start_chunk + 1))
    places = []
    for i in ids:
        chunk = end_chunk if i > bound else start_chunk
        video = facts(chunk)
        if video is None:
            raise SpanOutsideVideoError(f"{source.chunk_file(chunk)} does not exist")
        places.append((chunk, min(i % per_chunk, video.num_frames) + source.seek_offset))
    return places


def _wrapped_places(
    source: VideoSource,
    span: Span,
    num_frames: int,
    video: VideoFacts,
    draw: DrawInteger | None,
    *,
    legacy: bool,
) -> list[Place]:
    """HowTo100M as published: frame numbers begin anew after ``legacy_wrap_sec`` seconds."""
    fps = source.fps or video.fps
    start, end = int(fps * span.start_sec), int(fps * span.end_sec)
    ids = _range_ids(start, end, num_frames, span, draw, legacy)
    return [(0, int(wrapped_position(i, source, video))) for i in ids]


def wrapped_position(frame: int, source: VideoSource, video: VideoFacts) -> float:
    """Where the published reader seeks to; a rate such as 23.976 makes it fractional."""
    assert source.legacy_wrap_sec is not None
    wrapped = frame % (source.legacy_wrap_sec * (source.fps or video.fps))
    return min(wrapped, video.num_frames) + source.seek_offset


def _shift(frame: int, video: VideoFacts, source: VideoSource) -> int:
    last = video.num_frames if source.seek_offset < 0 else video.num_frames - 1
    return min(frame, last) + source.seek_offset


def _first_chunk(source: VideoSource, span: Span, chunk: int, facts: ChunkFacts) -> VideoFacts:
    video = facts(chunk)
    if video is None:
        raise SpanOutsideVideoError(
            f"{source.chunk_file(chunk)} does not exist, the clip starts at {span.start_sec:g} s"
        )
    return video


def _outside(source: VideoSource, span: Span, chunk: int, video: VideoFacts) -> str:
    start_sec = 0.0 if source.chunk_sec is None else chunk * source.chunk_sec
    end_sec = start_sec + video.num_frames / (source.fps or video.fps)
    return (
        f"the clip {span.start_sec:g} .. {span.end_sec:g} s starts behind the end of "
        f"{source.chunk_file(chunk)} at {end_sec:g} s ({video.num_frames} frames); "
        "check the annotation and how the video was cut"
    )
