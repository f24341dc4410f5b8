"""The fixed position table of sines and cosines."""

from __future__ import annotations

import torch
from torch import Tensor


def sinusoid_table(length: int, width: int, device: torch.device | None = None) -> Tensor:
    """``[length, width]``: at position t even column 2i is sin(t / 10000^(2i/width)), odd cos."""
    # in float64, as the angles of late positions lose digits in float32
    position = torch.arange(length, dtype=torch.float64, device=device)[:, None]
    column = torch.arange(width, dtype=torch.float64, device=device)
    angle = position / 10000 ** (2 * (column // 2) / width)
    return torch.where(column % 2 == 0, angle.sin(), angle.cos()).float()
