"""Which pieces a long video is cut into (EgoVLP spec 1.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece of a video, seconds of the whole."""

    number: int
    start_sec: float
    end_sec: float


def plan_pieces(
    duration_sec: float, chunk_sec: float = 600.0, *, legacy_extra: bool = False
) -> list[Piece]:
    """Pieces of ``chunk_sec`` seconds, the last one shorter; a short video is one piece, uncut.

    Args:
        duration_sec: Length of the video.
        chunk_sec: Length of a piece.
        legacy_extra: As published, a multiple of ``chunk_sec`` above one has an empty piece at its
            end (parity: egovlp ``video_chunk``).

    Raises:
        ValueError: A length that is not above 0.
    """
    if not duration_sec > 0 or not chunk_sec > 0:
        raise ValueError(f"duration {duration_sec} s and chunk {chunk_sec} s must be above 0")
    count = max(1, math.ceil(duration_sec / chunk_sec))
    if legacy_extra and duration_sec > chunk_sec:
        count = math.floor(duration_sec / chunk_sec) + 1
    starts = (number * chunk_sec for number in range(count))
    return [
        Piece(number, start, min(start + chunk_sec, duration_sec))
        for number, start in enumerate(starts)
    ]
