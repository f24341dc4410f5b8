"""Configs of the tasks; light, so that a recipe is checked without importing torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from egovl.losses.configs import InfoNCEConfig, LossConfig

if TYPE_CHECKING:
    from egovl.tasks.classification import Classification
    from egovl.tasks.contrastive import Contrastive
    from egovl.tasks.features import Features
    from egovl.tasks.keyframe import Keyframe
    from egovl.tasks.multiple_choice import MultipleChoice
    from egovl.tasks.retrieval import Retrieval
    from egovl.tasks.zero_shot import ZeroShot

Normalization = Literal["clip", "clip_legacy", "imagenet", "imagenet_legacy_bgr"]


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


@dataclass(frozen=True)
class RetrievalConfig:
    """Search of videos by texts and texts by videos (EgoVLP spec 6.2, 6.3, 6.7)."""

    name: Literal["retrieval"] = "retrieval"
    normalization: Normalization = "clip"
    relevance: Literal["graded", "pairs"] = "graded"
    """graded: EK-100's mAP and nDCG over unique sentences; pairs: recalls, each text its own
    video."""
    similarity: Literal["cosine", "dual_softmax"] = "cosine"
    """dual_softmax: EgoVLP's "+" row, from unnormalised embeddings."""
    on_empty: Literal["raise", "skip"] = "raise"
    """A query that has nothing to find: stop, or leave it out of the mean."""

    def build(self) -> Retrieval:
        """The task."""
        from egovl.tasks.retrieval import Retrieval

        return Retrieval(self)


@dataclass(frozen=True)
class ZeroShotConfig:
    """Classification by texts of the classes (LaViLa spec 6.1, EgoVLP spec 6.4)."""

    name: Literal["zero_shot"] = "zero_shot"
    normalization: Normalization = "clip"
    label: str = "action"
    """Label of the dataset whose classes are told apart."""
    templates: tuple[str, ...] = ("{}",)
    """A class is the mean over its texts in all of these; LaViLa's: "#C C {}", "#C {}"."""
    views: Literal["mean", "max"] = "mean"
    """How the scores of a sample's views become one; LaViLa takes the largest."""
    softmax: bool = False
    """Scores are probabilities over classes, which changes a mean AP over several labels."""

    def __post_init__(self) -> None:
        bad = [template for template in self.templates if "{}" not in template]
        if bad or not self.templates:
            raise ValueError(f"templates is {self.templates}; each needs a {{}} for the text")

    def build(self) -> ZeroShot:
        """The task."""
        from egovl.tasks.zero_shot import ZeroShot

        return ZeroShot(self)


@dataclass(frozen=True)
class ClassificationConfig:
    """Training and evaluation of classifier heads (LaViLa spec 4, 6.1)."""

    name: Literal["classification"] = "classification"
    normalization: Normalization = "clip"
    heads: tuple[str, ...] = ("action",)
    """Heads of the model, named after labels of the dataset; their losses are summed."""
    label_smoothing: float = 0.1
    mixup_alpha: float = 0.0
    """Above 0: mixup with this Beta distribution."""
    cutmix_alpha: float = 0.0
    """Above 0: CutMix; with both, one of them at each step."""
    num_classes: Mapping[str, int] = field(default_factory=dict[str, int])
    """Classes of each head; only mixing needs them."""
    legacy_absent: bool = False
    """LaViLa: a verb or noun that no action contains has the score of action 0."""

    def __post_init__(self) -> None:
        if not self.heads:
            raise ValueError("heads is empty; name at least one")
        if self.mixup_alpha < 0 or self.cutmix_alpha < 0:
            raise ValueError("mixup_alpha and cutmix_alpha must be 0 or more")
        missing = set(self.heads) - set(self.num_classes)
        if (self.mixup_alpha or self.cutmix_alpha) and missing:
            raise ValueError(f"num_classes lacks {sorted(missing)}, which mixing needs")

    def build(self) -> Classification:
        """The task."""
        from egovl.tasks.classification import Classification

        return Classification(self)


@dataclass(frozen=True)
class KeyframeConfig:
    """State changes: OSCC with head state_change, PNR with head keyframe (EgoVLP spec 6.6)."""

    name: Literal["keyframe"] = "keyframe"
    normalization: Normalization = "imagenet"
    head: Literal["state_change", "keyframe"] = "keyframe"
    label_smoothing: float = 0.0
    label_spread: float = 0.0
    """Above 0: training with head ``keyframe`` takes the places near the true one as nearly right,
    a normal curve of so many places; as published, one place alone is."""

    def __post_init__(self) -> None:
        if self.label_spread < 0 or (self.label_spread and self.head != "keyframe"):
            raise ValueError(
                f"label_spread is {self.label_spread}; it must be 0 or more, and 0 with head "
                f"{self.head}"
            )

    def build(self) -> Keyframe:
        """The task."""
        from egovl.tasks.keyframe import Keyframe

        return Keyframe(self)


@dataclass(frozen=True)
class FeaturesConfig:
    """Features of clips for other systems (EgoVLP spec 6.5)."""

    name: Literal["features"] = "features"
    normalization: Normalization = "clip"
    projection: bool = True
    """In the joint space, of any length, as EgoVLP's; off: the tower's own."""
    legacy_zero_tail: bool = False
    """EgoVLP: a clip's last features, those behind a multiple of four, are zero (parity: egovlp
    dense_features)."""

    def build(self) -> Features:
        """The task."""
        from egovl.tasks.features import Features

        return Features(self)
