"""EgoClip: 3.8 million narrated clips of Ego4D (EgoVLP)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np

from egovl.data.configs import EgoClipConfig
from egovl.data.datasets.egoclip_table import NUM_NOUNS, NUM_VERBS, load_table
from egovl.data.sampling import DrawInteger
from egovl.data.types import ClipRef, Sample, Span


class EgoClip:
    """One clip and its narration per sample, with verb and noun ids as labels.

    Raises:
        FileNotFoundError: The table or the video folder is missing.
    """

    label_sizes: Mapping[str, int] = {"verb": NUM_VERBS, "noun": NUM_NOUNS}

    def __init__(self, config: EgoClipConfig) -> None:
        config.check_root()
        self._config = config
        self._table = load_table(config.annotations, config.on_bad_row, config.cache_folder)

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> Sample:
        table = self._table
        span = Span(float(table.start_sec[index]), float(table.end_sec[index]))
        verbs, nouns = table.tags(index)
        return Sample(
            index=index,
            clips=(ClipRef(self._config.source(table.uid(index)), span),),
            texts=(table.text(index),),
            labels={"verb": verbs, "noun": nouns},
        )

    def chunk_of(self, index: int) -> tuple[int, int]:
        """Video and chunk in which a clip begins."""
        seconds = self._config.seconds_per_chunk()
        chunk = 0 if seconds is None else int(self._table.start_sec[index] // seconds)
        return int(self._table.video[index]), chunk

    def chunk_numbers(self) -> np.ndarray:
        """``[N]`` int64, equal for clips that begin in the same file."""
        seconds = self._config.seconds_per_chunk()
        video = self._table.video.astype(np.int64)
        if seconds is None:
            return video
        chunk = np.floor_divide(self._table.start_sec, seconds).astype(np.int64)
        return video * (int(chunk.max()) + 1) + chunk

    @property
    def has_partners(self) -> bool:
        """Whether a training batch adds a scene-aware negative to every sample."""
        return self._config.neg_window_sec is not None

    def segment_of(self, index: int) -> tuple[str, int]:
        """Video and window of a narration; negatives share it."""
        window = self._config.neg_window_sec
        if window is None:
            raise ValueError("neg_window_sec is not set")
        return self._table.uid(index), int(self._table.narration_sec[index] // window)

    def negative_pool(self, index: int) -> np.ndarray:
        """Rows of the same video and window, the row itself included, increasing."""
        segment, starts, rows = self._segments
        number = segment[index]
        return rows[starts[number] : starts[number + 1]]

    def partner(self, index: int, draw: DrawInteger) -> int:
        """Row of a scene-aware negative; the row itself if its window holds no other."""
        pool = self.negative_pool(index)
        if self._config.legacy_self_negative or len(pool) == 1:
            return int(pool[draw(0, len(pool) - 1)])
        own = int(np.searchsorted(pool, index))
        chosen = draw(0, len(pool) - 2)
        return int(pool[chosen + (chosen >= own)])

    @cached_property
    def _segments(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Segment number of each row, and the rows of each segment as starts and one list."""
        window = self._config.neg_window_sec
        if window is None:
            raise ValueError("neg_window_sec is not set")
        part = np.floor_divide(self._table.narration_sec, window).astype(np.int64)
        part -= part.min()
        key = self._table.video.astype(np.int64) * (int(part.max()) + 1) + part
        _, segment, counts = np.unique(key, return_inverse=True, return_counts=True)
        rows = np.argsort(segment, kind="stable")
        return segment, np.concatenate(([0], np.cumsum(counts))), rows
