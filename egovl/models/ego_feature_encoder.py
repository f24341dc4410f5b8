"""VideoMAE-style encoder of one-second clips: what features are made with (Egoinstructor spec 2.5).

Letters: B batch, C channels, T frames, H W pixels, N tokens of a clip, D width, P embedding.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egovl.models.layers.mlp import Mlp
from egovl.models.layers.sinusoid import sinusoid_table
from egovl.models.text_transformer import TextTransformer
from egovl.models.view_configs import EgoFeatureEncoderConfig


class _Attention(nn.Module):
    """Self-attention whose keys have no bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x_BND: Tensor) -> Tensor:
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = F.linear(x_BND, self.qkv.weight, bias).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _Block(nn.Module):
    """Pre-norm block with exact GELU."""

    def __init__(self, width: int, heads: int, norm_eps: float) -> None:
        super().__init__()
        self.norm_attn = nn.LayerNorm(width, eps=norm_eps)
        self.attn = _Attention(width, heads)
        self.norm_mlp = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = Mlp(width, 4 * width, "gelu")

    def forward(self, x_BND: Tensor) -> Tensor:
        x_BND = x_BND + self.attn(self.norm_attn(x_BND))
        return x_BND + self.mlp(self.norm_mlp(x_BND))


class VideoMAETransformer(nn.Module):
    """Tubes of pixels to tokens, no class token; positions are a fixed table."""

    def __init__(self, config: EgoFeatureEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.width = config.width
        tube = (config.frames_per_token, config.patch_size, config.patch_size)
        self.patch_embed = nn.Conv3d(3, config.width, kernel_size=tube, stride=tube)
        self.blocks = nn.ModuleList(
            _Block(config.width, config.heads, config.norm_eps) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)

    def positions(self, device: torch.device | None = None) -> Tensor:
        """Return the position table [N, D]."""
        return sinusoid_table(self.config.num_tokens, self.config.width, device)

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        """Return the mean [B, D] of the tokens after the last norm."""
        return self.forward_tokens(video_BCTHW).mean(dim=1)

    def forward_tokens(self, video_BCTHW: Tensor) -> Tensor:
        """Return all tokens after the last norm, [B, N, D], time outermost.

        Raises:
            ValueError: clips of another size.
        """
        config = self.config
        want = (3, config.num_frames, config.image_size, config.image_size)
        if tuple(video_BCTHW.shape[1:]) != want:
            raise ValueError(f"video is {list(video_BCTHW.shape)}, the tower takes [B, *{want}]")
        x_BND = self.patch_embed(video_BCTHW).flatten(2).transpose(1, 2)
        x_BND = x_BND + self.positions(x_BND.device).to(x_BND.dtype)
        for block in self.blocks:
            x_BND = block(x_BND)
        return self.norm(x_BND)


class EgoFeatureEncoder(nn.Module):
    """Video tower, text tower, and their projections."""

    forward_methods = ("encode_video", "encode_text")

    def __init__(self, config: EgoFeatureEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.video = VideoMAETransformer(config)
        self.text = TextTransformer(config.text)
        self.video_projection = nn.Linear(config.width, config.embed_dim, bias=False)
        self.text_projection = nn.Linear(config.text.width, config.embed_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor([math.log(1 / config.temperature_init)]))

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        """Return the features [B, P] of clips."""
        return self.encode_video(video_BCTHW)

    def encode_video(self, video_BCTHW: Tensor) -> Tensor:
        """Return the features [B, P] of clips, not normalised: these are what is stored."""
        return self.video_projection(self.video(video_BCTHW))

    def encode_text(self, tokens_BL: Tensor, token_mask_BL: Tensor | None = None) -> Tensor:
        """Return the embeddings [B, P] of texts, not normalised."""
        return self.text_projection(self.text(tokens_BL, token_mask_BL))

    def example_inputs(self) -> tuple[Tensor]:
        """Return the input of one clip in full size, on the present default device."""
        config = self.config
        return (torch.empty(1, 3, config.num_frames, config.image_size, config.image_size),)
