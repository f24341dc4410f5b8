"""Block of the divided space-time transformer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from egovl.models.configs import VideoTowerConfig
from egovl.models.layers.attention import ClipShape, DividedAttention
from egovl.models.layers.drop_path import DropPath
from egovl.models.layers.mlp import Mlp


class SpaceTimeBlock(nn.Module):
    """Temporal attention, spatial attention, perceptron.

    The published residual: temporal attention acts only through the input of spatial attention, and
    the sum after spatial attention starts from the block's input (EgoVLP 2.1, LaViLa 2.1; held by
    the parity families `video_tower` and `tsf_`).
    """

    def __init__(self, config: VideoTowerConfig, drop_path: float) -> None:
        super().__init__()
        width = config.width
        self.norm_time = nn.LayerNorm(width, eps=config.norm_eps)
        self.attn_time = DividedAttention(width, config.heads, "time")
        self.norm_space = nn.LayerNorm(width, eps=config.norm_eps)
        self.attn_space = DividedAttention(width, config.heads, "space")
        self.norm_mlp = nn.LayerNorm(width, eps=config.norm_eps)
        self.mlp = Mlp(width, int(width * config.mlp_ratio), config.activation)
        self.drop_path = DropPath(drop_path)
        # one element, as FSDP2 cannot shard a scalar
        self.time_gate = nn.Parameter(torch.zeros(1)) if config.gated_time else None

    def forward(self, x_BSD: Tensor, shape: ClipShape, cls_only: bool = False) -> Tensor:
        """Return all tokens [B, S, D], or CLS alone [B, 1, D] without computing the others."""
        time = self.attn_time(self.norm_time(x_BSD), shape=shape)
        if self.time_gate is not None:
            time = time * self.time_gate.tanh()
        normed = self.norm_space(x_BSD + time)
        if cls_only:
            # CLS attends to every token, so its row is plain attention with one query
            x_BSD = x_BSD[:, :1]
            space = self.attn_space.forward_at(normed, normed[:, :1], None)
        else:
            space = self.attn_space(normed, shape=shape)
        y_BSD = x_BSD + self.drop_path(space)
        return y_BSD + self.drop_path(self.mlp(self.norm_mlp(y_BSD)))
