"""Max-margin ranking losses over a similarity matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from egovl.losses.pairs import PairLossOutput, Pairs, cosines, matching_accuracy
from egovl.losses.similarity import wide

if TYPE_CHECKING:
    from egovl.losses.configs import AdaptiveMaxMarginConfig, MaxMarginConfig


def max_margin(
    similarity: Tensor,
    margin: float = 0.2,
    *,
    weight: Tensor | None = None,
    fix_norm: bool = True,
    other: Tensor | None = None,
    offset: int = 0,
) -> Tensor:
    """Mean hinge by which any other pair comes within ``margin`` of the true one, both directions.

    EgoVLP spec section 4 (MI-MM; adaptive with ``weight``), LaViLa spec section 4.

    Args:
        similarity: ``[B, N]``, the true pair of row i in column ``offset + i``.
        margin: distance that is enough.
        weight: ``[B]`` factor of the margin of pair i, the relevancy in the adaptive loss (whose
            margin is published as 0.4); the same in both directions.
        fix_norm: leave the true pairs out, so that the mean runs over 2B(N-1) terms. False counts
            them with their constant margin, over 2BN terms.
        other: ``[B, N]`` of the other direction; the transpose if ``similarity`` is square.
        offset: column of row 0's true pair.

    Raises:
        ValueError: if shapes do not fit, or ``fix_norm`` leaves no term.
    """
    rows, size = similarity.shape
    other = similarity.T if other is None else other
    if other.shape != similarity.shape or offset + rows > size:
        raise ValueError(
            f"similarity {tuple(similarity.shape)}, other {tuple(other.shape)}, offset {offset}: "
            "need [B, N] twice, or [N, N] once"
        )
    if weight is not None and weight.shape != (rows,):
        raise ValueError(f"weight {tuple(weight.shape)}: need [{rows}], one number per pair")
    if fix_norm and size < 2:
        raise ValueError(f"{size} pair has nothing to rank against; need 2 or more")
    x, y = wide(similarity), wide(other)
    true = x.diagonal(offset)[:, None]
    floor = margin - true if weight is None else margin * wide(weight)[:, None] - true
    hinge = F.relu(floor + x) + F.relu(floor + y)
    if fix_norm:
        pairs = torch.ones_like(hinge, dtype=torch.bool).triu(offset).tril(offset)
        return hinge.masked_fill(pairs, 0.0).sum() / (2 * rows * (size - 1))
    return hinge.mean() / 2


class MaxMargin:
    """`max_margin` of the cosines of a batch's pairs, adaptive where the config names a weight."""

    def __init__(self, config: MaxMarginConfig | AdaptiveMaxMarginConfig) -> None:
        self.config = config
        self.weight: str | None = getattr(config, "weight", None)
        self.sides: tuple[str, ...] = () if self.weight is None else (self.weight,)

    def __call__(self, pairs: Pairs) -> PairLossOutput:
        """Loss and accuracy."""
        by_text, by_video = cosines(pairs)
        own = slice(pairs.offset, pairs.offset + len(by_text))
        loss = max_margin(
            by_text,
            self.config.margin,
            weight=None if self.weight is None else pairs.side(self.weight)[own],
            fix_norm=self.config.fix_norm,
            other=by_video,
            offset=pairs.offset,
        )
        return PairLossOutput(loss, {"accuracy": matching_accuracy(by_video, pairs.offset)})
