"""Sizes and options of the grounding model; standard library only (GroundNLQ spec 2, 7.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from egovl.models.grounder.grounder import Grounder

NeckKind = Literal["identity", "fpn"]

OVERLAPPING_RANGES = ((0, 4), (2, 8), (4, 16), (8, 32), (16, 64), (32, 128), (64, 10000))
"""Lengths, in feature steps, that each level of the released models answers for."""


def _require(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise ValueError(f"{name}={value!r} is not allowed: it must be {allowed}")


@dataclass(frozen=True)
class Layers:
    """Layers of each part of the backbone, in the order of the published `backbone_arch`."""

    embed: int = 2
    """Convolutions that embed the features of video and text."""
    text: int = 4
    """Blocks of the text stem."""
    video: int = 4
    """Blocks of the video stem, which look at the text."""
    cross_branch: int = 0
    """Blocks that halve the length and look at the text."""
    branch: int = 6
    """Blocks that halve the length, after those."""

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be built."""
        for name in ("embed", "text", "video", "cross_branch", "branch"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        _require(self.embed >= 1, "embed", self.embed, "at least 1: features have their own width")

    @property
    def levels(self) -> int:
        """Levels of the pyramid, the stem's output included."""
        return 1 + self.cross_branch + self.branch


BASE = Layers()
STAR = Layers(cross_branch=6, branch=0)


@dataclass(frozen=True)
class GrounderConfig:
    """Anchor-free span detection on video features, conditioned on a text (GroundNLQ).

    The defaults are the released base model's, but for its `legacy_*` padding.
    """

    name: Literal["grounder"] = "grounder"
    video_dim: int = 2304
    """Width of the video features."""
    text_dim: int = 512
    """Width of the text's token features."""
    num_classes: int = 1
    max_length: int = 2560
    """Longest video in feature steps; longer ones stretch the position table in evaluation."""
    layers: Layers = field(default_factory=Layers)
    width: int = 384
    heads: int = 4
    window: tuple[int, ...] = (9,)
    """Feature steps that a video token sees around itself, odd; 1 or less: all. One for all levels,
    or one for each."""
    legacy_window_index: bool = False
    """With a window for each level: the plain branch counts from the first branch level again, as
    published."""
    scale_factor: int = 2
    """Length of a level over that of the next."""
    kernel: int = 3
    """Of the convolutions that embed the video."""
    embed_norm: bool = True
    absolute_positions: bool = True
    relative_positions: bool = False
    """Learned bias for each place of a local window."""
    neck: NeckKind = "identity"
    neck_dim: int = 384
    neck_norm: bool = True
    start_level: int = 0
    """Levels of the backbone below this one have no head."""
    head_dim: int = 384
    head_kernel: int = 3
    head_layers: int = 3
    head_norm: bool = True
    class_prior: float = 0.01
    """Score that the classification head starts with; 0: no such start."""
    empty_classes: tuple[int, ...] = ()
    """Classes without examples; their scores start near 0."""
    ranges: tuple[tuple[float, float], ...] = OVERLAPPING_RANGES
    """Distance to the further end of a span, in feature steps, that each level is trained on."""
    dropout: float = 0.0
    drop_path: float = 0.1
    """0 also leaves the learned scales of the residual branches out."""
    normalizer_init: float = 200.0
    """Start of the running number of positives that losses are divided by."""
    legacy_text_padding: bool = False
    """Released models: padding of shorter texts leaks into the convolutions of the text stem, so an
    answer depends on the longest text of its batch."""
    legacy_video_padding: bool = False
    """Released models: the last feature step sees what normalisation makes of the padding."""

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be built."""
        _require(self.name == "grounder", "name", self.name, "grounder")
        for name in ("video_dim", "text_dim", "num_classes", "max_length", "heads", "head_layers"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        _require(self.width % self.heads == 0, "heads", self.heads, f"a divisor of {self.width}")
        for name in ("kernel", "head_kernel"):
            _require(getattr(self, name) % 2 == 1, name, getattr(self, name), "odd")
        _require(self.neck in get_args(NeckKind), "neck", self.neck, "identity or fpn")
        same = self.neck == "fpn" or self.neck_dim == self.width
        _require(same, "neck_dim", self.neck_dim, f"the width {self.width} with neck identity")
        self._check_levels()
        for name in ("dropout", "drop_path"):
            _require(0 <= getattr(self, name) < 1, name, getattr(self, name), "in 0 .. 1, below 1")
        _require(0 <= self.class_prior < 1, "class_prior", self.class_prior, "in 0 .. 1, below 1")
        empty = self.empty_classes
        inside = all(0 <= c < self.num_classes for c in empty)
        _require(inside, "empty_classes", empty, f"numbers below {self.num_classes}")

    def _check_levels(self) -> None:
        levels, windows = self.layers.levels, self.window
        fits = self.scale_factor >= 2 and self.scale_factor % 2 == 0
        _require(fits, "scale_factor", self.scale_factor, "even, at least 2")
        below = 0 <= self.start_level < levels
        _require(below, "start_level", self.start_level, f"below the number of levels, {levels}")
        heads = levels - self.start_level
        known = f"one for each of the {heads} levels with a head"
        _require(len(self.ranges) == heads, "ranges", self.ranges, known)
        one_each = len(windows) in (1, levels)
        _require(one_each, "window", windows, f"one number, or {levels}: one for each level")
        odd = all(window <= 1 or window % 2 == 1 for window in windows)
        _require(odd, "window", windows, "odd, or 1 or less for global attention")
        step = self.coarsest_stride
        whole = self.max_length % step == 0
        _require(whole, "max_length", self.max_length, f"a multiple of the last stride {step}")

    @property
    def coarsest_stride(self) -> int:
        """Feature steps of one place of the last level."""
        return self.scale_factor ** (self.layers.levels - 1)

    @property
    def strides(self) -> tuple[int, ...]:
        """Feature steps of one place, of every level with a head."""
        return tuple(self.scale_factor**i for i in range(self.start_level, self.layers.levels))

    def window_of(self, level: int) -> int:
        """Window of a level's blocks; level 0 is the stem."""
        if len(self.window) == 1:
            return self.window[0]
        plain = level - self.layers.cross_branch
        if self.legacy_window_index and level > self.layers.cross_branch > 0:
            return self.window[plain]
        return self.window[level]

    def padded_length(self, longest: int) -> int:
        """Length to which videos are padded so that every answer is that of full padding.

        With the published padding a place of padding must follow on every level, or none as in the
        longest video that fits (GroundNLQ spec 3.5). Beyond `max_length` the position table is
        stretched to the padded length.
        """
        step = self.coarsest_stride
        padding = 1 if self.legacy_video_padding else 0
        length = step * (math.ceil(longest / step) + padding)
        if longest <= self.max_length:
            return min(length, self.max_length)
        return length

    def build(self) -> Grounder:
        """Make the model with fresh weights."""
        from egovl.models.grounder.grounder import Grounder

        return Grounder(self)
