"""Which clips a job writes about: the annotated ones, or those between them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol, cast

from egovl.data.configs import ChunkedVideoConfig
from egovl.data.types import ClipDataset, ClipRef, Sample, Span
from egovl.narration.configs import UncoveredConfig


class Place(NamedTuple):
    """A stretch of a video, as annotation lists name it."""

    video_uid: str
    start_sec: float
    end_sec: float


class PlacedClips(ClipDataset, Protocol):
    """A dataset that says where its clips lie."""

    def place(self, index: int) -> tuple[str, float, float]:
        """Video, start and end of a row."""
        ...


def require_places(dataset: object) -> PlacedClips:
    """The dataset, if it knows the places of its clips.

    Raises:
        ValueError: it does not.
    """
    if not hasattr(dataset, "place"):
        raise ValueError(
            f"{type(dataset).__name__} has no videos with times: texts are written for the "
            "datasets egoclip and narrations"
        )
    return cast(PlacedClips, dataset)


class Intervals:
    """Clips without annotations, as a dataset; their text is empty."""

    label_sizes: Mapping[str, int] = {}

    def __init__(self, videos: ChunkedVideoConfig, places: Sequence[Place]) -> None:
        self._videos = videos
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Sample:
        place = self._places[index]
        span = Span(place.start_sec, place.end_sec)
        clip = ClipRef(self._videos.source(place.video_uid), span)
        return Sample(index, (clip,), ("",), {})

    def chunk_of(self, index: int) -> tuple[str, int]:
        """Video and chunk in which a clip begins."""
        place, seconds = self._places[index], self._videos.seconds_per_chunk()
        return place.video_uid, 0 if seconds is None else int(place.start_sec // seconds)

    def place(self, index: int) -> Place:
        """Video, start and end of a clip."""
        return self._places[index]


def uncovered(annotated: Iterable[tuple[str, float, float]], rule: UncoveredConfig) -> list[Place]:
    """Clips between the annotated ones, by the rule of `UncoveredConfig`, video by video."""
    spans: dict[str, list[tuple[float, float]]] = {}
    for uid, start, end in annotated:
        spans.setdefault(uid, []).append((start, end))
    found: list[Place] = []
    for uid, taken in spans.items():
        free_from = 0.0
        for start, end in sorted(taken):
            found += _cut(uid, free_from, start, rule)
            free_from = max(free_from, end)
    return found


def _cut(uid: str, start: float, end: float, rule: UncoveredConfig) -> list[Place]:
    length = end - start
    if length < rule.min_sec:
        return []
    # a hair below a whole number is that number
    pieces = max(math.ceil(length / rule.max_sec - 1e-9), 1)
    edges = [start + length * k / pieces for k in range(pieces)] + [end]
    return [Place(uid, a, b) for a, b in itertools.pairwise(edges)]
