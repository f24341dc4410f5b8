"""Cosine similarity of two sets of embeddings."""

from __future__ import annotations

import torch
from torch import Tensor

NORM_FLOOR = 1e-8


def wide(x: Tensor) -> Tensor:
    """``x`` in float32, or in its own type if that is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def cosine_matrix(a: Tensor, b: Tensor) -> Tensor:
    """Cosines ``[M, N]`` of the rows of ``a`` ``[M, D]`` and ``b`` ``[N, D]``, in `wide` floats.

    A norm counts as at least 1e-8, so a zero row has similarity 0 with everything. EgoVLP spec
    section 2.3 (sim_matrix), LaViLa spec section 4 (max-margin).
    """
    with torch.autocast(a.device.type, enabled=False):
        a, b = wide(a), wide(b)
        a = a / a.norm(dim=1, keepdim=True).clamp(min=NORM_FLOOR)
        b = b / b.norm(dim=1, keepdim=True).clamp(min=NORM_FLOOR)
        return a @ b.T
