"""Read single frames of a file through decord."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import decord
import numpy as np
from decord._ffi.base import DECORDError

from egovl.data.decode import DecodeError


class DecordReader:
    """One open file, reopened after a failed read since decord's own state is unusable then."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader = self._open()

    def _open(self) -> decord.VideoReader:
        try:
            reader = decord.VideoReader(str(self._path), num_threads=1)
        except (DECORDError, RuntimeError) as error:
            raise DecodeError(self._path, None, f"cannot open: {_first_line(error)}") from error
        if not len(reader):
            raise DecodeError(self._path, None, "it has no video frames")
        return reader

    @property
    def num_frames(self) -> int:
        """Frames in the file."""
        return len(self._reader)

    @property
    def fps(self) -> float:
        """Average frames per second."""
        return float(self._reader.get_avg_fps())

    def read(self, frames: Sequence[int]) -> np.ndarray:
        """Frames of an increasing list of numbers, uint8 ``[N, H, W, 3]``."""
        if frames and not 0 <= frames[0] <= frames[-1] < self.num_frames:
            raise DecodeError(
                self._path, None, f"frames {frames[0]} .. {frames[-1]} of {self.num_frames}"
            )
        try:
            return self._reader.get_batch(list(frames)).asnumpy()
        except (DECORDError, RuntimeError) as error:
            self._reader = self._open()
            raise DecodeError(self._path, None, f"damaged data: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
