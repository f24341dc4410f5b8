"""Which second-features of a clip the retriever sees: pure arithmetic.

Egoinstructor spec 3.5, 3.6.

A feature covers one second; feature t belongs to seconds t to t + 1.
"""

from __future__ import annotations

from collections.abc import Callable

DrawInteger = Callable[[int, int], int]

EXPAND_SEC = 10
"""A transcript of a second or less is widened by this much, half on each side."""


def training_seconds(
    span: tuple[float, float],
    count: int,
    length: int,
    *,
    is_exo: bool,
    expand_sec: float = EXPAND_SEC,
    draw: DrawInteger | None = None,
) -> list[int]:
    """One feature of each of `count` segments of a training clip.

    Args:
        span: begin and end, seconds.
        count: features of a clip.
        length: features of the video; a result may be `length` itself, which the caller clamps
            (published: an error, and another sample).
        is_exo: a clip of a second or less is widened.
        expand_sec: by how much, half on each side.
        draw: chooses within a segment; None: the middle.
    """
    start, end = span[0], max(span[1], span[0] + 1)
    if is_exo and end - start <= 1:
        start, end = max(0, start - expand_sec / 2), min(end + expand_sec / 2, length)
    segment = (end - start - 1) / count
    ids = []
    for i in range(count):
        low = min(int(round(segment * i) + start), length)
        high = max(low, min(int(round(segment * (i + 1)) + start), length))
        ids.append((low + high) // 2 if draw is None else draw(low, high))
    return ids


def evaluation_seconds(span: tuple[float, float], count: int, length: int) -> list[int]:
    """Middles of the segments of a clip; of one under a second they run backwards, as published."""
    start, end = span
    segment = (end - start - 1) / count
    ids = []
    for i in range(count):
        low = min(int(round(segment * i) + start), length - 1)
        high = min(int(round(segment * (i + 1)) + start), length)
        ids.append((low + high) // 2)
    return ids


def seconds_of(timestamp: str) -> float:
    """Seconds of ``hh:mm:ss.f``.

    Raises:
        ValueError: another form.
    """
    parts = timestamp.split(":")
    if len(parts) != 3:
        raise ValueError(f"{timestamp!r} is no time hh:mm:ss.f")
    hours, minutes, seconds = map(float, parts)
    return hours * 3600 + minutes * 60 + seconds
