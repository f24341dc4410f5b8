"""Contrastive losses over paired embeddings.

Shapes: B pairs scored here, N candidates (all pairs of all ranks), D width. Embeddings come as the
task has gathered and, if its recipe says so, normalised them; everything is computed in float32 or
wider.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from egovl.losses.pairs import PairLossOutput, Pairs
from egovl.losses.similarity import wide

if TYPE_CHECKING:
    from egovl.losses.configs import InfoNCEConfig, SslClipConfig


@dataclass(frozen=True)
class ContrastiveOutput:
    """Loss and, detached, the share of videos whose text scores highest (percent)."""

    loss: Tensor
    accuracy: Tensor


@dataclass(frozen=True)
class SslClipOutput:
    """Loss, and accuracies (percent) over all, human and pseudo-labelled rows.

    The accuracy of a kind that the batch has no row of is NaN.
    """

    loss: Tensor
    accuracy: Tensor
    accuracy_human: Tensor
    accuracy_pseudo: Tensor
    num_human: Tensor
    num_pseudo: Tensor


def info_nce(
    video: Tensor,
    text: Tensor,
    scale: Tensor | float,
    *,
    all_video: Tensor | None = None,
    all_text: Tensor | None = None,
    offset: int = 0,
) -> ContrastiveOutput:
    """Symmetric cross entropy of ``scale * video @ text^T``: the mean of both directions.

    LaViLa spec section 4. ``egovl.dist.gather_pair`` makes the arguments of every published way of
    gathering.

    Args:
        video: ``[B, D]``.
        text: ``[B, D]``, row i the pair of video row i.
        scale: inverse temperature, already exponentiated.
        all_video: ``[N, D]`` candidates of the text rows, if not ``video`` itself.
        all_text: ``[N, D]`` candidates of the video rows, if not ``text`` itself.
        offset: the candidate that belongs to row 0.
    """
    by_video, by_text = _similarities(video, text, all_video, all_text)
    return _symmetric_loss(scale * by_video, scale * by_text, offset)


def ssl_clip(
    video: Tensor,
    text: Tensor,
    is_human: Tensor,
    scale: Tensor,
    pseudo_scale: Tensor,
    *,
    all_video: Tensor | None = None,
    all_text: Tensor | None = None,
    offset: int = 0,
) -> SslClipOutput:
    """InfoNCE over human and pseudo-labelled pairs with one temperature for each kind.

    The scale of a pair (i, j) is ``scale`` if both are human, ``pseudo_scale`` if neither is, and
    their geometric mean if one is. LaViLa spec section 4 (SSL-CLIP).

    Args:
        video: ``[B, D]``.
        text: ``[B, D]``.
        is_human: ``[N]`` bool or 0/1 flags of all candidates (N = B if none are given).
        scale: inverse temperature of human pairs, already exponentiated.
        pseudo_scale: the same of pseudo-labelled pairs.
        all_video: ``[N, D]`` as in ``info_nce``.
        all_text: ``[N, D]`` as in ``info_nce``.
        offset: as in ``info_nce``.

    Raises:
        ValueError: if ``is_human`` has not one flag per candidate.
    """
    by_video, by_text = _similarities(video, text, all_video, all_text)
    if is_human.shape != by_video.shape[1:]:
        raise ValueError(
            f"is_human {tuple(is_human.shape)}: need [{by_video.shape[1]}], a flag per candidate"
        )
    human = is_human.bool()
    # the product of two square roots is each of the three scales
    root = torch.where(human, wide(scale).sqrt(), wide(pseudo_scale).sqrt())
    own = slice(offset, offset + video.shape[0])
    scales = root[own, None] * root
    both = _symmetric_loss(scales * by_video, scales * by_text, offset)
    hits = _hits(scales * by_video, offset)
    return SslClipOutput(
        loss=both.loss,
        accuracy=both.accuracy,
        accuracy_human=_percent(hits, human[own]),
        accuracy_pseudo=_percent(hits, ~human[own]),
        num_human=human[own].sum(),
        num_pseudo=(~human[own]).sum(),
    )


class InfoNCE:
    """`info_nce` of a batch's pairs."""

    sides: tuple[str, ...] = ()

    def __init__(self, config: InfoNCEConfig) -> None:
        self.config = config

    def __call__(self, pairs: Pairs) -> PairLossOutput:
        """Loss and accuracy."""
        result = info_nce(
            pairs.video,
            pairs.text,
            pairs.scale,
            all_video=pairs.all_video,
            all_text=pairs.all_text,
            offset=pairs.offset,
        )
        return PairLossOutput(result.loss, {"accuracy": result.accuracy})


class SslClip:
    """`ssl_clip` of a batch's pairs; needs the model's second temperature."""

    def __init__(self, config: SslClipConfig) -> None:
        self.config = config
        self.sides: tuple[str, ...] = (config.is_human,)

    def __call__(self, pairs: Pairs) -> PairLossOutput:
        """Loss, accuracy and the number of human pairs.

        Raises:
            ValueError: the model has one temperature only.
        """
        if pairs.pseudo_scale is None:
            raise ValueError(
                "loss ssl_clip needs a second temperature: set model.pseudo_temperature_init, "
                "as in model.pseudo_temperature_init=0.07"
            )
        result = ssl_clip(
            pairs.video,
            pairs.text,
            pairs.side(self.config.is_human),
            pairs.scale,
            pairs.pseudo_scale,
            all_video=pairs.all_video,
            all_text=pairs.all_text,
            offset=pairs.offset,
        )
        report = {"accuracy": result.accuracy, "num_human": result.num_human.float()}
        return PairLossOutput(result.loss, report)


def _similarities(
    video: Tensor, text: Tensor, all_video: Tensor | None, all_text: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Products ``[B, N]`` of the videos with all texts and of the texts with all videos."""
    with torch.autocast(video.device.type, enabled=False):
        video, text = wide(video), wide(text)
        if all_video is None or all_text is None:
            by_video = video @ text.T
            return by_video, by_video.T
        return video @ wide(all_text).T, text @ wide(all_video).T


def _symmetric_loss(by_video: Tensor, by_text: Tensor, offset: int) -> ContrastiveOutput:
    target = torch.arange(offset, offset + by_video.shape[0], device=by_video.device)
    loss = (F.cross_entropy(by_video, target) + F.cross_entropy(by_text, target)) / 2
    hits = _hits(by_video, offset)
    return ContrastiveOutput(loss, _percent(hits, torch.ones_like(hits)))


def _hits(logits: Tensor, offset: int) -> Tensor:
    rows = torch.arange(offset, offset + logits.shape[0], device=logits.device)
    return logits.detach().argmax(dim=1) == rows


def _percent(hits: Tensor, among: Tensor) -> Tensor:
    # a sum, as indexing with a mask would make the host wait for the device
    return 100 * (hits & among).sum() / among.sum()
