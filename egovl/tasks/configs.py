"""Configs of the tasks; light, so that a recipe is checked without importing torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from egovl.losses.configs import InfoNCEConfig, LossConfig

if TYPE_CHECKING:
    from egovl.tasks.contrastive import Contrastive
    from egovl.tasks.multiple_choice import MultipleChoice

Normalization = Literal["clip", "clip_legacy", "imagenet"]


@dataclass(frozen=True)
class ContrastiveConfig:
    """Video-text contrastive training: pretraining, and finetuning for retrieval."""

    name: Literal["contrastive"] = "contrastive"
    loss: LossConfig = field(default_factory=InfoNCEConfig)
    normalization: Normalization = "clip"
    """Pixel statistics; ``clip_legacy`` is LaViLa's, whose red mean is a typo weights rely on."""
    gather: Literal["full", "sharded", "legacy_local_grad", "legacy_local_loss"] = "full"
    """How ranks share pairs; ``egovl.dist.gather_pair`` says what each does to the gradient."""
    max_logit_scale: float = 100.0
    """The learned scale is clamped to [1, this] after each step."""

    def build(self) -> Contrastive:
        """The task."""
        from egovl.tasks.contrastive import Contrastive

        return Contrastive(self)


@dataclass(frozen=True)
class MultipleChoiceConfig:
    """Which of K clips shows the query text (EgoMCQ; LaViLa spec 6.1, EgoVLP spec 6.1)."""

    name: Literal["multiple_choice"] = "multiple_choice"
    normalization: Normalization = "clip"
    similarity: Literal["cosine", "legacy_dot"] = "cosine"
    """``legacy_dot``: LaViLa scored unnormalised features, so the image norm moves the answer."""

    def build(self) -> MultipleChoice:
        """The task."""
        from egovl.tasks.multiple_choice import MultipleChoice

        return MultipleChoice(self)
