"""Contrastive pretraining of a dual encoder: InfoNCE over the clips and texts of all ranks."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import nn

from egovl import dist
from egovl.data.transforms import normalize_video
from egovl.data.types import Batch
from egovl.engine.task import StepOutput
from egovl.losses.contrastive import info_nce
from egovl.models.dual_encoder import DualEncoder, DualEncoderOutput
from egovl.tasks.configs import ContrastiveConfig


class Contrastive:
    """``TrainTask``: one clip and one text a sample; every pair of the global batch is compared."""

    def __init__(self, config: ContrastiveConfig) -> None:
        self.config = config

    def train_step(self, model: nn.Module, batch: Batch) -> StepOutput:
        """Loss of the global batch; video [B, 1, C, T, H, W], tokens [B, L]."""
        assert batch.video is not None and batch.tokens is not None
        video = normalize_video(batch.video[:, 0], self.config.normalization)
        output: DualEncoderOutput = model(video, batch.tokens, batch.token_mask)
        pair = dist.gather_pair(output.video, output.text, self.config.gather)
        result = info_nce(**pair._asdict(), scale=output.logit_scale)
        return StepOutput(result.loss, {"accuracy": result.accuracy})

    @torch.no_grad()
    def after_step(self, model: nn.Module) -> None:
        """Clamp the log of the learned scale (LaViLa spec 4)."""
        cast(DualEncoder, model).logit_scale.clamp_(0.0, math.log(self.config.max_logit_scale))
