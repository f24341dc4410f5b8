"""Clips of NLQ and MQ cut into windows of a few frames, one dense feature each (EgoVLP 3.11, 6.5).

A sample is one window, so a long clip is never in memory at once. Clips lie anywhere in the full
videos; features are kept by clip, as the benchmarks' own readers look for them.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from egovl.data.datasets.configs import EpisodicConfig
from egovl.data.datasets.state_change import load_json
from egovl.data.manifest import keep_known
from egovl.data.sampling import window_frame_ids
from egovl.data.types import ClipRef, Sample, Span

log = logging.getLogger(__name__)

FRAMES_PER_SEC = 30
_FAR = 1 << 40  # frames of a video whose length is not known


@dataclass(frozen=True, slots=True)
class EpisodicClip:
    """One clip of a benchmark and the queries asked of it."""

    clip_uid: str
    video_uid: str
    start_sec: float
    end_sec: float
    queries: tuple[str, ...] = field(compare=False)


class EpisodicWindows:
    """Every window of every clip; labels ``video``, the clip's number, and ``window``, its place.

    Attributes:
        names: Of the clips, by their number.
    """

    label_sizes: Mapping[str, int] = {}

    def __init__(self, config: EpisodicConfig, clips: list[EpisodicClip] | None = None) -> None:
        self._config = config
        self.clips = _find_clips(config) if clips is None else clips
        self.names = [clip.clip_uid for clip in self.clips]
        self._ends = np.cumsum([self.num_windows(k) for k in range(len(self.clips))])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Sample:
        number = int(np.searchsorted(self._ends, index, side="right"))
        clip, size = self.clips[number], self._config.window_frames
        place = index - (int(self._ends[number - 1]) if number else 0)
        samples = _num_samples(self._config, clip)
        ids = dense_frame_ids(clip.start_sec, clip.end_sec, _FAR, samples)
        frames = tuple(ids[place * size : (place + 1) * size])
        reference = ClipRef(
            self._config.source(clip.video_uid), Span(clip.start_sec, clip.end_sec), frames=frames
        )
        return Sample(index, (reference,), ("",), {"video": number, "window": place})

    def chunk_of(self, index: int) -> str:
        """Video of a window."""
        return self.clips[int(np.searchsorted(self._ends, index, side="right"))].video_uid

    def num_windows(self, number: int) -> int:
        """Windows of a clip: those that are full."""
        return int(_num_samples(self._config, self.clips[number])) // self._config.window_frames

    def only(self, names: Collection[str]) -> EpisodicWindows:
        """The windows of some clips."""
        wanted = set(names)
        return EpisodicWindows(self._config, [c for c in self.clips if c.clip_uid in wanted])


def _num_samples(config: EpisodicConfig, clip: EpisodicClip) -> float:
    return (clip.end_sec - clip.start_sec) * config.frames_per_sec + 1


def _find_clips(config: EpisodicConfig) -> list[EpisodicClip]:
    """Clips that are there and long enough for a window, each once."""
    config.check_root()
    clips = keep_known(
        load_episodic_clips(config.annotations),
        lambda clip: [clip.video_uid],
        config.manifest,
        "clips",
    )
    found: dict[str, EpisodicClip] = {}
    for clip in clips:
        if _num_samples(config, clip) < config.window_frames:
            log.warning("clip %s is too short for one feature and left out", clip.clip_uid)
        elif found.setdefault(clip.clip_uid, clip) != clip:
            raise ValueError(
                f"{config.annotations}: clip {clip.clip_uid} is listed twice, with other times"
            )
    if not found:
        raise ValueError(f"{config.annotations}: no clip is long enough for one feature")
    return list(found.values())


def dense_frame_ids(
    start_sec: float, end_sec: float, video_frames: int, num_samples: float
) -> list[int]:
    """Frames of a clip at 30 a second, ``int(num_samples)`` of them."""
    return window_frame_ids(
        FRAMES_PER_SEC * start_sec, FRAMES_PER_SEC * end_sec, video_frames, num_samples
    )


def load_episodic_clips(path: Path) -> list[EpisodicClip]:
    """Clips of ``nlq_*.json`` or ``moments_*.json`` in the file's order, queries that are there.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Names file and clip.
    """
    clips = []
    for video in load_json(path).get("videos", []):
        for clip in video.get("clips", []):
            try:
                queries = tuple(
                    str(query["query"])
                    for annotation in clip.get("annotations") or []
                    for query in annotation.get("language_queries") or []
                    if query.get("query")
                )
                span = Span(float(clip["video_start_sec"]), float(clip["video_end_sec"]))
                clips.append(
                    EpisodicClip(
                        str(clip["clip_uid"]),
                        str(video["video_uid"]),
                        span.start_sec,
                        span.end_sec,
                        queries,
                    )
                )
            except KeyError as error:
                raise ValueError(f"{path}, clip {len(clips)}: {error} is missing") from error
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}, clip {len(clips)}: {error}") from error
    if not clips:
        raise ValueError(f"{path} has no clips")
    return clips
