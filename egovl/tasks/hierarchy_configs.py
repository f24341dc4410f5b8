"""Configs of the tasks on long videos; light, so that a recipe is checked without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

from egovl.losses.configs import ChildNCEConfig, InfoNCEConfig, LossConfig
from egovl.tasks.configs import Normalization

if TYPE_CHECKING:
    from egovl.tasks.anticipation import Anticipation
    from egovl.tasks.hierarchical import Hierarchical
    from egovl.tasks.long_video import LongVideoClassification
    from egovl.tasks.summary_choice import SummaryChoice

Term = Literal["text_summary", "video_summary", "text_video"]


@dataclass(frozen=True)
class HierarchicalConfig:
    """HierVL's joint training: clips with narrations, by turns with videos and summaries.

    A recipe's `train.parents` says which videos, and how often. Ablations (its spec, 4): w/o Summ
    is `terms: [text_video]`, w/o Summ<->Narr `terms: [video_summary]`, w/o Joint
    `train.parents.children_per_parent: 0`, HierVL-Avg `model.aggregator.name: average`, w/o Hier
    the task contrastive on the dataset clips_and_summaries.
    """

    name: Literal["hierarchical"] = "hierarchical"
    loss: LossConfig = field(default_factory=InfoNCEConfig)
    """Of clips with narrations, and of every term of the parents'."""
    terms: tuple[Term, ...] = ("text_summary", "video_summary")
    """What parents are compared: aggregated narrations (text), aggregated clips (video), summary;
    the losses are summed."""
    child_nce: ChildNCEConfig = field(default_factory=ChildNCEConfig)
    """Parents against their children; off, as published."""
    normalization: Normalization = "clip"
    gather: Literal["full", "legacy_local_grad"] = "full"
    """How ranks share pairs; ``egovl.dist.gather_pair`` says what each does to the gradient."""
    max_logit_scale: float = 100.0
    """The learned scale is clamped to [1, this] after each step."""

    def __post_init__(self) -> None:
        known = get_args(Term)
        wrong = [term for term in self.terms if term not in known]
        if wrong or not self.terms or len(set(self.terms)) < len(self.terms):
            raise ValueError(f"terms is {self.terms}; it must be one or more of {known}, each once")

    def build(self) -> Hierarchical:
        """The task."""
        from egovl.tasks.hierarchical import Hierarchical

        return Hierarchical(self)


@dataclass(frozen=True)
class SummaryChoiceConfig:
    """SummaryMCQ and ShuffleMCQ from one encoding of every video (HierVL spec 6.1)."""

    name: Literal["summary_choice"] = "summary_choice"
    normalization: Normalization = "clip"
    num_shuffled: int = 4
    """Wrong choices of ShuffleMCQ, the right video with its clips in another order; 0: none."""
    seed: int = 0
    """Of these orders."""
    clips_per_forward: int = 16
    """Clips that the tower sees at once."""

    def __post_init__(self) -> None:
        if self.num_shuffled < 0 or self.clips_per_forward < 1:
            raise ValueError("num_shuffled must be 0 or more, clips_per_forward 1 or more")

    def build(self) -> SummaryChoice:
        """The task."""
        from egovl.tasks.summary_choice import SummaryChoice

        return SummaryChoice(self)


@dataclass(frozen=True)
class LongVideoClassificationConfig:
    """One class of a whole video, told from its clips (HowTo100M; HierVL spec 5, 6.5)."""

    name: Literal["long_video_classification"] = "long_video_classification"
    label: str = "label"
    """Label of the dataset, and head of the model."""
    normalization: Normalization = "clip"
    label_smoothing: float = 0.0

    def build(self) -> LongVideoClassification:
        """The task."""
        from egovl.tasks.long_video import LongVideoClassification

        return LongVideoClassification(self)


@dataclass(frozen=True)
class AnticipationConfig:
    """Verb and noun of each of the actions to come (Ego4D LTA; HierVL spec 6.6)."""

    name: Literal["anticipation"] = "anticipation"
    normalization: Normalization = "clip"
    num_sequences: int = 5
    """Sequences that are drawn for a place in evaluation; the nearest to the truth counts."""
    seed: int = 0
    """Of these draws."""

    def __post_init__(self) -> None:
        if self.num_sequences < 1:
            raise ValueError(f"num_sequences is {self.num_sequences}; it must be 1 or more")

    def build(self) -> Anticipation:
        """The task."""
        from egovl.tasks.anticipation import Anticipation

        return Anticipation(self)
