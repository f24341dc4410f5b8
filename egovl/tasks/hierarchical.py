"""HierVL's training: clips and narrations, by turns with videos and summaries (its spec, 2.3, 4).

A batch with narrations is one of videos. Its clips and narrations go through the dual encoder and
the aggregator; what comes out is compared as the recipe's terms say.
"""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor, nn

from egovl import dist
from egovl.data.transforms import normalize_video
from egovl.data.types import Batch
from egovl.engine.task import Embedded, StepOutput
from egovl.losses.hierarchical import TERMS, Family, child_loss, draw_children, parent_loss
from egovl.losses.pairs import SideTable
from egovl.models.hierarchical_encoder import ParentInputs, ParentOutput
from egovl.tasks.configs import ContrastiveConfig
from egovl.tasks.contrastive import Contrastive
from egovl.tasks.hierarchy_configs import HierarchicalConfig

_PARENTS = ("summary", "video_parent", "text_parent")
_CHILDREN = ("clips", "narrations")


class Hierarchical:
    """``ChunkedTask``: contrastive on clips; on videos the terms between three kinds of parents."""

    def __init__(self, config: HierarchicalConfig) -> None:
        self.config = config
        self._loss = config.loss.build()
        self._pairs = Contrastive(
            ContrastiveConfig(
                loss=config.loss,
                normalization=config.normalization,
                gather=config.gather,
                max_logit_scale=config.max_logit_scale,
            )
        )
        self._needed = {name for term in config.terms for name in TERMS[term]}
        if config.child_nce.is_on:
            self._needed |= {"video_parent", "text_parent"}
        self._cached: SideTable | None = None

    def bind(self, dataset: Any, tokenizer: Any) -> None:
        """Take the side tables of the clips."""
        self._pairs.bind(dataset, tokenizer)

    def use_clips(self, table: SideTable) -> None:
        """Take the embeddings of the videos' clips from here, where batches hold no pixels."""
        self._cached = table

    def train_step(self, model: nn.Module, batch: Batch) -> StepOutput:
        """Loss of the global batch; video [B, K, C, T, H, W], tokens [B, L]."""
        return self.loss(self.embed(model, batch), batch)

    def embed(self, model: nn.Module, batch: Batch) -> Embedded:
        """Embeddings of some rows: of clips and narrations, or of all that parents need."""
        if batch.narrations is None:
            return self._pairs.embed(model, batch)
        output: ParentOutput = model(parents=self._inputs(batch))
        rows = {name: getattr(output, name) for name in sorted(self._needed)}
        if self.config.child_nce.is_on:
            rows |= {name: getattr(output, name) for name in _CHILDREN}
        return Embedded(rows, {"scale": output.logit_scale})

    def loss(self, embedded: Embedded, batch: Batch) -> StepOutput:
        """Loss of the global batch, given the embeddings of this rank's part."""
        if batch.narrations is None:
            return self._pairs.loss(embedded, batch)
        family = self._family(embedded, batch)
        parts = parent_loss(family, self.config.terms, self._loss)
        if self.config.child_nce.is_on:
            parts |= child_loss(family, self.config.child_nce)
        total = torch.stack(list(parts.values())).sum()
        # a fixed temperature leaves the learned one out; DDP waits for what the model returned
        untouched = torch.stack(list(embedded.shared.values())).sum() * 0.0
        report = {name: part.detach() for name, part in parts.items()}
        return StepOutput(total + untouched, {"parent_loss": total.detach(), **report})

    def after_step(self, model: nn.Module) -> None:
        """Clamp the log of the learned scale."""
        self._pairs.after_step(model)

    def _inputs(self, batch: Batch) -> ParentInputs:
        """What the terms need of a batch; the rest is not encoded."""
        inputs = ParentInputs()
        if "summary" in self._needed:
            inputs.summary, inputs.summary_mask = batch.tokens, batch.token_mask
        if "text_parent" in self._needed:
            inputs.narrations, inputs.narration_mask = batch.narrations, batch.narration_mask
        if "video_parent" in self._needed:
            if batch.video is None:
                assert self._cached is not None
                inputs.clips = self._cached.rows(batch.index)
            else:
                inputs.video = normalize_video(batch.video, self.config.normalization)
            inputs.clip_mask = clip_mask(batch, inputs.num_clips)
        return inputs

    def _family(self, embedded: Embedded, batch: Batch) -> Family:
        """Parents and the drawn children of all ranks, gathered at once."""
        parts = [embedded.rows[name] for name in sorted(self._needed)]
        drawn = {}
        if self.config.child_nce.is_on:
            wanted = self.config.child_nce.num_positives
            for name in _CHILDREN:  # the published order of draws
                children = embedded.rows[name]
                places = draw_children(children.shape[1], wanted, random.sample)
                drawn[name] = children[:, places]
        flat = [children.flatten(1) for children in drawn.values()]
        gathered, _, _ = dist.gather_group(parts + flat, self.config.gather)
        names = [*sorted(self._needed), *drawn]
        rows = dict(zip(names, gathered, strict=True))
        sides = {name: self._side(name, batch) for name in self._loss.sides}
        return Family(
            parents={name: rows[name] for name in _PARENTS if name in rows},
            children={n: rows[n].unflatten(1, x.shape[1:]) for n, x in drawn.items()},
            scale=embedded.shared["scale"],
            sides=sides,
        )

    def _side(self, name: str, batch: Batch) -> Tensor:
        if name not in batch.labels:
            raise ValueError(
                f"loss {self.config.loss.name} needs {name!r} of each summary; train.parents has "
                f"{sorted(batch.labels)}: choose a loss that fits"
            )
        return dist.gather_no_grad(batch.labels[name])


def clip_mask(batch: Batch, num_clips: int) -> Tensor | None:
    """``[B, K]`` True at the clips that a video has, of ``K``; None where all have all."""
    counts = batch.labels.get("num_clips")
    if counts is None:
        return None
    mask = torch.arange(num_clips, device=counts.device) < counts[:, None]
    # on the CPU looking is free; without a mask attention takes its faster path
    return None if counts.device.type == "cpu" and bool(mask.all()) else mask
