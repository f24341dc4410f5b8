"""Transformer block of stem, branch and text (GroundNLQ spec 2.2), and the residual convolution.

Letters: B batch, T places in time, L tokens of a text, C width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egovl.models.grounder.attention import NORM_EPS, ConvAttention, TextAttention
from egovl.models.grounder.convolution import TimeConv, pool_over_time
from egovl.models.layers.drop_path import DropPath
from egovl.models.layers.mlp import Mlp

SCALE_INIT = 1e-4
MLP_RATIO = 4


class ScaledDropPath(nn.Module):
    """A residual branch times a learned scale for each channel, dropped for whole samples."""

    def __init__(self, width: int, rate: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((width,), SCALE_INIT))
        self.drop = DropPath(rate)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Return [B, T, C]."""
        return self.drop(self.scale * x_BTC)


def drop_path_of(width: int, rate: float) -> nn.Module:
    """The branch's scale and dropping; with rate 0 nothing, without parameters, as published."""
    return ScaledDropPath(width, rate) if rate > 0 else nn.Identity()


class GroundingBlock(nn.Module):
    """Self-attention, optional look at the text, perceptron; may shorten the sequence.

    Video and text share one norm before cross-attention, and both attentions one residual scale:
    published, and baked into released weights.

    Args:
        width: of the sequence.
        heads: of both attentions.
        window: see `ConvAttention`.
        stride: places of the input for one of the output.
        cross_modal: whether it looks at a text.
        relative_positions: see `ConvAttention`.
        dropout: of attention outputs and perceptron.
        drop_path: rate of dropping a residual branch.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        window: int = -1,
        stride: int = 1,
        cross_modal: bool = False,
        relative_positions: bool = False,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.norm_attn = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = ConvAttention(
            width,
            heads,
            stride=stride,
            window=window,
            relative_positions=relative_positions,
            dropout=dropout,
        )
        self.norm_cross = nn.LayerNorm(width, eps=NORM_EPS) if cross_modal else None
        self.cross_attn = TextAttention(width, heads, dropout) if cross_modal else None
        self.norm_mlp = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = Mlp(width, MLP_RATIO * width, "gelu", dropout)
        self.drop_path_attn = drop_path_of(width, drop_path)
        self.drop_path_mlp = drop_path_of(width, drop_path)

    def forward(
        self,
        x_BTC: Tensor,
        mask_BT: Tensor,
        text: tuple[Tensor, Tensor] | None = None,
        *,
        leaks_padding: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Return [B, T / stride, C] and its mask.

        Args:
            x_BTC: the sequence.
            mask_BT: True where a place stands.
            text: tokens [B, L, C] and their mask [B, L], for a block that looks at a text.
            leaks_padding: convolutions see what the norm makes of padding, as published; off, they
                see zeros there, as outside of the sequence.

        Raises:
            ValueError: the stride does not divide the length.
        """
        mask_out = mask_BT[:, :: self.stride]
        kept = mask_out[..., None].to(x_BTC.dtype)
        normed = self.norm_attn(x_BTC)
        if not leaks_padding:
            normed = normed * mask_BT[..., None].to(normed.dtype)
        attended = self.attn(normed, mask_BT)
        x = self._shorten(x_BTC, mask_BT, leaks_padding) * kept + self.drop_path_attn(attended)
        if self.cross_attn is not None and self.norm_cross is not None:
            if text is None:
                raise ValueError("this block looks at a text; none was given")
            tokens, token_mask = self.norm_cross(text[0]), text[1]
            looked = self.cross_attn(self.norm_cross(x), mask_out, tokens, token_mask)
            x = x * kept + self.drop_path_attn(looked)
        return x + self.drop_path_mlp(self.mlp(self.norm_mlp(x)) * kept), mask_out

    def _shorten(self, x_BTC: Tensor, mask_BT: Tensor, leaks_padding: bool) -> Tensor:
        if self.stride == 1:
            return x_BTC
        if leaks_padding:
            return pool_over_time(x_BTC, self.stride)
        lowest = torch.finfo(x_BTC.dtype).min
        hidden = x_BTC.masked_fill(~mask_BT[..., None], lowest)
        return pool_over_time(hidden, self.stride)


class ConvBlock(nn.Module):
    """Two convolutions with a residual, wide in the middle; the branch without attention."""

    def __init__(self, width: int, *, kernel: int = 3, stride: int = 1, expansion: int = 2) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = TimeConv(width, width * expansion, kernel, stride=stride)
        self.conv2 = TimeConv(width * expansion, width, kernel)
        self.downsample = TimeConv(width, width, 1, stride=stride) if stride > 1 else None

    def forward(self, x_BTC: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Return [B, T / stride, C] and its mask."""
        mask_out = mask_BT[:, :: self.stride]
        hidden = F.relu(self.conv1(x_BTC, mask_BT))
        out = self.conv2(hidden, mask_out)
        same = x_BTC if self.downsample is None else self.downsample(x_BTC, mask_BT)
        return F.relu(out + same), mask_out
