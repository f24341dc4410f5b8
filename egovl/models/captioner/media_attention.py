"""Gated cross-attention from words to the latents of their clip (Egoinstructor spec 2.1).

A word sees the latents of the last clip whose mark stands before it or is the word itself. A word
before the first mark gets nothing. Behind more marks than there are clips it gets the plain mean
over all latents of all clips: the published mask gives every key the same value there.

Letters: B rows, L words, T clips, K latents of a clip, D width, M width of latents, H heads, d
width of a head, R rows that are being written.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egovl.models.captioner.configs import MediaAttentionConfig
from egovl.models.captioner.resampler import feed_forward


class MediaKeys(NamedTuple):
    """Keys and values [B, H, T, K, d] of all clips, made once for a layer."""

    keys: Tensor
    values: Tensor
    rows: Tensor | None = None
    """[R] row of the clips that each row being written looks at; None: its own."""

    def seen_by(self, rows_R: Tensor) -> MediaKeys:
        """The same clips, nothing copied, for rows that share them."""
        return MediaKeys(self.keys, self.values, rows_R)


class _MediaAttention(nn.Module):
    def __init__(self, width: int, media_width: int, config: MediaAttentionConfig) -> None:
        super().__init__()
        inner = config.heads * config.head_width
        self.heads = config.heads
        self.norm = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(media_width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)

    def make_keys(self, media_BTKM: Tensor) -> MediaKeys:
        kv = self.to_kv(media_BTKM).unflatten(-1, (2, self.heads, -1))
        return MediaKeys(*kv.permute(3, 0, 4, 1, 2, 5).unbind(0))

    def forward(self, x_BLD: Tensor, media: MediaKeys, clip_BL: Tensor) -> Tensor:
        q_BHLd = self.to_q(self.norm(x_BLD)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        out = _attend_one if x_BLD.shape[1] == 1 else _attend
        out_BHLd = out(q_BHLd, media, clip_BL)
        out_BLI = out_BHLd.transpose(1, 2).flatten(2)
        return self.to_out(out_BLI.masked_fill((clip_BL == 0)[..., None], 0.0))


def _attend(q_BHLd: Tensor, media: MediaKeys, clip_BL: Tensor) -> Tensor:
    num_clips, num_latents = media.keys.shape[2:4]
    keys, values = media.keys, media.values
    if media.rows is not None:
        keys, values = keys[media.rows], values[media.rows]
    beyond_BL = clip_BL > num_clips
    # a query of zeros weighs all keys alike
    q_BHLd = q_BHLd.masked_fill(beyond_BL[:, None, :, None], 0.0)
    clip = torch.arange(1, num_clips + 1, device=clip_BL.device).repeat_interleave(num_latents)
    everywhere_BL = beyond_BL | (clip_BL == 0)  # a row without a key would be NaN
    mask = (clip_BL[..., None] == clip) | everywhere_BL[..., None]
    k, v = keys.flatten(2, 3), values.flatten(2, 3)
    return F.scaled_dot_product_attention(q_BHLd, k, v, attn_mask=mask[:, None])


def _attend_one(q_BH1d: Tensor, media: MediaKeys, clip_B1: Tensor) -> Tensor:
    """One word a row: only the latents of its clip are touched."""
    num_clips = media.keys.shape[2]
    rows = media.rows
    if rows is None:
        rows = torch.arange(len(clip_B1), device=clip_B1.device)
    place = (clip_B1[:, 0] - 1).clamp(0, num_clips - 1)
    k, v = media.keys[rows, :, place], media.values[rows, :, place]
    out = F.scaled_dot_product_attention(q_BH1d, k, v)
    beyond = clip_B1[:, 0] > num_clips
    if not beyond.any():
        return out
    mean = media.values.mean(dim=(2, 3))[rows].unsqueeze(2)
    return torch.where(beyond[:, None, None, None], mean, out)


class GatedMediaAttention(nn.Module):
    """x += tanh(gate) * attention; x += tanh(gate) * feed-forward."""

    def __init__(
        self, width: int, media_width: int, config: MediaAttentionConfig, gate_init: float
    ) -> None:
        super().__init__()
        self.attn = _MediaAttention(width, media_width, config)
        self.attn_gate = nn.Parameter(torch.full((1,), gate_init))
        self.feed_forward = feed_forward(width, config.mlp_ratio)
        self.ff_gate = nn.Parameter(torch.full((1,), gate_init))

    def make_keys(self, media_BTKM: Tensor) -> MediaKeys:
        """Keys and values of the clips, for this layer."""
        return self.attn.make_keys(media_BTKM)

    def forward(self, x_BLD: Tensor, media: MediaKeys, clip_BL: Tensor) -> Tensor:
        """Return [B, L, D].

        Args:
            x_BLD: the words.
            media: from `make_keys`.
            clip_BL: number of media marks up to each word, itself included.
        """
        x_BLD = x_BLD + self.attn(x_BLD, media, clip_BL) * self.attn_gate.tanh()
        return x_BLD + self.feed_forward(x_BLD) * self.ff_gate.tanh()
