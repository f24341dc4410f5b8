"""Config of the query datasets. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from egovl.data.datasets.nlq import NLQ

RELEASED_STRIDE_FRAMES = 16.043
"""30 / 1.87 frames, what released models take for the distance of two features."""


@dataclass(frozen=True, kw_only=True)
class NLQConfig:
    """Queries (or narrations) over clips whose features are in a store (GroundNLQ spec 3)."""

    annotations: tuple[Path, ...]
    """nlq_*.json (version 1 or 2) or lines of json; several are read one after the other."""
    features: Path
    """Store of video features, by clip uid."""
    text_features: Path
    """Store of token features, by query id."""
    name: Literal["nlq"] = "nlq"
    fps: float | None = 30.0
    """Frames per second that strides count in; None: what a row states."""
    stride_frames: float | None = None
    """Frames from one feature to the next; None: what the store says of itself, else the clip's
    length over its number of features. Released checkpoints: 16.043."""
    window_frames: float | None = None
    """Frames behind one feature; None: what the store says, else the stride."""
    downsample_rate: int = 1
    """Coarsens the time grid alone, as published."""
    jitter: bool = False
    """Pretraining: lengthen each window at random, up to ten times."""
    num_classes: int = 1
    max_steps: int | None = None
    """Training leaves longer videos out, named; None: no limit. A model's `max_length`."""
    file_order: bool = False
    """Evaluate in the order of the file, as published, where padding of texts changes results; off,
    clips of like length and queries of one clip go together."""
    tower: Path | None = None
    """Weights of the dual encoder that made both stores, for `python -m egovl ground`."""

    def __post_init__(self) -> None:
        if not self.annotations:
            raise ValueError("annotations is empty; name at least one file")
        for name in ("fps", "stride_frames", "window_frames"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}; it must be above 0, or null")
        for name in ("downsample_rate", "num_classes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")

    def build(self) -> NLQ:
        """Read the rows and open the stores."""
        from egovl.data.datasets.nlq import NLQ

        return NLQ(self)


@dataclass(frozen=True, kw_only=True)
class QueryTokensConfig:
    """Token features of queries by a dual encoder's text tower, into a store, as GroundNLQ's."""

    annotations: tuple[Path, ...]
    """As a query dataset's."""
    out: Path | None = None
    """Folder of the store: facts.json, and <query_id>.npy for each; null: `tokens` in the run's."""
    canonical: bool = True
    """Bring questions to the published form first: trimmed, lower case, one question mark."""
    legacy_zero: bool = False
    """Each `!` shortens a text by a row, as in the published stores."""
    end_token: bool = False
    """Keep the end token's row, in which the tower gathers the whole text; published stores lack
    it. A small tower says little of a text in the other rows, which nothing has trained."""
    shard: int = 0
    shards: int = 1
    """This process takes part `shard` of `shards` of the queries."""

    def __post_init__(self) -> None:
        if not self.annotations:
            raise ValueError("annotations is empty; name at least one file")
        if not 0 <= self.shard < self.shards:
            raise ValueError(f"shard is {self.shard}; it must be in 0 .. {self.shards - 1}")
        if self.legacy_zero and self.end_token:
            raise ValueError(
                "legacy_zero and end_token are both true: stores have one or the other"
            )
        if self.shards > 1 and self.out is None:
            raise ValueError("out is null: several shards need one folder to write into")
