"""Mixup and CutMix: pairs of training clips mixed on the device, targets in the same share.

Draws come from torch's generator, which the trainer seeds by (seed, step, rank).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def mix_clips(
    video: Tensor,
    targets: dict[str, Tensor],
    num_classes: dict[str, int],
    *,
    mixup_alpha: float = 0.0,
    cutmix_alpha: float = 0.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mix every clip with another of the batch; with both alphas one of the two at random.

    Args:
        video: ``[B, C, T, H, W]`` float.
        targets: Each ``[B]`` class ids.
        num_classes: Classes of each target.
        mixup_alpha: Both parameters of mixup's Beta distribution; 0: off.
        cutmix_alpha: Likewise of the area that CutMix leaves; 0: off.

    Returns:
        The mixed video and ``[B, classes]`` shares of each target's classes.
    """
    soft = {name: F.one_hot(t, num_classes[name]).float() for name, t in targets.items()}
    if not mixup_alpha and not cutmix_alpha:
        return video, soft
    cut = cutmix_alpha > 0 and (not mixup_alpha or torch.rand(()).item() < 0.5)
    alpha = cutmix_alpha if cut else mixup_alpha
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    order = torch.randperm(len(video)).to(video.device)
    if cut:
        video, share = _paste(video, video[order], share)
    else:
        video = video * share + video[order] * (1 - share)
    return video, {name: t * share + t[order] * (1 - share) for name, t in soft.items()}


def _paste(video: Tensor, other: Tensor, share: float) -> tuple[Tensor, float]:
    """One box of another clip in all frames; the share of its own pixels that a clip keeps."""
    height, width = video.shape[-2:]
    side = math.sqrt(1 - share)
    middle_y, middle_x = (int(torch.randint(size, ())) for size in (height, width))
    top, bottom = _edges(middle_y, round(height * side), height)
    left, right = _edges(middle_x, round(width * side), width)
    mixed = video.clone()
    mixed[..., top:bottom, left:right] = other[..., top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)


def _edges(middle: int, length: int, size: int) -> tuple[int, int]:
    return max(middle - length // 2, 0), min(middle + (length + 1) // 2, size)
