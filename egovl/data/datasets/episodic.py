"""Clips of NLQ and MQ cut into windows of a few frames, one dense feature each (EgoVLP 3.11, 6.5).

A sample is one window, so a long clip is never in memory at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from egovl.data.datasets.configs import EpisodicConfig
from egovl.data.datasets.state_change import load_json
from egovl.data.manifest import keep_known
from egovl.data.sampling import window_frame_ids
from egovl.data.types import ClipRef, Sample, Span

FRAMES_PER_SEC = 30
_FAR = 1 << 40  # frames of a video whose length is not known


@dataclass(frozen=True, slots=True)
class EpisodicClip:
    """One clip of a benchmark and the queries asked of it."""

    clip_uid: str
    video_uid: str
    start_sec: float
    end_sec: float
    queries: tuple[str, ...]


class EpisodicWindows:
    """Every window of every clip; labels ``clip``, its number, and ``window``, its place."""

    label_sizes: Mapping[str, int] = {}

    def __init__(self, config: EpisodicConfig) -> None:
        config.check_root()
        self._config = config
        self.clips = keep_known(
            load_episodic_clips(config.annotations),
            lambda clip: [clip.video_uid],
            config.manifest,
            "clips",
        )
        counts = [self._num_windows(clip) for clip in self.clips]
        self._ends = np.cumsum(counts)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Sample:
        number = int(np.searchsorted(self._ends, index, side="right"))
        clip, size = self.clips[number], self._config.frames_per_feature
        place = index - (int(self._ends[number - 1]) if number else 0)
        ids = dense_frame_ids(clip.start_sec, clip.end_sec, _FAR, self._samples(clip))
        frames = tuple(ids[place * size : (place + 1) * size])
        reference = ClipRef(
            self._config.source(clip.video_uid), Span(clip.start_sec, clip.end_sec), frames=frames
        )
        return Sample(index, (reference,), ("",), {"clip": number, "window": place})

    def chunk_of(self, index: int) -> str:
        """Video of a window."""
        return self.clips[int(np.searchsorted(self._ends, index, side="right"))].video_uid

    def _samples(self, clip: EpisodicClip) -> float:
        rate = self._config.features_per_sec * self._config.frames_per_feature
        return (clip.end_sec - clip.start_sec) * rate + 1

    def _num_windows(self, clip: EpisodicClip) -> int:
        return int(self._samples(clip)) // self._config.frames_per_feature


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
