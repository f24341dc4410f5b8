"""Classification of clips with one head or several: EK-100 CLS, EGTEA (LaViLa spec 2.7, 6.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from egovl.data.mixing import mix_clips
from egovl.data.transforms import normalize_video
from egovl.data.types import Batch
from egovl.engine.task import StepOutput
from egovl.losses.classification import multi_head_loss
from egovl.metrics.classification import marginal_scores, topk_accuracy
from egovl.tasks.configs import ClassificationConfig
from egovl.tasks.zero_shot import score_classes

Logits = Mapping[str, Tensor]


class Classification:
    """``TrainTask`` and ``EvalTask`` over the heads of a classifier, ``model(video)[head]``.

    In evaluation the logits of a clip's views are averaged. Where the only head is one of actions
    and the dataset names their parts, verb and noun are scored by their summed probabilities.
    """

    def __init__(self, config: ClassificationConfig) -> None:
        self.config = config
        self._parts: Mapping[str, list[int]] = {}
        self._num_classes: Mapping[str, int] = {}

    def bind(self, dataset: Any, tokenizer: Any) -> None:
        """Take which verb and noun each action is made of."""
        if len(self.config.heads) == 1:
            self._parts = getattr(dataset, "parts_of", {}).get(self.config.heads[0], {})
            self._num_classes = dataset.num_classes

    def train_step(self, model: nn.Module, batch: Batch) -> StepOutput:
        """Sum of the heads' losses; video [B, 1, C, T, H, W]."""
        assert batch.video is not None
        video = normalize_video(batch.video[:, 0], self.config.normalization)
        labels = {head: batch.labels[head] for head in self.config.heads}
        targets = labels
        if self.config.mixup_alpha or self.config.cutmix_alpha:
            video, targets = mix_clips(
                video,
                labels,
                dict(self.config.num_classes),
                mixup_alpha=self.config.mixup_alpha,
                cutmix_alpha=self.config.cutmix_alpha,
            )
        logits = self._heads(model(video))
        loss = multi_head_loss(
            list(logits.values()),
            [targets[head] for head in logits],
            smoothing=self.config.label_smoothing,
        )
        hits = {f"{h}_accuracy": (x.argmax(-1) == labels[h]).float() for h, x in logits.items()}
        return StepOutput(loss, {name: hit.mean().detach() for name, hit in hits.items()})

    def after_step(self, model: nn.Module) -> None:
        """Nothing to keep in range."""

    def eval_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Mean logits over views, and the labels; video [B, K, C, T, H, W]."""
        assert batch.video is not None
        video = normalize_video(batch.video.flatten(0, 1), self.config.normalization)
        logits = self._heads(model(video))
        shape = batch.video.shape[:2]
        rows = {f"scores_{h}": x.float().unflatten(0, shape).mean(1) for h, x in logits.items()}
        wanted = {*self.config.heads, *self._parts}
        return rows | {f"target_{name}": batch.labels[name] for name in sorted(wanted)}

    def score(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        """Percent, ``<head>_top1``, ``<head>_top5``, ``<head>_mean_class`` of every head."""
        found: dict[str, float] = {}
        for head in self.config.heads:
            scores = rows[f"scores_{head}"].softmax(dim=-1)
            found |= _named(head, score_classes(scores, rows[f"target_{head}"]))
            for part, of_action in self._parts.items():
                part_scores = marginal_scores(
                    scores,
                    torch.tensor(of_action),
                    self._num_classes[part],
                    legacy_absent=self.config.legacy_absent,
                )
                found |= _named(part, topk_accuracy(part_scores, rows[f"target_{part}"]))
        return found

    def _heads(self, logits: Logits) -> dict[str, Tensor]:
        missing = [head for head in self.config.heads if head not in logits]
        if missing:
            raise ValueError(f"the model has heads {sorted(logits)}, the task wants {missing}")
        return {head: logits[head] for head in self.config.heads}


def _named(head: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{head}_{name}": value for name, value in values.items()}
