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
from torch import Tensor, nn

from egovl.models.captioner.configs import MediaAttentionConfig
from egovl.models.captioner.resampler import feed_forward
from egovl.models.layers.cross_attention import CrossAttention, Memory, TanhGate

_ALIKE = -1e30  # drowns every score, so that all keys weigh the same


class MediaKeys(NamedTuple):
    """Keys and values [B, H, T * K, d] of all clips of a prompt, made once for a layer."""

    memory: Memory
    num_clips: int
    rows: Tensor | None = None
    """[R] prompt whose clips each row being written looks at; None: its own."""

    def seen_by(self, rows_R: Tensor) -> MediaKeys:
        """The same clips, nothing copied, for rows that share them."""
        return MediaKeys(self.memory, self.num_clips, rows_R)

    def of_rows(self) -> Memory:
        """All clips of each row."""
        return self.memory if self.rows is None else self.memory.select(self.rows)

    def of_clip(self, clip_R: Tensor) -> Memory:
        """Keys and values [R, H, K, d] of one clip, counted from 1, of each row."""
        rows = self.rows
        if rows is None:
            rows = torch.arange(len(clip_R), device=clip_R.device)
        place = (clip_R - 1).clamp(0, self.num_clips - 1)
        keys, values = (x.unflatten(2, (self.num_clips, -1)) for x in self.memory)
        return Memory(keys[rows, :, place], values[rows, :, place])


class _MediaAttention(nn.Module):
    def __init__(self, width: int, media_width: int, config: MediaAttentionConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.cross = CrossAttention(width, media_width, config.heads, config.head_width, bias=False)

    def make_keys(self, media_BTKM: Tensor) -> MediaKeys:
        return MediaKeys(self.cross.remember(media_BTKM.flatten(1, 2)), media_BTKM.shape[1])

    def forward(self, x_BLD: Tensor, media: MediaKeys, clip_BL: Tensor) -> Tensor:
        normed = self.norm(x_BLD)
        one_word = x_BLD.shape[1] == 1 and not bool((clip_BL > media.num_clips).any())
        if one_word:  # only the latents of its clip are touched
            out = self.cross(normed, media.of_clip(clip_BL[:, 0]))
        else:
            memory = media.of_rows()
            latents = memory.keys.shape[2] // media.num_clips
            mask = _scores_of_clips(clip_BL, media.num_clips, latents).to(normed.dtype)
            out = self.cross(normed, memory, mask=mask)
        return out.masked_fill((clip_BL == 0)[..., None], 0.0)


def _scores_of_clips(clip_BL: Tensor, num_clips: int, num_latents: int) -> Tensor:
    """What is added to the scores of words and latents, [B, 1, L, T * K]."""
    clip = torch.arange(1, num_clips + 1, device=clip_BL.device).repeat_interleave(num_latents)
    scores = torch.zeros(*clip_BL.shape, len(clip), device=clip_BL.device)
    scores = scores.masked_fill(clip_BL[..., None] != clip, -torch.inf)
    # before the first clip too, where a row without any key would be NaN
    alike = (clip_BL > num_clips) | (clip_BL == 0)
    return scores.masked_fill(alike[..., None], _ALIKE)[:, None]


class GatedMediaAttention(nn.Module):
    """x += tanh(gate) * attention; x += tanh(gate) * feed-forward."""

    def __init__(
        self, width: int, media_width: int, config: MediaAttentionConfig, gate_init: float
    ) -> None:
        super().__init__()
        self.attn = _MediaAttention(width, media_width, config)
        self.attn_gate = TanhGate()
        self.feed_forward = feed_forward(width, config.mlp_ratio)
        self.ff_gate = TanhGate()
        for gate in (self.attn_gate, self.ff_gate):
            nn.init.constant_(gate.gate, gate_init)

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
        x_BLD = x_BLD + self.attn_gate(self.attn(x_BLD, media, clip_BL))
        return x_BLD + self.ff_gate(self.feed_forward(x_BLD))
