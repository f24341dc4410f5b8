"""Max-margin ranking losses over a similarity matrix."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def max_margin(
    similarity: Tensor,
    margin: float = 0.2,
    *,
    weight: Tensor | None = None,
    fix_norm: bool = True,
) -> Tensor:
    """Mean hinge by which any other pair comes within ``margin`` of the true one, both directions.

    EgoVLP spec section 4 (MI-MM; adaptive with ``weight``), LaViLa spec section 4.

    Args:
        similarity: ``[N, N]``, the true pairs on the diagonal.
        margin: distance that is enough.
        weight: ``[N]`` factor of the margin of pair i, the relevancy in the adaptive loss (whose
            margin is published as 0.4); the same in both directions.
        fix_norm: leave the diagonal out, so that the mean runs over 2N(N-1) terms. False counts it
            with its constant margin, over 2N^2 terms.

    Raises:
        ValueError: if ``similarity`` is not square or ``weight`` not one number per pair; if
            ``fix_norm`` leaves no term.
    """
    size = similarity.shape[0]
    if similarity.shape != (size, size):
        raise ValueError(f"similarity {tuple(similarity.shape)}: need [N, N]")
    if weight is not None and weight.shape != (size,):
        raise ValueError(f"weight {tuple(weight.shape)}: need [{size}], one number per pair")
    if fix_norm and size < 2:
        raise ValueError(f"{size} pair has nothing to rank against; need 2 or more")
    x = similarity.float()
    margins = margin * (torch.ones_like(x[0]) if weight is None else weight.float())
    floor = (margins - x.diagonal())[:, None]
    hinge = F.relu(floor + x) + F.relu(floor + x.T)
    if fix_norm:
        diagonal = torch.eye(size, dtype=torch.bool, device=x.device)
        return hinge.masked_fill(diagonal, 0.0).sum() / (2 * size * (size - 1))
    return hinge.mean() / 2
