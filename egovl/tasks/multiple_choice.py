"""Multiple choice: a text and K clips, which clip shows it (EgoMCQ)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from egovl.data.types import Batch
from egovl.metrics.choice import choice_accuracy
from egovl.models.dual_encoder import DualEncoder
from egovl.tasks.configs import MultipleChoiceConfig
from egovl.tasks.views import encode_views


class MultipleChoice:
    """``EvalTask``: percent answered rightly, per question type."""

    def __init__(self, config: MultipleChoiceConfig) -> None:
        self.config = config

    def eval_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Scores of the K clips of B questions; video [B, K, C, T, H, W], one query a question."""
        encoder = cast(DualEncoder, model)
        assert batch.video is not None and batch.tokens is not None
        choice_BKD = encode_views(encoder.encode_video, batch.video, self.config.normalization)
        query_BD = encoder.encode_text(batch.tokens, batch.token_mask).float()
        if self.config.similarity == "cosine":
            choice_BKD = functional.normalize(choice_BKD, dim=-1)
            query_BD = functional.normalize(query_BD, dim=-1)
        scores_BK = torch.einsum("bkd,bd->bk", choice_BKD, query_BD)
        return {
            "scores": scores_BK,
            "answer": batch.labels["answer"],
            "type": batch.labels["type"],
        }

    def score(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        """Accuracy in percent: ``inter_video`` and ``intra_video``."""
        return choice_accuracy(rows["scores"], rows["answer"], rows["type"])
