"""Which frames of a clip the captioner sees: pure arithmetic, no files (Egoinstructor spec 3.4).

Three published ways: a chunked ego video at a fixed rate, a whole exo video at its own, and a demo
file from end to end. ``draw(low, high)`` gives an integer of the closed range; None: the middle.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from egovl.data.sampling import DrawInteger, SpanOutsideVideoError, VideoFacts

ChunkLength = Callable[[int], int]
Reads = list[tuple[int, list[int]]]  # number of a chunk, frames in it


def clip_frame_ids(start: int, end: int, count: int, draw: DrawInteger | None = None) -> list[int]:
    """One frame of each of `count` segments of ``[start, end)``, never behind its last."""
    segment = (end - start - 1) / count
    ids = []
    for i in range(count):
        low = min(round(segment * i) + start, end - 1)
        high = min(round(segment * (i + 1)) + start, end)
        ids.append((low + high) // 2 if draw is None else draw(low, high))
    return ids


def chunked_reads(
    span: tuple[float, float],
    count: int,
    chunk_frames: ChunkLength,
    *,
    chunk_sec: int = 300,
    fps: float = 30,
    draw: DrawInteger | None = None,
) -> Reads:
    """Frames of a clip of a video that is cut into chunks.

    Args:
        span: begin and end, seconds; at least one second is read.
        count: frames.
        chunk_frames: frames of a chunk by its number; asked only for chunks that are read.
        chunk_sec: whole seconds of a chunk.
        fps: rate that turns seconds into frame numbers.
        draw: chooses within a segment.
    """
    start_sec, end_sec = span[0], max(span[1], span[0] + 1)
    ids = clip_frame_ids(round(start_sec * fps), round(end_sec * fps), count, draw)
    reads: Reads = []
    for chunk in range(int(start_sec) // chunk_sec, int(end_sec) // chunk_sec + 1):
        first, behind = int(chunk * chunk_sec * fps), int((chunk + 1) * chunk_sec * fps)
        inside = [i for i in ids if first <= i < behind]
        if inside:
            last = chunk_frames(chunk) - 1
            reads.append((chunk, [min(last, int(i - first)) for i in inside]))
    return reads


def whole_reads(
    span: tuple[float, float], count: int, video: VideoFacts, draw: DrawInteger | None = None
) -> list[int]:
    """Frames of a clip of one file; a short clip is widened to `count` frames.

    Raises:
        SpanOutsideVideoError: the file ends before the clip.
    """
    start_sec, end_sec = span[0], min(span[1], video.num_frames / video.fps)
    start = round(start_sec * video.fps)
    duration = max(int((end_sec - start_sec) * video.fps), count)
    end = min(start + duration, video.num_frames)
    if start > end:
        raise SpanOutsideVideoError(
            f"the clip begins at {start_sec:g} s, the file ends at "
            f"{video.num_frames / video.fps:g} s ({video.num_frames} frames)"
        )
    return clip_frame_ids(start, end, count, draw)


def spread_frame_ids(num_frames: int, count: int) -> list[int]:
    """Frames spread over a whole file, both ends included."""
    return np.linspace(0, num_frames - 1, count).astype(int).tolist()


def chunk_names(chunk: int) -> tuple[str, str]:
    """Names of a chunk's file: as the reader wants it, and as the published cutter wrote it."""
    return f"{chunk:04d}.mp4", f"{chunk}.mp4"


def published_chunk_sec(root: str, is_ego: bool) -> tuple[int | None, float | None]:
    """Seconds per chunk and rate that the published code guesses from a folder's name.

    Ego 300 s at 30 fps, exo whole files at their own rate; ``15s`` anywhere in the path: chunks of
    15 s, at 30 or 25 fps (`legacy_15s_roots`).
    """
    short = "15s" in root
    if is_ego:
        return (15 if short else 300), 30.0
    return (15, 25.0) if short else (None, None)


def is_inside(span: tuple[float, float]) -> bool:
    """Whether a span is one at all."""
    return all(math.isfinite(value) for value in span) and span[0] >= 0
