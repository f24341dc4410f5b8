"""What a loss over paired clips and texts is given, and what it gives back.

A loss is a callable from `Pairs` to `PairLossOutput`; `egovl.losses.configs.LOSSES` names them.
Beside the embeddings it may ask for side values by name (``sides``): verb and noun tags, relevancy,
flags. The task looks each one up by sample id in the dataset's side tables, or else takes it from
the labels of the batch; the loss does not know which.

Shapes: B pairs scored here, N candidates (all pairs of all ranks), D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from egovl.losses.similarity import cosine_matrix


class SideTable(Protocol):
    """Values of samples that no batch carries, kept by whoever knows the annotations.

    A value may be a row of a matrix: for relevancy, of a clip to every distinct sentence, with a
    second table that says which sentence each sample has.
    """

    def rows(self, index: Tensor) -> Tensor:
        """``[N, ...]`` values of the samples ``index`` ``[N]``, on its device."""
        ...


@dataclass(frozen=True)
class Pairs:
    """Row i of ``video`` and ``text`` is a pair, and the candidate ``offset + i``."""

    video: Tensor
    """``[B, D]``."""
    text: Tensor
    """``[B, D]``."""
    scale: Tensor
    """The model's inverse temperature, already exponentiated."""
    pseudo_scale: Tensor | None = None
    """Its second one, of pseudo-labelled pairs."""
    all_video: Tensor | None = None
    """``[N, D]`` candidates, if not the rows themselves."""
    all_text: Tensor | None = None
    offset: int = 0
    sides: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    """``[N, ...]`` of all candidates, by the names that the loss asks for."""

    def side(self, name: str) -> Tensor:
        """A side value of all candidates ``[N, ...]``."""
        return self.sides[name]


@dataclass(frozen=True)
class PairLossOutput:
    """A differentiable scalar, and detached ones to log."""

    loss: Tensor
    report: dict[str, Tensor]


class PairLoss(Protocol):
    """A loss over pairs."""

    sides: tuple[str, ...]
    """Names of the side values it needs."""

    def __call__(self, pairs: Pairs) -> PairLossOutput:
        """Score the pairs."""
        ...


def cosines(pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Cosines ``[B, N]`` of the texts with all videos, and of the videos with all texts."""
    if pairs.all_video is None or pairs.all_text is None:
        by_text = cosine_matrix(pairs.text, pairs.video)
        return by_text, by_text.T
    by_text = cosine_matrix(pairs.text, pairs.all_video)
    return by_text, cosine_matrix(pairs.video, pairs.all_text)


def matching_accuracy(scores: Tensor, offset: int) -> Tensor:
    """Percent of the rows of ``scores`` ``[B, N]`` whose own column is the highest, detached."""
    own = torch.arange(offset, offset + scores.shape[0], device=scores.device)
    return 100 * (scores.detach().argmax(dim=1) == own).float().mean()
