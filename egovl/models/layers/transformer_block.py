"""Pre-norm block of CLIP's transformers, text and image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from egovl.models.configs import CLIP_NORM_EPS, Activation
from egovl.models.layers.attention import SelfAttention
from egovl.models.layers.mlp import Mlp


class TransformerBlock(nn.Module):
    """x += attention(norm(x)); x += mlp(norm(x))."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        hidden_width: int | None = None,
        activation: Activation = "quick_gelu",
        norm_eps: float = CLIP_NORM_EPS,
    ) -> None:
        super().__init__()
        self.norm_attn = nn.LayerNorm(width, eps=norm_eps)
        self.attn = SelfAttention(width, heads)
        self.norm_mlp = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = Mlp(width, hidden_width or 4 * width, activation)

    def forward(
        self, x_BLD: Tensor, *, causal: bool = False, last_B: Tensor | None = None
    ) -> Tensor:
        """Return [B, L, D]; or, given one position per text, the rows [B, 1, D] of these alone."""
        normed = self.norm_attn(x_BLD)
        if last_B is None:
            x_BLD = x_BLD + self.attn(normed, causal=causal)
        else:
            rows = last_B.view(-1, 1, 1).expand(-1, 1, x_BLD.shape[-1])
            visible_BL = _positions_up_to(last_B, x_BLD.shape[1]) if causal else None
            x_BLD = x_BLD.gather(1, rows)
            x_BLD = x_BLD + self.attn.forward_at(normed, normed.gather(1, rows), visible_BL)
        return x_BLD + self.mlp(self.norm_mlp(x_BLD))


def _positions_up_to(last_B: Tensor, length: int) -> Tensor:
    return torch.arange(length, device=last_B.device) <= last_B[:, None]
