"""Zero-shot classification: a clip against texts of the classes (LaViLa spec 6.1, EgoVLP 6.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from egovl.data.types import Batch
from egovl.metrics.classification import class_accuracy, label_precision, topk_accuracy
from egovl.models.dual_encoder import DualEncoder
from egovl.models.zero_shot import class_embeddings, class_prompts, class_scores
from egovl.tasks.binding import take
from egovl.tasks.configs import ZeroShotConfig
from egovl.tasks.views import encode_views

_TEXTS_PER_BATCH = 256


class ZeroShot:
    """``EvalTask``: cosine of a clip with the mean embedding of each class's texts."""

    def __init__(self, config: ZeroShotConfig) -> None:
        self.config = config
        self._texts: list[str] = []
        self._owner = torch.empty(0, dtype=torch.int64)
        self._tokenizer: Any = None
        self._num_classes = 0
        self._class_CP: Tensor | None = None

    def bind(self, dataset: Any, tokenizer: Any) -> None:
        """Take the texts of the classes."""
        texts = take(dataset, "class_texts", "zero_shot").get(self.config.label)
        if texts is None:
            raise ValueError(
                f"the dataset has no texts for label {self.config.label!r}; "
                f"it has {sorted(dataset.class_texts)}"
            )
        self._tokenizer = tokenizer
        self._texts, owners = class_prompts(texts, self.config.templates)
        self._owner, self._num_classes = torch.tensor(owners), len(texts)

    def prepare(self, model: nn.Module, device: torch.device) -> None:
        """Embed the classes with the weights as they are now."""
        encoder = cast(DualEncoder, model)
        parts = []
        for start in range(0, len(self._texts), _TEXTS_PER_BATCH):
            tokens, mask = self._tokenizer(self._texts[start : start + _TEXTS_PER_BATCH])
            parts.append(encoder.encode_text(tokens.to(device), mask.to(device)).float())
        owner = self._owner.to(device)
        self._class_CP = class_embeddings(torch.cat(parts), owner, self._num_classes)

    def eval_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Scores of all classes; video [B, K, C, T, H, W]."""
        assert batch.video is not None and self._class_CP is not None
        encode = cast(DualEncoder, model).encode_video
        views_BKP = encode_views(encode, batch.video, self.config.normalization)
        scores_BKC = class_scores(views_BKP, self._class_CP)
        best = self.config.views == "max"
        scores_BC = scores_BKC.amax(dim=1) if best else scores_BKC.mean(dim=1)
        if self.config.softmax:
            scores_BC = scores_BC.softmax(dim=-1)
        return {"scores": scores_BC, "target": batch.labels[self.config.label]}

    def score(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        """Percent: ``mAP`` where samples have several classes, else top-1, top-5, mean class."""
        return score_classes(rows["scores"], rows["target"])


def score_classes(scores: Tensor, target: Tensor) -> dict[str, float]:
    """``mAP`` of 0/1 targets ``[N, classes]``; ``top1, top5, mean_class`` of class ids ``[N]``."""
    if target.ndim == 2:
        return {"mAP": 100 * label_precision(scores, target).mean()}
    return topk_accuracy(scores, target) | class_accuracy(scores, target)
