"""Classification without training: classes as texts, a clip's class is the nearest text.

Letters: M texts, C classes, P embedding width, B clips, V views of a clip.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def class_prompts(
    classes: Sequence[str | Sequence[str]], templates: Sequence[str] = ("{}",)
) -> tuple[list[str], list[int]]:
    """Every narration of every class in every template, and the class of each text.

    LaViLa spec section 6.1; its templates are ``#C C {}`` and ``#C {}``.
    """
    texts: list[str] = []
    owners: list[int] = []
    for number, narrations in enumerate(classes):
        for narration in [narrations] if isinstance(narrations, str) else narrations:
            texts += [template.format(narration) for template in templates]
            owners += [number] * len(templates)
    return texts, owners


def class_embeddings(text_MP: Tensor, owner_M: Tensor, num_classes: int) -> Tensor:
    """Embeddings [C, P] of length 1: the mean of a class's texts, each of length 1 before.

    Raises:
        ValueError: a class has no text.
    """
    counts = torch.bincount(owner_M, minlength=num_classes)
    if len(counts) != num_classes or not counts.all():
        lacking = (counts[:num_classes] == 0).nonzero().flatten().tolist()
        raise ValueError(
            f"{num_classes} classes, texts of {len(counts)}; without a text: {lacking[:10]}"
        )
    total = text_MP.new_zeros(num_classes, text_MP.shape[1])
    total = total.index_add(0, owner_M, F.normalize(text_MP, dim=-1))
    return F.normalize(total / counts[:, None], dim=-1)


def class_scores(video_BVP: Tensor, class_CP: Tensor) -> Tensor:
    """Cosines [B, V, C] of every view of a clip with every class."""
    return F.normalize(video_BVP, dim=-1) @ class_CP.T


def pool_views(scores_BVC: Tensor) -> Tensor:
    """Probabilities [B, C]: the best view of each class, softmax over classes (LaViLa 6.1)."""
    return scores_BVC.amax(dim=1).softmax(dim=-1)
