"""Attention pooler: a few learned queries read many tokens (CoCa's, in LaViLa's narrator).

Letters: B batch, Q queries, D their width, N tokens, C their width, H heads, d width of a head.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class AttentionPooler(nn.Module):
    """Multi-query attention: many heads of queries share one head of keys and values.

    No residual; all projections without bias. LaViLa spec 2.6; parity: family ``attn_pool_``.

    Args:
        width: of the queries and of the output.
        context_width: of the tokens that are read.
        heads: heads of the queries.
        head_width: of each.
        norm_context: whether the tokens are normalised first.
        parallel_mlp: hidden factor of a SwiGLU branch beside the attention; 0: none, as released.
    """

    def __init__(
        self,
        width: int,
        context_width: int,
        heads: int,
        head_width: int = 64,
        *,
        norm_context: bool = True,
        parallel_mlp: int = 0,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, bias=False)
        self.norm_context = nn.LayerNorm(context_width, bias=False) if norm_context else None
        self.q = nn.Linear(width, heads * head_width, bias=False)
        self.kv = nn.Linear(context_width, 2 * head_width, bias=False)
        self.proj = nn.Linear(heads * head_width, width, bias=False)
        self.mlp = GatedMlp(width, parallel_mlp * width) if parallel_mlp else None

    def forward(self, query_BQD: Tensor, context_BNC: Tensor) -> Tensor:
        """Return [B, Q, D]."""
        query_BQD = self.norm(query_BQD)
        context_BNC = context_BNC if self.norm_context is None else self.norm_context(context_BNC)
        q_BHQd = self.q(query_BQD).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k_B1Nd, v_B1Nd = self.kv(context_BNC).unsqueeze(1).chunk(2, dim=-1)
        # heads are more queries of the one shared head: no copy of its keys and values
        out = F.scaled_dot_product_attention(q_BHQd.flatten(1, 2).unsqueeze(1), k_B1Nd, v_B1Nd)
        out = out.unflatten(2, (self.heads, -1)).squeeze(1)
        pooled = self.proj(out.transpose(1, 2).flatten(2))
        return pooled if self.mlp is None else pooled + self.mlp(query_BQD)


class GatedMlp(nn.Module):
    """SwiGLU: silu(gate) * value between two linear layers; value rows stand before gate rows."""

    def __init__(self, width: int, hidden_width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 2 * hidden_width, bias=False)
        self.fc2 = nn.Linear(hidden_width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., width] to [..., width]."""
        value, gate = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(F.silu(gate) * value)
