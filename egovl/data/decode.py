"""Pixels from video files behind one seam: a `VideoReader` per file, equal pixels everywhere.

Frames are uint8 ``[N, H, W, 3]``, RGB, turned upright when the file carries a rotation.
PyAV comes first: its wheel brings FFmpeg and it needs no thread hand-over per frame, which makes it
several times faster than decord on small prepared chunks (`make bench`). torchcodec, about a
quarter faster still, needs FFmpeg's shared libraries on the machine and is used when asked for.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np

from egovl.data.types import Span

log = logging.getLogger(__name__)

PICTURES = (".jpg", ".jpeg", ".png")


class DecodeError(RuntimeError):
    """A clip that cannot be read: file, span if known, and why."""

    def __init__(self, path: Path | str, span: Span | None, reason: str) -> None:
        self.path = Path(path)
        self.span = span
        self.reason = reason
        where = "" if span is None else f" at {span.start_sec:.3f} .. {span.end_sec:.3f} s"
        super().__init__(f"cannot decode {path}{where}: {reason}")

    def __reduce__(self) -> tuple[type[DecodeError], tuple[Path, Span | None, str]]:
        return DecodeError, (self.path, self.span, self.reason)


class DecodeTimeoutError(DecodeError):
    """The file did not answer within the time limit."""

    def __reduce__(self) -> tuple[type[DecodeError], tuple[Path, Span | None, str]]:
        return DecodeTimeoutError, (self.path, self.span, self.reason)


class VideoReader(Protocol):
    """One open file."""

    @property
    def num_frames(self) -> int:
        """Frames in the file."""
        ...

    @property
    def fps(self) -> float:
        """Average frames per second; NaN where nothing states it."""
        ...

    def read(self, frames: Sequence[int]) -> np.ndarray:
        """Frames of an increasing list of numbers, uint8 ``[N, H, W, 3]``.

        Raises:
            DecodeError: A frame is damaged or missing.
        """
        ...


def _open_pyav(path: Path) -> VideoReader:
    from egovl.data.pyav_reader import PyAVReader

    return PyAVReader(path)


def _open_decord(path: Path) -> VideoReader:
    from egovl.data.decord_reader import DecordReader

    return DecordReader(path)


def _open_torchcodec(path: Path) -> VideoReader:
    from egovl.data.torchcodec_reader import TorchCodecReader

    return TorchCodecReader(path)


def _open_pictures(path: Path) -> VideoReader:
    from egovl.data.image_reader import FrameFolderReader, ImageReader

    return FrameFolderReader(path) if path.is_dir() else ImageReader(path)


_BACKENDS: dict[str, tuple[str, Callable[[Path], VideoReader]]] = {
    "pyav": ("av", _open_pyav),
    "decord": ("decord", _open_decord),
    "torchcodec": ("torchcodec", _open_torchcodec),
}


def available_backends() -> list[str]:
    """Back ends that load on this machine, the preferred one first."""
    return [name for name in _BACKENDS if _loads(name)]


@cache
def _loads(backend: str) -> bool:
    """Whether its package is installed, with the libraries it needs."""
    package = _BACKENDS[backend][0]
    if importlib.util.find_spec(package) is None:
        return False
    try:
        importlib.import_module(package)
    except (ImportError, OSError, RuntimeError) as error:  # torchcodec without FFmpeg's libraries
        log.info("decoder back end %s does not load: %s", backend, error)
        return False
    return True


def choose_backend(name: str) -> str:
    """The back end to use for a config value.

    Raises:
        ValueError: Unknown or not usable on this machine.
    """
    candidates = _BACKENDS if name == "auto" else [name] if name in _BACKENDS else []
    for candidate in candidates:
        if _loads(candidate):
            return candidate
    raise ValueError(
        f"decoder back end {name!r} cannot be used; usable here: {available_backends()}, "
        f"known: {sorted(_BACKENDS)}"
    )


def open_reader(path: Path, backend: str = "auto") -> VideoReader:
    """Open a video, a picture (one frame), or a folder of numbered pictures (frame by number).

    Raises:
        DecodeError: Missing, not a video, or damaged.
    """
    if not path.exists():
        raise DecodeError(path, None, "no such file")
    if path.is_dir() or path.suffix.lower() in PICTURES:
        return _open_pictures(path)
    return _BACKENDS[choose_backend(backend)][1](path)
