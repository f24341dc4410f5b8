"""Multi-head attention of the towers; `scaled_dot_product_attention` is the only kernel.

Letters: B batch, S tokens of a sequence, D width, H heads, d width of a head (D = H * d),
T frames, N patches per frame, G groups, L tokens of a group.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from egovl.models.configs import AttentionAxis

# Up to this many queries per group the blocked CPU kernel spends its time on block set-up: groups
# of 4 take it 48 ms against 30 ms, groups of 64 38 ms against 59 ms (with backward, one thread).
SHORT_GROUP = 32

LOCAL_BLOCK = 32  # queries that local attention takes together


class ClipShape(NamedTuple):
    """How the patch tokens behind the CLS token are laid out: frame after frame."""

    frames: int
    patches: int


class FusedAttention(nn.Module):
    """Projections of a sequence attending to itself, queries, keys and values in one product."""

    def __init__(self, width: int, heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)

    def forward_at(self, x_BSD: Tensor, x_B1D: Tensor, visible_BS: Tensor | None) -> Tensor:
        """Attend from one token per sample only.

        Args:
            x_BSD: the sequence, for keys and values.
            x_B1D: the querying token of each sample.
            visible_BS: True where that token may look; None for everywhere.

        Returns:
            [B, 1, D], the row that `forward` would give for that token.
        """
        q_BHd, k_BHSd, v_BHSd = self._one_query(x_BSD, x_B1D)
        mask = None if visible_BS is None else visible_BS[:, None, None]
        out = F.scaled_dot_product_attention(q_BHd, k_BHSd, v_BHSd, attn_mask=mask)
        return self.proj(out.transpose(1, 2).flatten(2))

    def _one_query(self, x_BSD: Tensor, x_B1D: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        width = x_BSD.shape[-1]
        weight, bias = self.qkv.weight, self.qkv.bias
        has_bias = bias is not None  # pyright: ignore[reportUnnecessaryComparison]
        q = F.linear(x_B1D, weight[:width], bias[:width] if has_bias else None)
        kv = F.linear(x_BSD, weight[width:], bias[width:] if has_bias else None)
        k, v = kv.unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return q.unflatten(-1, (self.heads, -1)).transpose(1, 2), k, v


class SelfAttention(FusedAttention):
    """Attention of a whole sequence on itself."""

    def forward(
        self, x_BSD: Tensor, *, causal: bool = False, visible_BS: Tensor | None = None
    ) -> Tensor:
        """Return [B, S, D]; with `causal` a token sees itself and what stands before it.

        Args:
            x_BSD: the sequence.
            causal: not together with `visible_BS`.
            visible_BS: True at tokens that may be looked at; None for all.
        """
        q, k, v = (
            self.qkv(x_BSD).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        )
        mask = None if visible_BS is None else visible_BS[:, None, None]
        out_BHSd = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        return self.proj(out_BHSd.transpose(1, 2).flatten(2))


class DividedAttention(FusedAttention):
    """Attention across `space` or `time` of a clip (Frozen in Time, EgoVLP 2.1, LaViLa 2.1).

    The CLS query attends to every token. A patch query attends to CLS and to the patches of its own
    frame (`space`) or of its own position in all frames (`time`).
    """

    def __init__(self, width: int, heads: int, axis: AttentionAxis) -> None:
        super().__init__(width, heads)
        self.axis: AttentionAxis = axis

    def forward(self, x_BSD: Tensor, *, shape: ClipShape) -> Tensor:
        """Return [B, 1 + T * N, D] for tokens CLS, then patches frame by frame."""
        qkv = self.qkv(x_BSD).unflatten(-1, (3, self.heads, -1))
        return self.proj(divided_attention(qkv, shape, self.axis).flatten(2))


def divided_attention(qkv: Tensor, shape: ClipShape, axis: AttentionAxis) -> Tensor:
    """Attend as `DividedAttention` says, given queries, keys and values [B, 1 + T * N, 3, H, d].

    Every tensor is cut by `split` or `unbind`, never by an index: their backward is one
    concatenation, where that of a slice fills a full-size tensor with zeros.

    Returns:
        [B, 1 + T * N, H, d]
    """
    by_time = axis == "time"
    q_BSHd, kv_BS2Hd = qkv.split([1, 2], dim=2)
    num_patches = shape.frames * shape.patches
    q_cls, q_patch = q_BSHd.squeeze(2).split([1, num_patches], dim=1)
    k_BHSd, v_BHSd = kv_BS2Hd.permute(2, 0, 3, 1, 4).unbind(0)
    cls_BHd = F.scaled_dot_product_attention(q_cls.transpose(1, 2), k_BHSd, v_BHSd)

    kv_cls, kv_patch = kv_BS2Hd.split([1, num_patches], dim=1)
    q_BGLHd, kv_BGL2Hd = q_patch.unflatten(1, shape), kv_patch.unflatten(1, shape)
    if by_time:
        q_BGLHd, kv_BGL2Hd = q_BGLHd.transpose(1, 2), kv_BGL2Hd.transpose(1, 2)
    groups = q_BGLHd.shape[1]
    kv_first = kv_cls.unsqueeze(1).expand(-1, groups, -1, -1, -1, -1)
    kv = torch.cat([kv_first, kv_BGL2Hd], dim=2).flatten(0, 1)
    k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)
    out = _attend_in_groups(q_BGLHd.flatten(0, 1).transpose(1, 2), k, v)
    out = out.transpose(1, 2).unflatten(0, (-1, groups))
    if by_time:
        out = out.transpose(1, 2)
    return torch.cat([cls_BHd.transpose(1, 2), out.flatten(1, 2)], dim=1)


def masked_attention(
    q_BHSd: Tensor, k_BHLd: Tensor, v_BHLd: Tensor, visible_BL: Tensor | None
) -> Tensor:
    """Attend from every query to the keys that are visible.

    Args:
        q_BHSd: queries.
        k_BHLd: keys. Likewise `v_BHLd`.
        visible_BL: True where a key stands, at least once a row; None for everywhere.

    Returns:
        [B, H, S, d]
    """
    mask = None if visible_BL is None else visible_BL[:, None, None]
    return F.scaled_dot_product_attention(q_BHSd, k_BHLd, v_BHLd, attn_mask=mask)


def local_attention(
    q_BHSd: Tensor,
    k_BHSd: Tensor,
    v_BHSd: Tensor,
    window: int,
    visible_BS: Tensor,
    bias_HW: Tensor | None = None,
) -> Tensor:
    """Attend from every token to those at most `window // 2` away.

    Queries are taken in blocks, each against its own keys and those next to it, so memory grows
    with the length and not with its square. A token always sees itself, so that one whose
    neighbours are all hidden has an answer (which its caller masks).

    Args:
        q_BHSd: queries, keys and values of one sequence.
        k_BHSd: keys.
        v_BHSd: values.
        window: odd number of places that a token sees, its own in the middle.
        visible_BS: True where a token stands.
        bias_HW: added to the score of each place of the window; None for nothing.

    Returns:
        [B, H, S, d]
    """
    batch, _, length, _ = q_BHSd.shape
    half, block = window // 2, min(LOCAL_BLOCK, length)
    rest = -length % block
    q = F.pad(q_BHSd, (0, 0, 0, rest)).unflatten(2, (-1, block)).transpose(1, 2).flatten(0, 1)
    k, v = (
        F.pad(x, (0, 0, half, half + rest))
        .unfold(2, block + 2 * half, block)
        .permute(0, 2, 1, 4, 3)
        .flatten(0, 1)
        for x in (k_BHSd, v_BHSd)
    )
    seen = F.pad(visible_BS, (half, half + rest)).unfold(1, block + 2 * half, block).flatten(0, 1)
    place = torch.arange(block + 2 * half, device=q.device)
    offset_LS = place - torch.arange(block, device=q.device)[:, None]
    in_window = (offset_LS >= 0) & (offset_LS < window)
    mask = ((in_window & seen[:, None]) | (offset_LS == half))[:, None]
    if bias_HW is not None:
        bias = bias_HW.to(q.dtype)[:, offset_LS.clamp(0, window - 1)]
        mask = bias.masked_fill(~mask, float("-inf"))
    out = _attend_in_groups(q, k, v, mask).unflatten(0, (batch, -1))
    return out.transpose(1, 2).flatten(2, 3)[:, :, :length]


def _attend_in_groups(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    if q.device.type == "cpu" and q.shape[-2] <= SHORT_GROUP:
        with sdpa_kernel(SDPBackend.MATH):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
