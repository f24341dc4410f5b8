"""Configs of the cross-view tasks; light, so that a recipe is checked without importing torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from egovl.losses.configs import EgoExoNCEConfig
from egovl.models.generation.configs import GenerationConfig

if TYPE_CHECKING:
    from egovl.tasks.captioning import Captioning
    from egovl.tasks.view_retrieval import ViewRetrieval


@dataclass(frozen=True)
class ViewRetrievalConfig:
    """Training and the six evaluations of the retriever (Egoinstructor spec 4.2, 6.2)."""

    name: Literal["view_retrieval"] = "view_retrieval"
    loss: EgoExoNCEConfig = field(default_factory=EgoExoNCEConfig)
    gather: Literal["full", "sharded"] = "full"
    """How ranks share pairs; both give the exact gradient."""
    max_logit_scale: float = 100.0
    """The learned scale is clamped to [1, this] after each step."""
    legacy_unnormalised_mcq: bool = False
    """EgoMCQ and EgoSumm compare texts with clips that keep their length, as published (parity:
    retrieval_eval)."""
    legacy_ties: bool = False
    """Equal scores lengthen the list of ranks (parity: retrieval_metrics)."""

    def __post_init__(self) -> None:
        if self.max_logit_scale < 1:
            raise ValueError(f"max_logit_scale is {self.max_logit_scale}; it must be at least 1")

    def build(self) -> ViewRetrieval:
        """The task."""
        from egovl.tasks.view_retrieval import ViewRetrieval

        return ViewRetrieval(self)


def _published_writing() -> GenerationConfig:
    return GenerationConfig(strategy="beam", num_beams=3, max_new_tokens=64, no_repeat_ngram_size=3)


@dataclass(frozen=True)
class CaptioningConfig:
    """Training and evaluation of the captioner (Egoinstructor spec 4.1, 6.1)."""

    name: Literal["captioning"] = "captioning"
    normalization: Literal["clip_rounded", "clip"] = "clip_rounded"
    generation: GenerationConfig = field(default_factory=_published_writing)
    ban_format_words: bool = True
    """Captions never contain the words that structure a prompt."""
    mask_lm_head: bool = False
    """Of the token table only the answer mark learns."""
    legacy_trailing_period: bool = False
    """Predictions keep their final full stop, which references do not have, as published."""
    with_meteor: bool = True

    def build(self) -> Captioning:
        """The task."""
        from egovl.tasks.captioning import Captioning

        return Captioning(self)
