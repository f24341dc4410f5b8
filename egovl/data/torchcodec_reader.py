"""Read single frames of a file through torchcodec.

Needs FFmpeg's shared libraries on the machine and a release of torchcodec that matches torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torchcodec.decoders import VideoDecoder  # pyright: ignore[reportMissingImports]

from egovl.data.decode import DecodeError


class TorchCodecReader:
    """One open file, frames by exact number."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._decoder = VideoDecoder(
                str(path), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact"
            )
        except (RuntimeError, ValueError) as error:
            raise DecodeError(path, None, f"cannot open: {error}") from error

    @property
    def num_frames(self) -> int:
        """Frames in the file."""
        return len(self._decoder)

    @property
    def fps(self) -> float:
        """Average frames per second."""
        rate = self._decoder.metadata.average_fps
        if not rate:
            raise DecodeError(self._path, None, "it states no frame rate")
        return float(rate)

    def read(self, frames: Sequence[int]) -> np.ndarray:
        """Frames of an increasing list of numbers, uint8 ``[N, H, W, 3]``."""
        try:
            return self._decoder.get_frames_at(indices=list(frames)).data.numpy()
        except (RuntimeError, IndexError) as error:
            raise DecodeError(self._path, None, f"damaged data: {error}") from error
