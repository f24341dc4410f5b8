"""Perceiver resampler: all patch tokens of a clip to a fixed number of latents.

Letters: B clips, F frames, N patches of a frame, S = F * N tokens, K latents, D width, H heads,
d width of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egovl.models.captioner.configs import ResamplerConfig


def feed_forward(width: int, mlp_ratio: int) -> nn.Sequential:
    """Norm, linear, exact GELU, linear; the linear layers without bias."""
    hidden = width * mlp_ratio
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, hidden, bias=False),
        nn.GELU(),
        nn.Linear(hidden, width, bias=False),
    )


class _ResamplerBlock(nn.Module):
    """Latents look at the clip's tokens and at each other."""

    def __init__(self, width: int, config: ResamplerConfig) -> None:
        super().__init__()
        inner = config.heads * config.head_width
        self.heads = config.heads
        self.norm_media = nn.LayerNorm(width)
        self.norm_latents = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)
        self.feed_forward = feed_forward(width, config.mlp_ratio)

    def forward(self, tokens_BSD: Tensor, latents_BKD: Tensor) -> Tensor:
        tokens, latents = self.norm_media(tokens_BSD), self.norm_latents(latents_BKD)
        q = self.to_q(latents).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        kv = self.to_kv(torch.cat([tokens, latents], dim=1))
        k, v = kv.unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        out_BHKd = F.scaled_dot_product_attention(q, k, v)
        latents_BKD = latents_BKD + self.to_out(out_BHKd.transpose(1, 2).flatten(2))
        return latents_BKD + self.feed_forward(latents_BKD)


class Resampler(nn.Module):
    """A clip's patch tokens to latents; clips never mix."""

    def __init__(self, width: int, config: ResamplerConfig) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(config.num_latents, width))
        self.frame_embed = (
            None
            if config.max_frames is None
            else nn.Parameter(torch.randn(config.max_frames, width))
        )
        self.blocks = nn.ModuleList(_ResamplerBlock(width, config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens_BFND: Tensor) -> Tensor:
        """Return latents [B, K, D].

        Raises:
            ValueError: more frames than the table of frame embeddings has rows.
        """
        frames = tokens_BFND.shape[1]
        if self.frame_embed is not None:
            if frames > len(self.frame_embed):
                raise ValueError(
                    f"clips of {frames} frames: the resampler marks at most "
                    f"{len(self.frame_embed)}; read fewer (loader.num_frames)"
                )
            tokens_BFND = tokens_BFND + self.frame_embed[:frames, None]
        tokens_BSD = tokens_BFND.flatten(1, 2)
        latents_BKD = self.latents.expand(len(tokens_BSD), -1, -1).to(tokens_BSD.dtype)
        for block in self.blocks:
            latents_BKD = block(tokens_BSD, latents_BKD)
        return self.norm(latents_BKD)
