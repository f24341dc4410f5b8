"""Attention of a text to something else, whose keys and values are computed once, and its gate.

Letters: R rows of text, L tokens of a row, D width, C clips (or whatever is looked at), N tokens of
a clip, H heads, d width of a head, S rows of one clip.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Memory(NamedTuple):
    """Keys and values [C, H, N, d] of what is looked at."""

    keys: Tensor
    values: Tensor

    def select(self, clips: Tensor) -> Memory:
        """Of these clips only."""
        return Memory(self.keys[clips], self.values[clips])


class RowsOfClips:
    """Which clip each row of text looks at; many rows may share one, which is stored once."""

    def __init__(self, clip_R: Tensor, num_clips: int) -> None:
        self.clip_R = clip_R
        self.num_clips = num_clips
        count_C = torch.bincount(clip_R, minlength=num_clips)
        order = clip_R.argsort(stable=True)
        first_C = count_C.cumsum(0) - count_C
        place = torch.arange(len(clip_R), device=clip_R.device)
        self._slot_R = torch.empty_like(clip_R)
        self._slot_R[order] = place - first_C[clip_R[order]]
        self._slots = int(count_C.max()) if len(clip_R) else 0
        self._even = bool((clip_R * self._slots + self._slot_R == place).all()) and (
            len(clip_R) == num_clips * self._slots
        )

    def gather(self, rows_RHLd: Tensor) -> Tensor:
        """Rows of each clip side by side [C, H, S * L, d]; a clip with fewer has zeros."""
        if self._even:
            table = rows_RHLd.unflatten(0, (self.num_clips, self._slots))
        else:
            shape = (self.num_clips, self._slots, *rows_RHLd.shape[1:])
            table = rows_RHLd.new_zeros(shape)
            table[self.clip_R, self._slot_R] = rows_RHLd
        return table.transpose(1, 2).flatten(2, 3)

    def scatter(self, clips_CHSd: Tensor, length: int) -> Tensor:
        """The inverse of `gather`: [R, H, L, d]."""
        table = clips_CHSd.unflatten(2, (self._slots, length)).transpose(1, 2)
        return table.flatten(0, 1) if self._even else table[self.clip_R, self._slot_R]


class CrossAttention(nn.Module):
    """Multi-head attention with queries from one sequence, keys and values from another.

    Args:
        width: of the queries' sequence.
        context_width: of the other.
        heads: number of heads.
        head_width: of each; `width // heads` if None.
        bias: of all three projections.
        dropout: of the attention weights, in training.
    """

    def __init__(
        self,
        width: int,
        context_width: int,
        heads: int,
        head_width: int | None = None,
        *,
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        inner = heads * (head_width or width // heads)
        self.heads = heads
        self.dropout = dropout
        self.q = nn.Linear(width, inner, bias=bias)
        self.kv = nn.Linear(context_width, 2 * inner, bias=bias)
        self.proj = nn.Linear(inner, width, bias=bias)

    def remember(self, context_CND: Tensor) -> Memory:
        """Keys and values, to be computed once however many tokens will look at them."""
        kv = self.kv(context_CND).unflatten(-1, (2, self.heads, -1))
        return Memory(*kv.permute(2, 0, 3, 1, 4).unbind(0))

    def forward(
        self,
        x_RLD: Tensor,
        memory: Memory,
        rows: RowsOfClips | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return [R, L, D].

        Args:
            x_RLD: the querying tokens.
            memory: of the clips.
            rows: which clip each row looks at; None where row i looks at clip i.
            mask: [R, 1, L, N], True where a token may look, or added to its scores; None for all.
                Not with `rows`.
        """
        assert mask is None or rows is None, "a mask goes with one clip a row"
        q_RHLd = self.q(x_RLD).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        q = q_RHLd if rows is None else rows.gather(q_RHLd)
        dropout = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(
            q, memory.keys, memory.values, attn_mask=mask, dropout_p=dropout
        )
        if rows is not None:
            out = rows.scatter(out, x_RLD.shape[1])
        return self.proj(out.transpose(1, 2).flatten(2))


class TanhGate(nn.Module):
    """Scale a branch by tanh of a learned number that starts at 0 (Flamingo)."""

    def __init__(self) -> None:
        super().__init__()
        # one element, as FSDP2 cannot shard a scalar
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, branch: Tensor) -> Tensor:
        """Return the branch, any shape, scaled."""
        return branch * self.gate.tanh()
