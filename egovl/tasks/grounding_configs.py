"""Config of the grounding task; light, so that a recipe is checked without importing torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from egovl.losses.grounding_configs import GroundingLossConfig
from egovl.metrics.configs import SpanDecodingConfig

if TYPE_CHECKING:
    from egovl.tasks.grounding import Grounding


@dataclass(frozen=True)
class GroundingConfig:
    """Spans of a video that answer a query: training, and recall of them (GroundNLQ spec 4, 6)."""

    name: Literal["grounding"] = "grounding"
    loss: GroundingLossConfig = field(default_factory=GroundingLossConfig)
    decoding: SpanDecodingConfig = field(default_factory=SpanDecodingConfig)
    thresholds: tuple[float, ...] = (0.3, 0.5)
    """A span is right whose IoU is above."""
    ranks: tuple[int, ...] = (1, 5)
    """Is any of the first K spans right."""
    legacy_coverage: bool = False
    """As published, queries that could not be answered do not count; off, they are missed."""
    submission: Path | None = None
    """Where the evaluation writes its spans in the challenge's format; None: nowhere."""
    submission_scores: bool = False
    """Spans in that file are [start, end, score], which ensembling needs."""

    def __post_init__(self) -> None:
        if not self.thresholds or any(not 0 <= t < 1 for t in self.thresholds):
            raise ValueError(f"thresholds is {self.thresholds}; each must be in 0 .. 1, below 1")
        if not self.ranks or any(k < 1 for k in self.ranks):
            raise ValueError(f"ranks is {self.ranks}; each must be at least 1")

    def build(self) -> Grounding:
        """The task."""
        from egovl.tasks.grounding import Grounding

        return Grounding(self)
