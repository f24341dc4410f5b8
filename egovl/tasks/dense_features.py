"""Dense features of long clips for NLQ and MQ: one per window of a few frames (EgoVLP spec 6.5)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def cut_windows(video: Tensor, frames_per_feature: int) -> Tensor:
    """Windows ``[N, F, ...]`` of consecutive frames ``[T, ...]``; the rest is dropped."""
    count = len(video) // frames_per_feature
    kept = video[: count * frames_per_feature]
    return kept.reshape(count, frames_per_feature, *video.shape[1:])


def encode_windows(
    encode: Callable[[Tensor], Tensor],
    windows: Tensor,
    *,
    batch_size: int = 4,
    legacy_zero_tail: bool = False,
) -> Tensor:
    """Features ``[N, D]`` of windows ``[N, F, ...]``.

    Args:
        encode: ``[n, F, ...]`` to ``[n, D]``.
        windows: All windows of a clip.
        batch_size: Windows that are encoded together.
        legacy_zero_tail: As published, the last ``N % batch_size`` rows stay zero (parity: egovlp
            ``dense_features``).
    """
    parts = [encode(windows[i : i + batch_size]) for i in range(0, len(windows), batch_size)]
    features = torch.cat(parts)
    if legacy_zero_tail:
        zero_tail(features, batch_size)
    return features


def zero_tail(features: Tensor | np.ndarray, batch_size: int = 4) -> None:
    """Set the rows behind the last whole batch to zero, as in EgoVLP's released features."""
    features[len(features) // batch_size * batch_size :] = 0


def load_dense_features(folder: Path, clip_uid: str) -> Tensor:
    """Features ``[T, D]`` float32 of a clip, ``<clip_uid>.pt``.

    Raises:
        FileNotFoundError: the clip has none.
        ValueError: the file holds no matrix.
    """
    path = folder / f"{clip_uid}.pt"
    if not path.is_file():
        raise FileNotFoundError(f"no features for clip {clip_uid}: {path} does not exist")
    features = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(features, Tensor) or features.ndim != 2:
        raise ValueError(f"{path} holds no matrix [T, D]")
    return features.float()
