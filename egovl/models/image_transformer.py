"""CLIP's image transformer applied to each frame: LaViLa's video tower without time.

Letters: B batch, C channels, T frames, H W pixels, N patches per frame, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from egovl.models.configs import CLIP_NORM_EPS, ImageTowerConfig
from egovl.models.layers.patch_embed import PatchEmbed
from egovl.models.layers.transformer_block import TransformerBlock


class ImageTransformer(nn.Module):
    """Clip to the mean of its frames' CLS features, which says nothing of their order.

    LaViLa takes the mean behind the projection (its spec, 2.4); projections of the video side are
    affine, so the mean before them is the same.
    """

    def __init__(self, config: ImageTowerConfig) -> None:
        super().__init__()
        self.config = config
        self.width = width = config.width
        self.patch_embed = PatchEmbed(config.patch_size, width, bias=False)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + config.patches_per_frame, width))
        self.norm_pre = nn.LayerNorm(width, eps=CLIP_NORM_EPS)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, config.heads) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(width, eps=CLIP_NORM_EPS)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the embeddings as CLIP does; linear layers keep torch's own."""
        nn.init.normal_(self.cls_token, std=self.width**-0.5)
        nn.init.normal_(self.pos_embed, std=self.width**-0.5)

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        """Return the mean [B, D] of the frames' normalised CLS features.

        Raises:
            ValueError: frames of another size than the position table has.
        """
        frames = video_BCTHW.shape[2]
        x_FSD = self._embed(video_BCTHW)
        for block in self.blocks[:-1]:
            x_FSD = self._run(block, x_FSD, None)
        first = torch.zeros(len(x_FSD), dtype=torch.int64, device=x_FSD.device)
        cls_FD = self.norm(self._run(self.blocks[-1], x_FSD, first).squeeze(1))
        return cls_FD.unflatten(0, (-1, frames)).mean(dim=1)

    def forward_tokens(self, video_BCTHW: Tensor) -> Tensor:
        """Return patch tokens [B, T * N, D] frame by frame, without CLS and the last norm.

        So LaViLa's narrators read this tower (its spec, 2.6).
        """
        frames = video_BCTHW.shape[2]
        x_FSD = self._embed(video_BCTHW)
        for block in self.blocks:
            x_FSD = self._run(block, x_FSD, None)
        return x_FSD[:, 1:].unflatten(0, (-1, frames)).flatten(1, 2)

    def _embed(self, video_BCTHW: Tensor) -> Tensor:
        config = self.config
        size = config.image_size
        channels, frames, height, width = video_BCTHW.shape[1:]
        if channels != 3 or (height, width) != (size, size):
            raise ValueError(
                f"video [B, C, T, H, W] = {list(video_BCTHW.shape)} does not fit this tower: "
                f"it takes 3 channels and {size} x {size} pixels"
            )
        patches_FND = self.patch_embed(video_BCTHW).unflatten(1, (frames, -1)).flatten(0, 1)
        cls = self.cls_token.expand(len(patches_FND), -1, -1)
        return self.norm_pre(torch.cat([cls, patches_FND], dim=1) + self.pos_embed)

    def _run(self, block: nn.Module, x_FSD: Tensor, last_F: Tensor | None) -> Tensor:
        if self.config.gradient_checkpointing and self.training:
            out = checkpoint(block, x_FSD, last_B=last_F, use_reentrant=False)
            assert isinstance(out, Tensor)
            return out
        return block(x_FSD, last_B=last_F)
