"""Read pictures: one file as a video of one frame, or a folder of numbered ones (EPIC, OSCC)."""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from egovl.data.decode import PICTURES, DecodeError

_NUMBERED = re.compile(r"(?P<prefix>.*?)(?P<number>\d+)")


class ImageReader:
    """One picture; every frame number gives it, so that any clip of it can be read."""

    num_frames = 1
    fps = 1.0

    def __init__(self, path: Path) -> None:
        self._pixels = read_image(path)

    def read(self, frames: Sequence[int]) -> np.ndarray:
        """The picture as often as asked, uint8 ``[N, H, W, 3]``."""
        return np.stack([self._pixels] * len(frames))


class FrameFolderReader:
    """Pictures of a folder by the number in their name: ``frame_0000000012.jpg``, ``12.jpeg``."""

    fps = math.nan

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files: dict[int, str] = {}
        for entry in os.scandir(path):
            stem, suffix = os.path.splitext(entry.name)
            found = _NUMBERED.fullmatch(stem)
            if found is not None and suffix.lower() in PICTURES:
                self._files[int(found["number"])] = entry.name
        if not self._files:
            raise DecodeError(path, None, "the folder holds no numbered pictures")
        self.num_frames = max(self._files) + 1

    def read(self, frames: Sequence[int]) -> np.ndarray:
        """Frames by their numbers, uint8 ``[N, H, W, 3]``."""
        missing = [number for number in frames if number not in self._files]
        if missing:
            raise DecodeError(self._path, None, f"frames {missing[:5]} are not in the folder")
        return np.stack([read_image(self._path / self._files[number]) for number in frames])


def read_image(path: Path) -> np.ndarray:
    """Pixels of a file, uint8 ``[H, W, 3]``, RGB.

    Raises:
        DecodeError: Missing, damaged or no picture.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise DecodeError(path, None, f"cannot read the picture: {error}") from error


def write_image(path: Path, pixels: np.ndarray) -> None:
    """Write ``[H, W, 3]`` uint8 pixels in the format of the file's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def encode_jpeg(picture: np.ndarray, quality: int) -> bytes:
    """A picture ``[H, W, 3]`` uint8 as a JPEG file's bytes."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return file.getvalue()
