"""Configs of the losses over pairs; light, so that a recipe is checked without importing torch.

A new loss is its file, its config here and a line of `LOSSES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from egovl.losses.pairs import PairLoss


def _require_positive(field: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{field}={value!r} is not allowed: it must be above 0")


@dataclass(frozen=True)
class InfoNCEConfig:
    """Mean of both directions' cross entropies, learned temperature (LaViLa spec 4)."""

    is_default: ClassVar[bool] = True

    name: Literal["info_nce"] = "info_nce"

    def build(self) -> PairLoss:
        """The loss."""
        from egovl.losses.contrastive import InfoNCE

        return InfoNCE(self)


@dataclass(frozen=True)
class SslClipConfig:
    """InfoNCE with a temperature for human pairs and one for pseudo-labelled (LaViLa spec 4)."""

    name: Literal["ssl_clip"] = "ssl_clip"
    is_human: str = "is_human"
    """Side value [N]: 1 for a human narration, 0 for a generated one."""

    def build(self) -> PairLoss:
        """The loss."""
        from egovl.losses.contrastive import SslClip

        return SslClip(self)


@dataclass(frozen=True)
class EgoNCEConfig:
    """Softmax over all candidates, pairs with common tags as positives (EgoVLP spec 4)."""

    name: Literal["ego_nce"] = "ego_nce"
    temperature: float = 0.05
    noun: bool = True
    """A positive shares a noun."""
    verb: bool = True
    """A positive shares a verb; with neither, verbs decide, as published."""
    noun_tags: str = "noun"
    """Side value [N, classes] of 0 and 1."""
    verb_tags: str = "verb"

    def __post_init__(self) -> None:
        _require_positive("temperature", self.temperature)

    def build(self) -> PairLoss:
        """The loss."""
        from egovl.losses.ego_nce import EgoNCE

        return EgoNCE(self)


@dataclass(frozen=True)
class EgoExoNCEConfig:
    """Clips of both views; groups and shared tags are positives (Egoinstructor spec 4.2)."""

    name: Literal["ego_exo_nce"] = "ego_exo_nce"
    pair_num: int = 1
    """Partners of a clip, which follow it in the batch."""
    noun_tags: str = "noun"
    """Side value [N, classes] of 0 and 1."""
    verb_tags: str = "verb"

    def __post_init__(self) -> None:
        if self.pair_num < 0:
            raise ValueError(f"pair_num={self.pair_num} is not allowed: it must be 0 or more")

    def build(self) -> PairLoss:
        """The loss."""
        from egovl.losses.ego_exo_nce import EgoExoNCE

        return EgoExoNCE(self)


@dataclass(frozen=True)
class NormSoftmaxConfig:
    """Sum of both directions' cross entropies, fixed temperature (EgoVLP spec 4)."""

    name: Literal["norm_softmax"] = "norm_softmax"
    temperature: float = 0.05

    def __post_init__(self) -> None:
        _require_positive("temperature", self.temperature)

    def build(self) -> PairLoss:
        """The loss."""
        from egovl.losses.ego_nce import NormSoftmax

        return NormSoftmax(self)


@dataclass(frozen=True)
class MaxMarginConfig:
    """Hinge of every other pair against the true one: MI-MM (EgoVLP spec 4, LaViLa spec 4)."""

    name: Literal["max_margin"] = "max_margin"
    margin: float = 0.2
    fix_norm: bool = True
    """Leave the true pairs out of the mean."""

    def __post_init__(self) -> None:
        _require_positive("margin", self.margin)

    def build(self) -> PairLoss:
        """The loss."""
        from egovl.losses.ranking import MaxMargin

        return MaxMargin(self)


@dataclass(frozen=True)
class AdaptiveMaxMarginConfig:
    """The same with the margin scaled by each pair's relevancy (EgoVLP spec 4)."""

    name: Literal["adaptive_max_margin"] = "adaptive_max_margin"
    margin: float = 0.4
    fix_norm: bool = True
    weight: str = "relevancy"
    """Side value [N] that scales the margin of a pair."""

    def __post_init__(self) -> None:
        _require_positive("margin", self.margin)

    def build(self) -> PairLoss:
        """The loss."""
        from egovl.losses.ranking import MaxMargin

        return MaxMargin(self)


LossConfig = (
    InfoNCEConfig
    | SslClipConfig
    | EgoNCEConfig
    | EgoExoNCEConfig
    | NormSoftmaxConfig
    | MaxMarginConfig
    | AdaptiveMaxMarginConfig
)

LOSSES: Mapping[str, type] = {
    "info_nce": InfoNCEConfig,
    "ssl_clip": SslClipConfig,
    "ego_nce": EgoNCEConfig,
    "ego_exo_nce": EgoExoNCEConfig,
    "norm_softmax": NormSoftmaxConfig,
    "max_margin": MaxMarginConfig,
    "adaptive_max_margin": AdaptiveMaxMarginConfig,
}
"""Value of the field `name` of a loss section -> its config class."""


@dataclass(frozen=True)
class ChildNCEConfig:
    """MIL-NCE between parents and children, which HierVL configures and never runs (its spec 4)."""

    intra: bool = False
    """Videos against clips, aggregated narrations against narrations."""
    inter: bool = False
    """Videos against narrations, aggregated narrations against clips."""
    num_positives: int = 8
    """Children of each video that are compared, drawn for every step."""
    temperature: float = 0.05

    def __post_init__(self) -> None:
        _require_positive("num_positives", self.num_positives)
        _require_positive("temperature", self.temperature)

    @property
    def is_on(self) -> bool:
        """Whether any of it is asked for."""
        return self.intra or self.inter
