"""Features of videos, one a second, kept for the clips that are read next."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from egovl.data.decode import DecodeError
from egovl.data.features import open_features

_SUFFIXES = (".mp4", ".mkv", ".webm")
_KEPT_VIDEOS = 256


def video_name(name: str) -> str:
    """A video's name without the ending of its file."""
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return name


class SecondFeatures:
    """Rows of a feature store."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._store = open_features(path)
        self._kept: OrderedDict[str, np.ndarray] = OrderedDict()

    def length(self, video: str) -> int:
        """Seconds of a video.

        Raises:
            DecodeError: the store lacks it, or holds something else.
        """
        return len(self._read(video))

    def rows(self, video: str, seconds: Sequence[int]) -> Tensor:
        """Features ``[T, D]`` of some seconds; one behind the end is the last."""
        features = self._read(video)
        return torch.from_numpy(features[np.clip(seconds, 0, len(features) - 1)])

    def _read(self, video: str) -> np.ndarray:
        name = video_name(video)
        if name in self._kept:
            self._kept.move_to_end(name)
            return self._kept[name]
        try:
            features = self._store.read(name)
        except (KeyError, ValueError) as error:
            raise DecodeError(self._path / name, None, str(error)) from error
        if not len(features):
            raise DecodeError(self._path / name, None, "it has no features")
        self._kept[name] = features
        if len(self._kept) > _KEPT_VIDEOS:
            self._kept.popitem(last=False)
        return features
