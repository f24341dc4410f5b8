"""Config of the grounding loss; light, so that a recipe is checked without importing torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

CenterSample = Literal["radius", "none"]


@dataclass(frozen=True)
class GroundingLossConfig:
    """Which points answer for a span and how losses add up (GroundNLQ spec 4)."""

    center_sample: CenterSample = "radius"
    """radius: points near the span's centre; none: all inside the span."""
    radius: float = 1.5
    """Distance from the centre, in strides of the level."""
    regression_weight: float = 1.0
    """Of the overlap loss; 0 or less: as much as the classification loss."""
    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        rules = get_args(CenterSample)
        if self.center_sample not in rules:
            raise ValueError(f"center_sample={self.center_sample!r}: it must be one of {rules}")
        if not self.radius > 0:
            raise ValueError(f"radius={self.radius!r}: it must be above 0")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing={self.label_smoothing!r}: it must be in 0 .. 1")
