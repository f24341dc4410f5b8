"""Decoder layers in the style of MosaicGPT: ALiBi, norms of queries and keys, tied head.

Letters: B rows, L words of this call, S words with those cached, D width, H heads, d head width.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egovl.models.captioner.configs import MPTConfig


class KeyValues(NamedTuple):
    """Keys and values [B, H, S, d] of the words so far."""

    keys: Tensor
    values: Tensor

    def select(self, rows_R: Tensor) -> KeyValues:
        """Those of other rows."""
        return KeyValues(self.keys[rows_R], self.values[rows_R])


class BlockNorm(nn.LayerNorm):
    """LayerNorm that under autocast computes in its type, as the decoder was trained."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised input."""
        device = input.device.type
        if device == "meta" or not torch.is_autocast_enabled(device):
            return super().forward(input)
        kind = torch.get_autocast_dtype(device)
        weight, bias = (None if p is None else p.to(kind) for p in (self.weight, self.bias))
        with torch.autocast(device, enabled=False):
            return F.layer_norm(input.to(kind), self.normalized_shape, weight, bias, self.eps)


class _Attention(nn.Module):
    def __init__(self, config: MPTConfig) -> None:
        super().__init__()
        self.config = config
        width, bias = config.width, config.bias
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.q_norm = nn.LayerNorm(width, bias=bias) if config.qk_norm else None
        self.k_norm = nn.LayerNorm(width, bias=bias) if config.qk_norm else None
        self.proj = nn.Linear(width, width, bias=bias)

    def forward(
        self, x_BLD: Tensor, bias_BHLS: Tensor, past: KeyValues | None
    ) -> tuple[Tensor, KeyValues]:
        config = self.config
        qkv = self.qkv(x_BLD)
        if config.clip_qkv is not None:
            qkv = qkv.clamp(-config.clip_qkv, config.clip_qkv)
        q, k, v = qkv.chunk(3, dim=-1)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        q, k, v = (y.unflatten(-1, (config.heads, -1)).transpose(1, 2) for y in (q, k, v))
        if past is not None:
            k, v = torch.cat([past.keys, k], dim=2), torch.cat([past.values, v], dim=2)
        out_BHLd = _attend(
            q,
            k,
            v,
            bias_BHLS,
            config.softmax_scale or q.shape[-1] ** -0.5,
            config.attention_dropout if self.training else 0.0,
        )
        return self.proj(out_BHLd.transpose(1, 2).flatten(2)), KeyValues(k, v)


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float, dropout: float) -> Tensor:
    if q.dtype == bias.dtype:
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=bias, scale=scale, dropout_p=dropout
        )
    # distances need float32: in bfloat16 the bias of far words is rounded to whole steps
    weights = (q @ k.transpose(-1, -2) * scale + bias).softmax(dim=-1)
    return F.dropout(weights, dropout).to(v.dtype) @ v


class MPTBlock(nn.Module):
    """x += attention(norm(x)); x += mlp(norm(x))."""

    def __init__(self, config: MPTConfig) -> None:
        super().__init__()
        norm = BlockNorm if config.low_precision_norm else nn.LayerNorm
        width, hidden, bias = config.width, config.width * config.mlp_ratio, config.bias
        self.norm_attn = norm(width, bias=bias)
        self.attn = _Attention(config)
        self.norm_mlp = norm(width, bias=bias)
        self.mlp_up = nn.Linear(width, hidden, bias=bias)
        self.mlp_down = nn.Linear(hidden, width, bias=bias)
        self.dropout = nn.Dropout(config.residual_dropout)

    def forward(
        self, x_BLD: Tensor, bias_BHLS: Tensor, past: KeyValues | None = None
    ) -> tuple[Tensor, KeyValues]:
        """Return [B, L, D] and the keys and values of all words so far."""
        out, present = self.attn(self.norm_attn(x_BLD), bias_BHLS, past)
        x_BLD = x_BLD + self.dropout(out)
        hidden = F.gelu(self.mlp_up(self.norm_mlp(x_BLD)))
        return x_BLD + self.dropout(self.mlp_down(hidden)), present


def alibi_slopes(heads: int, bias_max: float, device: torch.device | None = None) -> Tensor:
    """``[H]`` slopes 2^-(bias_max h / H); the plain rule for any number of heads."""
    head = torch.arange(1, heads + 1, dtype=torch.float32, device=device)
    return 2.0 ** (-bias_max * head / heads)


def attention_bias(config: MPTConfig, visible_BS: Tensor, length: int) -> Tensor:
    """What is added to attention: distances, the order of words, padding.

    Args:
        config: of the decoder.
        visible_BS: False at padding, over all words so far.
        length: the last so many words are queries.

    Returns:
        [B, H or 1, L, S] float32.
    """
    total = visible_BS.shape[1]
    place = torch.arange(total, device=visible_BS.device)
    query = place[total - length :, None]
    bias = torch.zeros(1, 1, length, total, device=visible_BS.device)
    if config.alibi:
        slopes = alibi_slopes(config.heads, config.alibi_bias_max, visible_BS.device)
        bias = slopes[:, None, None] * (place - query).float()
        bias = bias[None]
    hidden = (place > query) | ~visible_BS[:, None, :]
    # not -inf: a padding word before all others has no visible key, and must not become NaN
    return bias.masked_fill(hidden[:, None], torch.finfo(torch.float32).min)


class MPTEmbedding(nn.Module):
    """Token table, which is also the output head, and positions where there is no ALiBi."""

    def __init__(self, config: MPTConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.width)
        self.positions = None if config.alibi else nn.Embedding(config.context_length, config.width)
        self.dropout = nn.Dropout(config.embedding_dropout)

    def forward(self, tokens_BL: Tensor, visible_BS: Tensor) -> Tensor:
        """Return [B, L, D]; positions count visible words only.

        Raises:
            ValueError: a text longer than the position table.
        """
        x_BLD = self.tokens(tokens_BL)
        if self.positions is not None:
            length, total = tokens_BL.shape[1], visible_BS.shape[1]
            if total > self.config.context_length:
                raise ValueError(
                    f"a text of {total} tokens: the decoder has {self.config.context_length} "
                    "positions; cut the prompt or ask for fewer new tokens"
                )
            place = torch.arange(total, device=tokens_BL.device)
            place = (place - (~visible_BS).cumsum(dim=1)).clamp(min=0)
            x_BLD = x_BLD + self.positions(place[:, total - length :])
        fraction = self.config.embedding_fraction
        if fraction < 1:
            x_BLD = x_BLD * fraction + x_BLD.detach() * (1 - fraction)
        return self.dropout(x_BLD)

    def logits(self, x_BLD: Tensor) -> Tensor:
        """Return [B, L, V]."""
        logits = F.linear(x_BLD, self.tokens.weight)
        scale = self.config.logit_scale
        if scale is None:
            return logits
        return logits * (1 / math.sqrt(self.config.width) if isinstance(scale, str) else scale)


def reset_block(block: MPTBlock, depth: int) -> None:
    """Draw a layer's weights as MosaicGPT does: residual outputs smaller the deeper the stack."""
    for part in block.attn.qkv.weight.chunk(3):
        nn.init.kaiming_normal_(part)
    for linear in (block.attn.proj, block.mlp_up, block.mlp_down):
        nn.init.kaiming_normal_(linear.weight)
    for output in (block.attn.proj, block.mlp_down):
        with torch.no_grad():
            output.weight.div_(math.sqrt(2 * depth))
    for linear in (block.attn.qkv, block.attn.proj, block.mlp_up, block.mlp_down):
        if linear.bias is not None:
            nn.init.zeros_(linear.bias)
