"""What every dataset over a table of clips does: places, chunks, the order of time."""

from __future__ import annotations

import numpy as np

from egovl.data.annotations import ClipTable
from egovl.data.configs import ChunkedVideoConfig
from egovl.data.types import ClipRef, Span


class ClipRows:
    """Rows of a mapped table as clips of chunked videos (`OrderedByTime`).

    Raises:
        FileNotFoundError: The video folder is missing.
    """

    def __init__(self, config: ChunkedVideoConfig, table: ClipTable) -> None:
        config.check_root()
        self._videos = config
        self._table = table

    def __len__(self) -> int:
        return len(self._table)

    def clip(self, index: int) -> ClipRef:
        """Where a row's frames come from."""
        table = self._table
        span = Span(float(table.start_sec[index]), float(table.end_sec[index]))
        return ClipRef(self._videos.source(table.uid(index)), span)

    def place(self, index: int) -> tuple[str, float, float]:
        """Video, start and end (seconds) of a row."""
        table = self._table
        return table.uid(index), float(table.start_sec[index]), float(table.end_sec[index])

    def chunk_of(self, index: int) -> tuple[int, int]:
        """Video and chunk in which a clip begins."""
        seconds = self._videos.seconds_per_chunk()
        chunk = 0 if seconds is None else int(self._table.start_sec[index] // seconds)
        return int(self._table.video[index]), chunk

    def chunk_numbers(self, rows: np.ndarray | None = None) -> np.ndarray:
        """``[N]`` int64, equal for clips that begin in the same file; of some rows, or of all."""
        seconds = self._videos.seconds_per_chunk()
        chosen = slice(None) if rows is None else rows
        video = self._table.video[chosen].astype(np.int64)
        if seconds is None:
            return video
        chunk = np.floor_divide(self._table.start_sec[chosen], seconds).astype(np.int64)
        return (video << 32) + chunk

    @property
    def time_order(self) -> np.ndarray:
        """``[N]`` rows by video, then start."""
        return self._table.by_start
