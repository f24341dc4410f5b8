"""Divided space-time transformer: the video tower of EgoVLP, LaViLa and HierVL.

Letters: B batch, C channels, T frames, H W pixels, N patches per frame, S = 1 + T * N tokens,
D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from egovl.models.configs import CLIP_NORM_EPS, VideoTowerConfig
from egovl.models.layers.attention import ClipShape
from egovl.models.layers.patch_embed import PatchEmbed
from egovl.models.layers.space_time_block import SpaceTimeBlock


class SpaceTimeTransformer(nn.Module):
    """Clip to CLS feature, or to all tokens."""

    def __init__(self, config: VideoTowerConfig) -> None:
        super().__init__()
        self.config = config
        self.width = config.width
        width = config.width
        self.patch_embed = PatchEmbed(config.patch_size, width, config.patch_bias)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + config.patches_per_frame, width))
        self.temporal_embed = nn.Parameter(torch.zeros(1, config.num_frames, width))
        self.norm_pre = nn.LayerNorm(width, eps=CLIP_NORM_EPS) if config.ln_pre else nn.Identity()
        last = max(config.depth - 1, 1)
        self.blocks = nn.ModuleList(
            SpaceTimeBlock(config, config.drop_path * i / last) for i in range(config.depth)
        )
        self.norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the published initial values; linear layers keep torch's own.

        A tower of one frame has nothing to inflate: all its linear layers, temporal ones too, start
        as an image transformer's (LaViLa spec 2.1, EgoVLP spec 2.1).
        """
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=self.config.position_std)
        if self.config.temporal_std:
            nn.init.normal_(self.temporal_embed, std=self.config.temporal_std)
        if self.config.num_frames == 1:
            for linear in [m for m in self.modules() if isinstance(m, nn.Linear)]:
                nn.init.trunc_normal_(linear.weight, std=0.02)
                if linear.bias is not None:
                    nn.init.zeros_(linear.bias)
            return
        if self.config.time_init == "rand":
            return
        for block in self.blocks:
            assert isinstance(block, SpaceTimeBlock)
            time = block.attn_time
            # published so; parity family `vit_init`
            nn.init.ones_(time.proj.weight)
            for zero in (time.proj.bias, time.qkv.weight, time.qkv.bias):
                nn.init.zeros_(zero)

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        """Return the normalised CLS feature [B, D].

        Args:
            video_BCTHW: normalised pixels, at most `num_frames` frames of `image_size` squared.

        Raises:
            ValueError: the clip does not fit the tower's position tables.
        """
        x_BSD, shape = self._embed(video_BCTHW)
        for block in self.blocks[:-1]:
            x_BSD = self._run(block, x_BSD, shape, False)
        return self.norm(self._run(self.blocks[-1], x_BSD, shape, True).squeeze(1))

    def forward_tokens(self, video_BCTHW: Tensor) -> Tensor:
        """Return all normalised tokens [B, 1 + T * N, D], CLS first, then frame by frame."""
        x_BSD, shape = self._embed(video_BCTHW)
        for block in self.blocks:
            x_BSD = self._run(block, x_BSD, shape, False)
        return self.norm(x_BSD)

    def _embed(self, video_BCTHW: Tensor) -> tuple[Tensor, ClipShape]:
        shape = self._clip_shape(video_BCTHW)
        patches = self.patch_embed(video_BCTHW)
        pos_cls, pos_patch = self.pos_embed.split([1, shape.patches], dim=1)
        time = self.temporal_embed[:, : shape.frames]
        table = (pos_patch.unsqueeze(1) + time.unsqueeze(2)).flatten(1, 2)
        cls = (self.cls_token + pos_cls).expand(len(patches), -1, -1)
        return self.norm_pre(torch.cat([cls, patches + table], dim=1)), shape

    def _clip_shape(self, video_BCTHW: Tensor) -> ClipShape:
        config = self.config
        size = config.image_size
        channels, frames, height, width = video_BCTHW.shape[1:]
        if channels != 3 or (height, width) != (size, size) or not 1 <= frames <= config.num_frames:
            raise ValueError(
                f"video [B, C, T, H, W] = {list(video_BCTHW.shape)} does not fit this tower: "
                f"it takes 3 channels, 1 to {config.num_frames} frames and {size} x {size} pixels"
            )
        return ClipShape(frames, config.patches_per_frame)

    def _run(self, block: nn.Module, x_BSD: Tensor, shape: ClipShape, cls_only: bool) -> Tensor:
        if self.config.gradient_checkpointing and self.training:
            out = checkpoint(block, x_BSD, shape, cls_only, use_reentrant=False)
            assert isinstance(out, Tensor)
            return out
        return block(x_BSD, shape, cls_only)
