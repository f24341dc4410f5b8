"""Label-smoothed cross entropy for one head or several, and the keyframe loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def classification_loss(logits: Tensor, target: Tensor, *, smoothing: float = 0.1) -> Tensor:
    """Cross entropy against a target with ``smoothing`` spread evenly over all classes.

    LaViLa spec section 4.

    Args:
        logits: ``[B, classes]``.
        target: ``[B]`` class ids.
        smoothing: share of the target taken from the true class, 0 for none.
    """
    return F.cross_entropy(logits.float(), target, label_smoothing=smoothing)


def multi_head_loss(
    logits: Sequence[Tensor], targets: Sequence[Tensor], *, smoothing: float = 0.1
) -> Tensor:
    """Sum of the heads' losses with equal weights: verb, noun and action.

    LaViLa spec sections 2.7 and 4.

    Args:
        logits: per head ``[B, classes of the head]``.
        targets: per head ``[B]`` class ids.
        smoothing: as in ``classification_loss``.

    Raises:
        ValueError: if there are not as many targets as heads, or none.
    """
    if not logits or len(logits) != len(targets):
        raise ValueError(
            f"{len(logits)} heads and {len(targets)} targets: need as many, at least 1"
        )
    losses = [
        classification_loss(head, target, smoothing=smoothing)
        for head, target in zip(logits, targets, strict=True)
    ]
    return torch.stack(losses).sum()


def keyframe_loss(
    logits: Tensor, target: Tensor, has_change: Tensor, *, legacy_mean: bool = False
) -> Tensor:
    """Cross entropy over frames of the clips in which a state changes (PNR, EgoVLP spec 4).

    Args:
        logits: ``[B, frames]``.
        target: ``[B]`` number of the frame nearest to the change.
        has_change: ``[B]`` 1 where the clip has one.
        legacy_mean: the mean over all clips times the share of clips with a change, as published;
            the same where every clip has one, as in its dataset.
    """
    changed = has_change.float()
    if legacy_mean:
        return F.cross_entropy(logits.float(), target) * changed.mean()
    entropy = F.cross_entropy(logits.float(), target, reduction="none")
    return (entropy * changed).sum() / changed.sum().clamp(min=1)
