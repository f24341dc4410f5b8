"""Frames to patch tokens: CLIP's image transformer without its last norm.

Letters: F frames, C channels, H W pixels, N patches of a frame, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from egovl.models.captioner.configs import FrameEncoderConfig
from egovl.models.layers.patch_embed import PatchEmbed
from egovl.models.layers.transformer_block import TransformerBlock


class FrameEncoder(nn.Module):
    """Patch tokens of single frames; the class token is dropped."""

    def __init__(self, config: FrameEncoderConfig) -> None:
        super().__init__()
        self.config = config
        width, eps = config.width, config.norm_eps
        self.patch_embed = PatchEmbed(config.patch_size, width, bias=False)
        self.cls_token = nn.Parameter(torch.randn(width) * width**-0.5)
        self.pos_embed = nn.Parameter(torch.randn(1 + config.patches_per_frame, width) * 0.02)
        self.norm_pre = nn.LayerNorm(width, eps=eps)
        self.blocks = nn.ModuleList(
            TransformerBlock(
                width,
                config.heads,
                hidden_width=config.hidden_width,
                activation=config.activation,
                norm_eps=eps,
            )
            for _ in range(config.depth)
        )
        # in every released file, and not used
        self.norm_post = nn.LayerNorm(width, eps=eps)
        self.norm_post.requires_grad_(False)

    def forward(self, frames_FCHW: Tensor) -> Tensor:
        """Return patch tokens [F, N, D].

        Raises:
            ValueError: frames of another size.
        """
        size = self.config.image_size
        if tuple(frames_FCHW.shape[1:]) != (3, size, size):
            raise ValueError(
                f"frames are {list(frames_FCHW.shape)}, the encoder takes [F, 3, {size}, {size}]"
            )
        patches_FND = self.patch_embed(frames_FCHW.unsqueeze(2))
        cls = self.cls_token.expand(len(patches_FND), 1, -1)
        x_FSD = self.norm_pre(torch.cat([cls, patches_FND], dim=1) + self.pos_embed)
        for block in self.blocks:
            x_FSD = block(x_FSD)
        return x_FSD[:, 1:]
