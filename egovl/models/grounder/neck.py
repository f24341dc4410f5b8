"""From the backbone's levels to those of the heads (GroundNLQ spec 2.3).

Letters: B batch, T places in time of a level, C D widths.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from egovl.models.grounder.attention import NORM_EPS
from egovl.models.grounder.convolution import TimeConv

Levels = list[tuple[Tensor, Tensor]]
"""Features [B, T, C] and mask [B, T] of each level, the longest first."""


def _norm(width: int, with_norm: bool) -> nn.Module:
    return nn.LayerNorm(width, eps=NORM_EPS) if with_norm else nn.Identity()


class IdentityNeck(nn.Module):
    """A norm for each level."""

    def __init__(self, num_levels: int, width: int, with_norm: bool = True) -> None:
        super().__init__()
        self.norms = nn.ModuleList(_norm(width, with_norm) for _ in range(num_levels))

    def forward(self, levels: Levels) -> Levels:
        """Return as many levels."""
        return [(norm(x), mask) for norm, (x, mask) in zip(self.norms, levels, strict=True)]


class PyramidNeck(nn.Module):
    """Levels enriched from the coarser ones: project, add the repeated coarser level, smooth.

    Args:
        widths: of each level.
        out_width: of each level after.
        scale_factor: places of a level for one of the next.
        with_norm: a norm at the end; without, the convolutions have a bias.
    """

    def __init__(
        self, widths: Sequence[int], out_width: int, scale_factor: int, with_norm: bool = True
    ) -> None:
        super().__init__()
        self.scale_factor = scale_factor
        bias = not with_norm
        self.lateral = nn.ModuleList(TimeConv(w, out_width, 1, bias=bias) for w in widths)
        self.smooth = nn.ModuleList(
            TimeConv(out_width, out_width, 3, depthwise=True, bias=bias) for _ in widths
        )
        self.norms = nn.ModuleList(_norm(out_width, with_norm) for _ in widths)

    def forward(self, levels: Levels) -> Levels:
        """Return as many levels."""
        sums = [conv(x, mask) for conv, (x, mask) in zip(self.lateral, levels, strict=True)]
        for level in range(len(sums) - 1, 0, -1):
            finer = sums[level].repeat_interleave(self.scale_factor, dim=1)
            sums[level - 1] = sums[level - 1] + finer
        return [
            (norm(conv(x, mask)), mask)
            for norm, conv, x, (_, mask) in zip(self.norms, self.smooth, sums, levels, strict=True)
        ]
