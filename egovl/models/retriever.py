"""Cross-view retriever: second-by-second features of a clip, and texts (Egoinstructor spec 2.4).

Letters: B batch, T features of a clip (one a second), L tokens of a text, D width, P embedding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egovl.models.configs import CLIP_NORM_EPS
from egovl.models.layers.sinusoid import sinusoid_table
from egovl.models.layers.transformer_block import TransformerBlock
from egovl.models.text_transformer import TextTransformer
from egovl.models.view_configs import FeatureTowerConfig, ViewRetrieverConfig


@dataclass(slots=True)
class RetrieverOutput:
    """Embeddings [B, P] of both sides and the scalar their similarities are multiplied by."""

    video: Tensor
    text: Tensor
    logit_scale: Tensor


class FeatureTransformer(nn.Module):
    """A sequence of features to one; the same tower serves both views."""

    def __init__(self, config: FeatureTowerConfig) -> None:
        super().__init__()
        self.config = config
        self.width = config.feature_width
        self.blocks = nn.ModuleList(
            TransformerBlock(self.width, config.heads) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(self.width, eps=CLIP_NORM_EPS)

    def forward(self, features_BTD: Tensor) -> Tensor:
        """Return the mean [B, D] of the features after the blocks."""
        return self.forward_tokens(features_BTD).mean(dim=1)

    def forward_tokens(self, features_BTD: Tensor) -> Tensor:
        """Return all features after the blocks, [B, T, D].

        Raises:
            ValueError: features of another width; in training, clips of another length.
        """
        config, (length, width) = self.config, features_BTD.shape[1:]
        if width != config.feature_width or (self.training and length != config.num_frames):
            raise ValueError(
                f"features [B, T, D] = {list(features_BTD.shape)} do not fit this tower: D is "
                f"{config.feature_width}, and T {config.num_frames} in training"
            )
        # computed, not stored: released files do not hold the table
        x_BTD = features_BTD + sinusoid_table(length, width, features_BTD.device)
        for block in self.blocks:
            x_BTD = block(x_BTD)
        return self.norm(x_BTD)


class LongTextTransformer(TextTransformer):
    """CLIP's text tower; a text longer than its position table stretches the table."""

    def _embed(self, tokens_BL: Tensor) -> Tensor:
        length = tokens_BL.shape[1]
        if length <= self.config.context_length:
            return super()._embed(tokens_BL)
        return self.token_embed(tokens_BL) + stretch_positions(self.pos_embed, length)


def stretch_positions(table_LD: Tensor, length: int) -> Tensor:
    """A position table of another length: cut, or interpolated linearly (spec 2.4)."""
    if length <= len(table_LD):
        return table_LD[:length]
    return F.interpolate(table_LD.T[None], size=length, mode="linear", align_corners=False)[0].T


class ViewRetriever(nn.Module):
    """Feature tower, text tower, two projections, a learned temperature."""

    # besides forward, what computes with the parameters when called (sharded models must know)
    forward_methods = ("encode_video", "encode_text")

    def __init__(self, config: ViewRetrieverConfig) -> None:
        super().__init__()
        self.config = config
        self.video = FeatureTransformer(config.video)
        self.text = LongTextTransformer(config.text)
        self.video_projection = _projection(self.video.width, config.embed_dim)
        self.text_projection = _projection(self.text.width, config.embed_dim)
        # the logarithm is learned; one element, as FSDP2 cannot shard a scalar
        scale = torch.tensor([math.log(1 / config.temperature_init)])
        self.logit_scale = nn.Parameter(scale, requires_grad=config.learn_temperature)
        self.text.requires_grad_(config.train_text)

    def forward(self, features_BTD: Tensor, tokens_BL: Tensor) -> RetrieverOutput:
        """Embed clips and texts, row by row a pair."""
        return RetrieverOutput(
            video=self.encode_video(features_BTD),
            text=self.encode_text(tokens_BL),
            logit_scale=self.logit_scale[0].exp(),
        )

    def encode_video(self, features_BTD: Tensor, *, normalize: bool | None = None) -> Tensor:
        """Return embeddings [B, P]; of length 1 if asked for, or else as the config says."""
        return self._finish(self.video_projection(self.video(features_BTD)), normalize)

    def encode_text(self, tokens_BL: Tensor, *, normalize: bool | None = None) -> Tensor:
        """Return embeddings [B, P]; of length 1 if asked for, or else as the config says."""
        return self._finish(self.text_projection(self.text(tokens_BL)), normalize)

    def example_inputs(self) -> tuple[Tensor, Tensor]:
        """Return inputs of one pair in full size, on the present default device."""
        video, text = self.config.video, self.config.text
        features = torch.empty(1, video.num_frames, video.feature_width)
        return features, torch.zeros(1, text.context_length, dtype=torch.long)

    def _finish(self, embed_BP: Tensor, normalize: bool | None) -> Tensor:
        embed_BP = embed_BP.to(torch.promote_types(embed_BP.dtype, torch.float32))
        chosen = self.config.normalize if normalize is None else normalize
        return F.normalize(embed_BP, dim=-1) if chosen else embed_BP


def _projection(width: int, embed_dim: int) -> nn.Linear:
    linear = nn.Linear(width, embed_dim, bias=False)
    nn.init.normal_(linear.weight, std=width**-0.5)
    return linear
