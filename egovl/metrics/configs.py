"""Config of the decoding of spans. Standard library only, so that a recipe is checked quickly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

NmsMethod = Literal["soft", "linear", "hard", "none"]


@dataclass(frozen=True)
class SpanDecodingConfig:
    """From point scores to a few spans (GroundNLQ spec 6.1, 6.2); defaults as released."""

    min_candidate_score: float = 0.001
    """A point below it is no candidate."""
    candidates_per_level: int = 2000
    min_length: float = 0.001
    """Shortest candidate, in feature steps."""
    max_spans: int = 5
    """Spans that are kept of a query."""
    nms: NmsMethod = "soft"
    """soft: overlapping ones lose score by a Gaussian of their IoU; linear: by the IoU above
    `iou_threshold`; hard: all of it; none: the best ones as they are."""
    iou_threshold: float = 0.1
    """Of linear and hard; a Gaussian needs none."""
    sigma: float = 0.75
    min_score: float = 0.001
    """A span that falls below it is dropped."""
    per_class: bool = True
    """Suppress within a class only; then `voting_threshold` has no effect, as published."""
    voting_threshold: float = 0.0
    """Kept spans become the mean of the candidates that overlap them more; 0: off."""
    legacy_half_window: bool = False
    """Move both ends by half a feature's window, which training does not (GroundNLQ spec 6.1): the
    published figures and released checkpoints have it."""

    legacy_ties: bool = False
    """Equal scores in the order of torch's unstable sort; off, in the order of time."""

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        if self.nms not in get_args(NmsMethod):
            raise ValueError(f"nms={self.nms!r}: it must be one of {get_args(NmsMethod)}")
        for name in ("candidates_per_level", "max_spans"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r}: it must be at least 1")
        if not self.sigma > 0:
            raise ValueError(f"sigma={self.sigma!r}: it must be above 0")
