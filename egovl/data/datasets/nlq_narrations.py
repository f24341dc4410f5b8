"""Narrations of EgoClip as queries for pretraining (GroundNLQ spec 3.3, in the manner of NaQ)."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from egovl.data.datasets.nlq_rows import QueryRow
from egovl.data.types import RandomSource

log = logging.getLogger(__name__)

WITHOUT_FEATURES = (
    "1f980b47-4fe6-418f-be03-a0c23768cd74",
    "26e62afd-05ec-450a-9291-8936f8e52571",
    "0fa5b9ca-6ff0-4dea-8093-054dbe214f02",
)
"""Clips whose video features nobody released."""
QUERY_TYPE = "nlq_narration"
LONGEST_JITTER = 10
_COLUMNS = ("video_uid", "narration_source", "narration_ind", "clip_start", "clip_end", "clip_text")
_NARRATORS = {"narration_pass_1": "narrator-1", "narration_pass_2": "narrator-2"}

Span = tuple[float, float]


@dataclass(frozen=True, slots=True)
class _Narration:
    source: str
    number: str
    start_sec: float
    end_sec: float
    text: str


def narration_rows(
    egoclip: Iterable[str], tasks: Sequence[Mapping[str, Any]]
) -> Iterator[QueryRow]:
    """Narrations that lie inside the clips of some benchmarks, clip by clip.

    Args:
        egoclip: lines of ``egoclip.csv``.
        tasks: training json of NLQ, Moments and VQ, in this order; a clip counts once.

    Raises:
        ValueError: the table lacks a column, or a narration comes from an unknown source.
    """
    wanted = {video["video_uid"] for task in tasks for video in task.get("videos", [])}
    narrations = _read_narrations(egoclip, wanted)
    seen: set[str] = set()
    for task in tasks:
        for video in task.get("videos", []):
            own = narrations.get(video["video_uid"])
            if not own:
                continue
            for clip in video.get("clips", []):
                if clip["clip_uid"] not in seen:
                    seen.add(clip["clip_uid"])
                    yield from _rows_of_clip(clip, own)


def _rows_of_clip(clip: Mapping[str, Any], narrations: list[_Narration]) -> Iterator[QueryRow]:
    start, end = float(clip["video_start_sec"]), float(clip["video_end_sec"])
    for narration in narrations:
        if narration.start_sec > start and narration.end_sec < end:
            narrator = _NARRATORS.get(narration.source)
            if narrator is None:
                raise ValueError(
                    f"narration_source {narration.source!r}; known are {sorted(_NARRATORS)}"
                )
            yield QueryRow(
                query=narration.text,
                query_id=f"{clip['clip_uid']}_{narrator}_{narration.number}",
                duration_sec=end - start,
                video_id=str(clip["clip_uid"]),
                query_type=QUERY_TYPE,
                spans=((narration.start_sec - start, narration.end_sec - start),),
            )


def _read_narrations(lines: Iterable[str], wanted: set[str]) -> dict[str, list[_Narration]]:
    rows = csv.reader(lines, delimiter="\t")
    header = next(rows, [])
    missing = [name for name in _COLUMNS if name not in header]
    if missing:
        raise ValueError(f"egoclip.csv lacks the columns {missing}; it has {header}")
    places = [header.index(name) for name in _COLUMNS]
    found: dict[str, list[_Narration]] = {}
    skipped = 0
    for cells in rows:
        if len(cells) != len(header):
            skipped += 1
            continue
        uid, source, number, start, end, text = (cells[place] for place in places)
        if uid not in wanted:
            continue
        try:
            narration = _Narration(source, number, float(start), float(end), text)
        except ValueError:
            skipped += 1
            continue
        found.setdefault(uid, []).append(narration)
    if skipped:
        log.warning("%d malformed lines of egoclip.csv skipped", skipped)
    return found


def jitter_span(span: Span, random: RandomSource) -> Span:
    """A longer window that contains the span, up to ten times as long (GroundNLQ spec 3.5)."""
    factor, shift = random.integer(1, LONGEST_JITTER), random.uniform(-1, 1)
    length, center = span[1] - span[0], (span[0] + span[1]) / 2
    center -= shift * (factor - 1) * length / 2
    return center - factor * length / 2, center + factor * length / 2
