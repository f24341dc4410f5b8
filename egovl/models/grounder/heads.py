"""Heads that score every point of every level and tell how far its span reaches (spec 2.4, 2.5).

Letters: B batch, T points of a level, C width, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egovl.models.grounder.attention import NORM_EPS
from egovl.models.grounder.configs import GrounderConfig
from egovl.models.grounder.convolution import TimeConv

EMPTY_CLASS_SCORE = 1e-6


class _Trunk(nn.Module):
    """Convolutions of a head, shared by all levels."""

    def __init__(self, config: GrounderConfig, out_width: int) -> None:
        super().__init__()
        widths = [config.neck_dim, *[config.head_dim] * (config.head_layers - 1)]
        kernel, with_norm = config.head_kernel, config.head_norm
        self.trunk = nn.ModuleList(
            TimeConv(before, config.head_dim, kernel, bias=not with_norm) for before in widths[:-1]
        )
        self.norms = nn.ModuleList(
            nn.LayerNorm(config.head_dim, eps=NORM_EPS) if with_norm else nn.Identity()
            for _ in widths[:-1]
        )
        self.out = TimeConv(widths[-1], out_width, kernel)
        self.leaks_padding = config.legacy_video_padding

    def _read(self, x_BTC: Tensor, mask_BT: Tensor) -> Tensor:
        for conv, norm in zip(self.trunk, self.norms, strict=True):
            x_BTC = F.relu(norm(conv(self._seen(x_BTC, mask_BT), mask_BT)))
        return self.out(self._seen(x_BTC, mask_BT), mask_BT)

    def _seen(self, x_BTC: Tensor, mask_BT: Tensor) -> Tensor:
        return x_BTC if self.leaks_padding else x_BTC * mask_BT[..., None].to(x_BTC.dtype)


class ClassificationHead(_Trunk):
    """Logits [B, T, K] of a level."""

    def __init__(self, config: GrounderConfig) -> None:
        super().__init__(config, config.num_classes)
        self.config = config
        self.reset_bias()

    def reset_bias(self) -> None:
        """Start with the prior score, and near 0 for classes without examples."""
        bias, prior = self.out.bias, self.config.class_prior
        assert bias is not None
        with torch.no_grad():
            if prior > 0:
                bias.fill_(-math.log((1 - prior) / prior))
            for number in self.config.empty_classes:
                bias[number] = -math.log((1 - EMPTY_CLASS_SCORE) / EMPTY_CLASS_SCORE)

    def forward(self, x_BTC: Tensor, mask_BT: Tensor) -> Tensor:
        """Return logits; 0 at masked points."""
        return self._read(x_BTC, mask_BT)


class RegressionHead(_Trunk):
    """Distances [B, T, 2] from a point to both ends of its span, in strides of the level."""

    def __init__(self, config: GrounderConfig, num_levels: int) -> None:
        super().__init__(config, 2)
        # one element each, as FSDP2 cannot shard a scalar
        self.scales = nn.ParameterList(torch.ones(1) for _ in range(num_levels))

    def forward(self, x_BTC: Tensor, mask_BT: Tensor, level: int) -> Tensor:
        """Return distances, 0 or more; 0 at masked points."""
        return F.relu(self.scales[level] * self._read(x_BTC, mask_BT))


def points_of(
    lengths: Sequence[int],
    strides: Sequence[int],
    ranges: Sequence[Sequence[float]],
    device: torch.device | None = None,
) -> list[Tensor]:
    """Points [T, 4] of each level: time, range of distances it answers for, stride.

    Times are in feature steps; the first point of every level stands at 0 (GroundNLQ spec 2.5).
    """
    points = []
    for length, stride, (low, high) in zip(lengths, strides, ranges, strict=True):
        time = torch.arange(length, dtype=torch.float32, device=device) * stride
        facts = time.new_tensor([low, high, stride]).expand(length, 3)
        points.append(torch.cat([time[:, None], facts], dim=1))
    return points
