"""Caption loss of the narrator: next-token cross entropy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class CaptionOutput:
    """Loss; detached: mean perplexity of a caption, and correct next tokens (percent)."""

    loss: Tensor
    perplexity: Tensor
    accuracy: Tensor


def caption_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    pad_id: int = 0,
    num_tokens: Tensor | float | None = None,
    legacy_mean: bool = False,
) -> CaptionOutput:
    """Cross entropy of each next token that is not padding. LaViLa spec section 4.

    Args:
        logits: ``[B, L, V]``, position i predicts label i.
        labels: ``[B, L]`` token ids, the text shifted by one.
        pad_id: the id of positions that do not count.
        num_tokens: divide by this instead of the number of valid tokens here. The number of valid
            tokens of all ranks divided by the world size gives the exact mean over the batch.
        legacy_mean: divide by all B*L positions, padding included, and let a caption without tokens
            make the perplexity NaN, as LaViLa published. Otherwise such captions do not count.

    Raises:
        ValueError: if shapes do not fit, or both ways of dividing are asked for.
    """
    if logits.shape[:2] != labels.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)}, labels {tuple(labels.shape)}: need [B, L, V] and [B, L]"
        )
    if legacy_mean and num_tokens is not None:
        raise ValueError("legacy_mean divides by all positions; give no num_tokens with it")
    valid = labels != pad_id
    # a padding id may lie outside the vocabulary (-100)
    target = labels.masked_fill(~valid, 0)
    entropy = F.cross_entropy(logits.float().transpose(1, 2), target, reduction="none")
    entropy = entropy.masked_fill(~valid, 0.0)
    if legacy_mean:
        loss = entropy.mean()
    else:
        loss = entropy.sum() / (valid.sum().clamp(min=1) if num_tokens is None else num_tokens)
    perplexity = caption_perplexity(entropy.detach(), valid)
    hits = (logits.detach().argmax(dim=-1) == labels) & valid
    return CaptionOutput(
        loss=loss,
        perplexity=perplexity.mean() if legacy_mean else perplexity.nanmean(),
        accuracy=100 * hits.sum() / valid.sum(),
    )


def caption_perplexity(entropy: Tensor, valid: Tensor) -> Tensor:
    """Perplexity ``[B]`` of each caption from its tokens' cross entropies ``[B, L]``.

    A caption without a valid token has NaN. LaViLa spec section 4.
    """
    total = torch.where(valid, entropy, 0.0).sum(dim=1)
    return (total / valid.sum(dim=1)).exp()


def text_perplexity(logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """Perplexity ``[B]`` of texts under the logits of each next token.

    Of a text's own prefixes it is the teacher-forced perplexity; of what a model wrote itself, the
    free-running one (LaViLa spec 2.9, 6.3).

    Args:
        logits: ``[B, L, V]``, position i predicts label i.
        labels: ``[B, L]`` ids.
        valid: ``[B, L]`` where a label counts.
    """
    target = labels.masked_fill(~valid, 0)
    entropy = F.cross_entropy(logits.float().transpose(1, 2), target, reduction="none")
    return caption_perplexity(entropy, valid)
