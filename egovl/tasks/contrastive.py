"""Contrastive training of a dual encoder: a loss over the clips and texts of all ranks.

Pretraining and retrieval finetuning of EgoVLP and LaViLa; the loss is a table entry.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from egovl import dist
from egovl.data.transforms import normalize_video
from egovl.data.types import Batch
from egovl.engine.task import Embedded, StepOutput
from egovl.losses.pairs import Pairs, SideTable
from egovl.models.dual_encoder import DualEncoder, DualEncoderOutput
from egovl.tasks.configs import ContrastiveConfig


class Contrastive:
    """``ChunkedTask``: one clip and one text a sample; every pair of the global batch is compared.

    What a loss needs beside embeddings comes from the dataset's side tables, by sample id, or else
    from the labels of the batch.
    """

    def __init__(self, config: ContrastiveConfig) -> None:
        self.config = config
        self._loss = config.loss.build()
        self._tables: Mapping[str, SideTable] = {}

    def bind(self, dataset: Any, tokenizer: Any) -> None:
        """Take the side tables of the training set, by name, if it has any."""
        self._tables = getattr(dataset, "side_tables", {})

    def train_step(self, model: nn.Module, batch: Batch) -> StepOutput:
        """Loss of the global batch; video [B, 1, C, T, H, W], tokens [B, L]."""
        return self.loss(self.embed(model, batch), batch)

    def embed(self, model: nn.Module, batch: Batch) -> Embedded:
        """Embeddings of some rows, and the learned temperatures."""
        assert batch.video is not None and batch.tokens is not None
        video = normalize_video(batch.video[:, 0], self.config.normalization)
        output: DualEncoderOutput = model(video, batch.tokens, batch.token_mask)
        shared = {"scale": output.logit_scale}
        if output.pseudo_logit_scale is not None:
            shared["pseudo_scale"] = output.pseudo_logit_scale
        return Embedded({"video": output.video, "text": output.text}, shared)

    def loss(self, embedded: Embedded, batch: Batch) -> StepOutput:
        """Loss of the global batch, given the embeddings of this rank's part."""
        gathered = dist.gather_pair(
            embedded.rows["video"], embedded.rows["text"], self.config.gather
        )
        sides = self._sides(batch) if self._loss.sides else {}
        pairs = Pairs(
            **gathered._asdict(),
            scale=embedded.shared["scale"],
            pseudo_scale=embedded.shared.get("pseudo_scale"),
            sides=sides,
        )
        result = self._loss(pairs)
        # a fixed temperature leaves the learned one out; DDP waits for every parameter's gradient
        untouched = torch.stack(list(embedded.shared.values())).sum() * 0.0
        return StepOutput(result.loss + untouched, result.report)

    @torch.no_grad()
    def after_step(self, model: nn.Module) -> None:
        """Clamp the log of the learned scale (LaViLa spec 4)."""
        cast(DualEncoder, model).logit_scale.clamp_(0.0, math.log(self.config.max_logit_scale))

    def _sides(self, batch: Batch) -> dict[str, Tensor]:
        index = dist.gather_no_grad(batch.index)
        sides: dict[str, Tensor] = {}
        for name in self._loss.sides:
            if name in self._tables:
                sides[name] = self._tables[name].rows(index)
            elif name in batch.labels:
                sides[name] = dist.gather_no_grad(batch.labels[name])
            else:
                raise ValueError(
                    f"loss {self.config.loss.name} needs {name!r} of each sample; the dataset has "
                    f"{sorted({*self._tables, *batch.labels})}: choose a dataset or a loss that fit"
                )
        return sides
