"""Attention of the grounding model: in time behind depthwise convolutions, and to a text.

Letters: B batch, T places in time, L tokens of a text, C width, H heads.
"""

from __future__ import annotations

from torch import Tensor, nn

from egovl.models.grounder.convolution import TimeConv
from egovl.models.layers.attention import local_attention, masked_attention

NORM_EPS = 1e-5


class _Projections(nn.Module):
    """Query, key, value and output projections."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def _heads_of(self, *projected_BTC: Tensor) -> list[Tensor]:
        return [x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in projected_BTC]

    def _finish(self, out_BHTd: Tensor, mask_BT: Tensor) -> Tensor:
        out = self.dropout(self.proj(out_BHTd.transpose(1, 2).flatten(2)))
        return out * mask_BT[..., None].to(out.dtype)


class ConvAttention(_Projections):
    """Self-attention, local or global, behind depthwise convolutions (GroundNLQ spec 2.2).

    With a stride the convolutions shorten the sequence first.

    Args:
        width: of the sequence.
        heads: contiguous groups of channels.
        stride: places of the input for one of the output.
        window: places that a place sees around itself; 1 or less: all.
        relative_positions: a learned bias for each place of the window.
        dropout: of the output, in training.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        stride: int = 1,
        window: int = -1,
        relative_positions: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(width, heads, dropout)
        self.window = window
        self.stride = stride
        kernel = stride + 1 if stride > 1 else 3
        for name in ("query", "key", "value"):
            conv = TimeConv(width, width, kernel, stride=stride, depthwise=True, bias=False)
            self.add_module(f"{name}_conv", conv)
            self.add_module(f"{name}_norm", nn.LayerNorm(width, eps=NORM_EPS))
        self.relative_bias: nn.Parameter | None = None
        if relative_positions and window > 1:
            self.relative_bias = nn.Parameter(self.query.weight.new_empty(heads, window))
            nn.init.trunc_normal_(self.relative_bias, std=(2.0 / width) ** 0.5)

    def forward(self, x_BTC: Tensor, mask_BT: Tensor) -> Tensor:
        """Return [B, T / stride, C]; masked places are zero."""
        q, k, v = self._heads_of(
            *(
                self.get_submodule(name)(
                    self.get_submodule(f"{name}_norm")(
                        self.get_submodule(f"{name}_conv")(x_BTC, mask_BT)
                    )
                )
                for name in ("query", "key", "value")
            )
        )
        mask_BT = mask_BT[:, :: self.stride]
        if self.window > 1:
            out = local_attention(q, k, v, self.window, mask_BT, self.relative_bias)
        else:
            out = masked_attention(q, k, v, mask_BT)
        return self._finish(out, mask_BT)


class TextAttention(_Projections):
    """Cross-attention of places in time to the tokens of a text, or to any other sequence."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__(width, heads, dropout)

    def forward(
        self, x_BTC: Tensor, mask_BT: Tensor, text_BLC: Tensor, text_mask_BL: Tensor
    ) -> Tensor:
        """Return [B, T, C]; masked places are zero."""
        q, k, v = self._heads_of(self.query(x_BTC), self.key(text_BLC), self.value(text_BLC))
        return self._finish(masked_attention(q, k, v, text_mask_BL), mask_BT)
