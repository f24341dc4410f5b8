"""Configs of models above the clip: aggregators, and what is built on them (HierVL spec 2)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from egovl.models.configs import (
    DualEncoderConfig,
    _require,
    _require_choice,
    _require_heads,
    _require_name,
    _require_positive,
    _require_rate,
)

if TYPE_CHECKING:
    from egovl.models.aggregator import AverageAggregator, SelfAttentionAggregator
    from egovl.models.hierarchical_encoder import HierarchicalEncoder
    from egovl.models.long_video import LongVideoModel

ClipCount = Literal["fixed", "any", "legacy_broadcast"]
Frozen = Literal["none", "video", "towers"]


@dataclass(frozen=True)
class SelfAttentionConfig:
    """A small transformer over the embeddings of a video's clips; its CLS token is the parent's."""

    is_default: ClassVar[bool] = True

    name: Literal["self_attention"] = "self_attention"
    num_clips: int = 16
    """Rows of the table of positions."""
    clip_count: ClipCount = "fixed"
    """fixed: exactly `num_clips` (a mask may hide some); any: positions are stretched to the number
    of clips; legacy_broadcast: as fixed, but one clip counts as `num_clips` equal ones, which
    HierVL does silently (parity: hiervl ``aggregator``)."""
    depth: int = 6
    heads: int = 8
    drop_path: float = 0.1
    """Rate of the last block; earlier blocks grow linearly from 0. Active in training."""

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be built."""
        _require_name(self, "self_attention")
        _require_positive(self, "num_clips", "depth", "heads")
        _require_choice(self, "clip_count", ClipCount)
        _require_rate(self, "drop_path")

    def build(self, width: int) -> SelfAttentionAggregator:
        """Make the aggregator of embeddings of this width, with fresh weights."""
        from egovl.models.aggregator import SelfAttentionAggregator

        _require_heads(width, self.heads)
        return SelfAttentionAggregator(self, width)


@dataclass(frozen=True)
class AverageConfig:
    """The mean of the embeddings (HierVL-Avg): no parameters, no order."""

    name: Literal["average"] = "average"

    def __post_init__(self) -> None:
        """Refuse another name."""
        _require_name(self, "average")

    def build(self, width: int) -> AverageAggregator:
        """Make the aggregator; it takes any width."""
        from egovl.models.aggregator import AverageAggregator

        return AverageAggregator()


AggregatorConfig = SelfAttentionConfig | AverageConfig


@dataclass(frozen=True)
class HierarchicalEncoderConfig:
    """A dual encoder, and an aggregator from its clips to videos and its narrations to summaries.

    Any dual encoder serves; HierVL's own is EgoVLP's, whose embeddings are not normalised.
    """

    name: Literal["hierarchical"] = "hierarchical"
    encoder: DualEncoderConfig = field(default_factory=DualEncoderConfig)
    aggregator: AggregatorConfig = field(default_factory=SelfAttentionConfig)
    frozen: Frozen = "none"
    """Parts that do not learn, and stay in evaluation mode: nothing; the video tower with its
    projection; both towers."""

    def __post_init__(self) -> None:
        """Refuse contradictions."""
        _require_name(self, "hierarchical")
        _require_choice(self, "frozen", Frozen)

    def build(self) -> HierarchicalEncoder:
        """Make the model with fresh weights."""
        from egovl.models.hierarchical_encoder import HierarchicalEncoder

        return HierarchicalEncoder(self)


@dataclass(frozen=True)
class LongVideoConfig:
    """Labels of several clips in a row: HowTo100M's videos, Ego4D's coming actions.

    Video tower, projection and aggregator as in `HierarchicalEncoderConfig`, then a linear head for
    each label (HierVL spec 5, 6.6).
    """

    heads: dict[str, int]
    """Label -> number of classes; HowTo100M has label 100, anticipation verb 115 and noun 478."""
    name: Literal["long_video"] = "long_video"
    encoder: DualEncoderConfig = field(default_factory=DualEncoderConfig)
    """Its text tower is not built."""
    aggregator: AggregatorConfig = field(default_factory=AverageConfig)
    num_steps: int = 1
    """Coming actions that every head tells: 1 for a class of the video, 20 for Ego4D's."""
    frozen: Literal["none", "video"] = "video"
    """video: only aggregator and heads learn (a probe)."""

    def __post_init__(self) -> None:
        """Refuse heads that cannot be built."""
        _require_name(self, "long_video")
        _require(bool(self.heads), "heads", self.heads, "one label with its classes, or more")
        for label, classes in self.heads.items():
            _require(classes >= 1, f"heads.{label}", classes, "at least 1")
        _require_positive(self, "num_steps")
        _require_choice(self, "frozen", Literal["none", "video"])

    def build(self) -> LongVideoModel:
        """Make the model with fresh weights."""
        from egovl.models.long_video import LongVideoModel

        return LongVideoModel(self)
