"""Dual encoder: a video tower and a text tower projected into one space (EgoVLP, LaViLa).

Letters: B batch, C channels, T frames, H W pixels, L tokens of a text, P embedding width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egovl.models.configs import DualEncoderConfig, Projection


@dataclass(slots=True)
class DualEncoderOutput:
    """Embeddings [B, P] of both sides and the scalars their similarities are multiplied by."""

    video: Tensor
    text: Tensor
    logit_scale: Tensor
    pseudo_logit_scale: Tensor | None = None
    """Of pseudo-labelled pairs, where the config has a second temperature."""


class DualEncoder(nn.Module):
    """Two towers, two projections, a learned temperature, or two."""

    # besides forward, what computes with the parameters when called (sharded models must know)
    forward_methods = ("encode_video", "encode_text", "encode_text_tokens")

    def __init__(self, config: DualEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.video = config.video.build()
        self.text = config.text.build()
        self.video_projection = build_projection(
            config.projection, self.video.width, config.embed_dim, relu_first=False
        )
        self.text_projection = build_projection(
            config.projection, self.text.width, config.embed_dim, relu_first=True
        )
        # the logarithm is learned, as CLIP does; one element, as FSDP2 cannot shard a scalar
        self.logit_scale = _log_scale(config.temperature_init, config.learn_temperature)
        pseudo = config.pseudo_temperature_init
        self.pseudo_logit_scale = (
            None if pseudo is None else _log_scale(pseudo, config.learn_pseudo_temperature)
        )

    def forward(
        self, video_BCTHW: Tensor, tokens_BL: Tensor, token_mask_BL: Tensor | None = None
    ) -> DualEncoderOutput:
        """Embed clips and texts, row by row a pair.

        Args:
            video_BCTHW: normalised pixels.
            tokens_BL: token ids.
            token_mask_BL: 1 or True at real tokens; None if the tower needs none.
        """
        return DualEncoderOutput(
            video=self.encode_video(video_BCTHW),
            text=self.encode_text(tokens_BL, token_mask_BL),
            logit_scale=self.logit_scale[0].exp(),
            pseudo_logit_scale=None
            if self.pseudo_logit_scale is None
            else self.pseudo_logit_scale[0].exp(),
        )

    def example_inputs(self) -> tuple[Tensor, Tensor]:
        """Return inputs of one pair in full size, on the present default device."""
        video, text = self.config.video, self.config.text
        side = video.image_size
        pixels = torch.empty(1, 3, video.num_frames, side, side)
        return pixels, torch.zeros(1, text.context_length, dtype=torch.long)

    def encode_video(self, video_BCTHW: Tensor) -> Tensor:
        """Return embeddings [B, P], of length 1 if the config normalises."""
        return self._finish(self.video_projection(self.video(video_BCTHW)))

    def encode_text(self, tokens_BL: Tensor, token_mask_BL: Tensor | None = None) -> Tensor:
        """Return embeddings [B, P], of length 1 if the config normalises."""
        return self._finish(self.text_projection(self.text(tokens_BL, token_mask_BL)))

    def encode_text_tokens(self, tokens_BL: Tensor, token_mask_BL: Tensor | None = None) -> Tensor:
        """Return the projected feature of every token [B, L, P], never normalised (EgoVLP 2.3)."""
        return self.text_projection(self.text.forward_tokens(tokens_BL, token_mask_BL))

    def _finish(self, embed_BP: Tensor) -> Tensor:
        # lengths and similarities are float32 under autocast too
        embed_BP = embed_BP.to(torch.promote_types(embed_BP.dtype, torch.float32))
        return F.normalize(embed_BP, dim=-1) if self.config.normalize else embed_BP


def _log_scale(temperature: float, learned: bool) -> nn.Parameter:
    scale = torch.tensor([math.log(1 / temperature)])
    return nn.Parameter(scale, requires_grad=learned)


def build_projection(kind: Projection, width: int, embed_dim: int, relu_first: bool) -> nn.Module:
    """From a tower's features to embeddings."""
    if kind == "identity":
        return nn.Identity()
    if kind == "frozen_in_time":
        linear = nn.Linear(width, embed_dim)
        return nn.Sequential(nn.ReLU(), linear) if relu_first else nn.Sequential(linear)
    linear = nn.Linear(width, embed_dim, bias=False)
    nn.init.normal_(linear.weight, std=width**-0.5)
    return linear
