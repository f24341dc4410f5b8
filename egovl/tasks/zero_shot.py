"""Zero-shot classification: a clip against texts of the classes (LaViLa spec 6.1, EgoVLP 6.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egovl.data.types import Batch
from egovl.metrics.classification import class_accuracy, label_precision, topk_accuracy
from egovl.models.dual_encoder import DualEncoder
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
        self._class_PC: Tensor | None = None

    def bind(self, dataset: Any, tokenizer: Any) -> None:
        """Take the texts of the classes."""
        texts = take(dataset, "class_texts", "zero_shot").get(self.config.label)
        if texts is None:
            raise ValueError(
                f"the dataset has no texts for label {self.config.label!r}; "
                f"it has {sorted(dataset.class_texts)}"
            )
        self._tokenizer = tokenizer
        self._texts, self._owner = fill_templates(texts, self.config.templates)

    def prepare(self, model: nn.Module, device: torch.device) -> None:
        """Embed the classes with the weights as they are now."""
        encoder = cast(DualEncoder, model)
        parts = []
        for start in range(0, len(self._texts), _TEXTS_PER_BATCH):
            tokens, mask = self._tokenizer(self._texts[start : start + _TEXTS_PER_BATCH])
            parts.append(encoder.encode_text(tokens.to(device), mask.to(device)).float())
        self._class_PC = class_embeddings(torch.cat(parts), self._owner.to(device)).T

    def eval_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Scores of all classes; video [B, K, C, T, H, W]."""
        assert batch.video is not None and self._class_PC is not None
        encode = cast(DualEncoder, model).encode_video
        views_BKP = encode_views(encode, batch.video, self.config.normalization)
        scores = view_scores(F.normalize(views_BKP, dim=-1) @ self._class_PC, self.config)
        return {"scores": scores, "target": batch.labels[self.config.label]}

    def score(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        """Percent: ``mAP`` where samples have several classes, else top-1, top-5, mean class."""
        return score_classes(rows["scores"], rows["target"])


def fill_templates(
    texts: Sequence[Sequence[str]], templates: Sequence[str]
) -> tuple[list[str], Tensor]:
    """Every text of every class in every template, and the class of each."""
    filled = [
        (template.format(text), number)
        for number, options in enumerate(texts)
        for template in templates
        for text in options
    ]
    return [text for text, _ in filled], torch.tensor([number for _, number in filled])


def class_embeddings(embed_NP: Tensor, owner_N: Tensor) -> Tensor:
    """Mean direction ``[classes, P]`` of each class's texts, of length 1."""
    directions = F.normalize(embed_NP, dim=-1)
    size = int(owner_N.max()) + 1
    sums = directions.new_zeros(size, embed_NP.shape[1]).index_add_(0, owner_N, directions)
    return F.normalize(sums / owner_N.bincount(minlength=size)[:, None], dim=-1)


def view_scores(scores_BKC: Tensor, config: ZeroShotConfig) -> Tensor:
    """Scores ``[B, classes]`` over the views, softmaxed over classes if asked."""
    over_views = scores_BKC.amax(dim=1) if config.views == "max" else scores_BKC.mean(dim=1)
    return over_views.softmax(dim=-1) if config.softmax else over_views


def score_classes(scores: Tensor, target: Tensor) -> dict[str, float]:
    """``mAP`` of 0/1 targets ``[N, classes]``; ``top1, top5, mean_class`` of class ids ``[N]``."""
    if target.ndim == 2:
        return {"mAP": 100 * label_precision(scores, target).mean()}
    return topk_accuracy(scores, target) | class_accuracy(scores, target)
