"""Several views of a sample (clips in time, crops in space) through a model, and back to one."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from egovl.data.transforms import normalize_video


def encode_views(encode: Callable[[Tensor], Tensor], video: Tensor, normalization: str) -> Tensor:
    """Outputs ``[B, K, D]`` of the ``K`` views of ``[B, K, C, T, H, W]``."""
    output = encode(normalize_video(video.flatten(0, 1), normalization))
    return output.float().unflatten(0, video.shape[:2])
