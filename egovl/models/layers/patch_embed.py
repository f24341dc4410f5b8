"""Frames to patch tokens."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """A convolution whose stride is its kernel, computed as one matrix product over cut patches."""

    def __init__(self, patch_size: int, width: int, bias: bool) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.weight = nn.Parameter(torch.empty(width, 3, patch_size, patch_size))
        self.bias = nn.Parameter(torch.empty(width)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights as torch's convolution does."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(3 * self.patch_size**2)
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        """Return tokens [B, T * N, D], frame by frame, each frame row by row."""
        p = self.patch_size
        patches = video_BCTHW.unflatten(4, (-1, p)).unflatten(3, (-1, p))
        patches = patches.permute(0, 2, 3, 5, 1, 4, 6).flatten(1, 3).flatten(2)
        return F.linear(patches, self.weight.flatten(1), self.bias)
