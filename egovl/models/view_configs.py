"""Sizes of the cross-view models: the retriever and the egocentric feature encoder.

Standard library only; `build()` imports the model when it is called.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from egovl.models.configs import TextTowerConfig

if TYPE_CHECKING:
    from egovl.models.ego_feature_encoder import EgoFeatureEncoder
    from egovl.models.retriever import ViewRetriever


def _require(holds: bool, field_name: str, value: object, allowed: str) -> None:
    if not holds:
        raise ValueError(f"{field_name}={value!r} is not allowed: it must be {allowed}")


@dataclass(frozen=True)
class FeatureTowerConfig:
    """Transformer over one feature a second, for clips of either view (Egoinstructor spec 2.4)."""

    feature_width: int = 768
    """Width of the stored features, and of the tower."""
    num_frames: int = 32
    """Features of a training clip; evaluation takes any number."""
    depth: int = 4
    heads: int = 8

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be built."""
        for name in ("feature_width", "num_frames", "depth", "heads"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        width, heads = self.feature_width, self.heads
        _require(width % heads == 0, "heads", heads, f"a divisor of feature_width={width}")
        _require(width % 2 == 0, "feature_width", width, "even, for sines and cosines")


def _long_text() -> TextTowerConfig:
    # 8 heads of 96: the released weights were trained so, though CLIP has 12 of 64
    return TextTowerConfig(context_length=300, width=768, heads=8, depth=12)


@dataclass(frozen=True)
class ViewRetrieverConfig:
    """Feature sequences of both views and texts in one space (Egoinstructor spec 2.4)."""

    name: Literal["view_retriever"] = "view_retriever"
    video: FeatureTowerConfig = field(default_factory=FeatureTowerConfig)
    text: TextTowerConfig = field(default_factory=_long_text)
    embed_dim: int = 768
    normalize: bool = True
    """Embeddings of length 1 from `forward`."""
    temperature_init: float = 0.07
    learn_temperature: bool = True
    train_text: bool = True
    """Off: the text tower keeps its first weights."""

    def __post_init__(self) -> None:
        """Refuse contradictions."""
        _require(self.name == "view_retriever", "name", self.name, "view_retriever")
        _require(self.embed_dim >= 1, "embed_dim", self.embed_dim, "at least 1")
        _require(self.temperature_init > 0, "temperature_init", self.temperature_init, "above 0")

    def build(self) -> ViewRetriever:
        """Make the model with fresh weights."""
        from egovl.models.retriever import ViewRetriever

        return ViewRetriever(self)


@dataclass(frozen=True)
class EgoFeatureEncoderConfig:
    """VideoMAE-style video tower with a text tower: makes features (Egoinstructor spec 2.5)."""

    name: Literal["ego_feature_encoder"] = "ego_feature_encoder"
    image_size: int = 224
    """Side of the square input, pixels."""
    patch_size: int = 16
    num_frames: int = 8
    frames_per_token: int = 2
    """Frames that one token covers."""
    width: int = 1024
    depth: int = 24
    heads: int = 16
    norm_eps: float = 1e-5
    text: TextTowerConfig = field(default_factory=lambda: replace(_long_text(), context_length=77))
    embed_dim: int = 768
    temperature_init: float = 0.07

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be built."""
        _require(self.name == "ego_feature_encoder", "name", self.name, "ego_feature_encoder")
        names = ("image_size", "patch_size", "num_frames", "frames_per_token", "width", "depth")
        for name in (*names, "heads", "embed_dim"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name, whole, part in (
            ("patch_size", self.image_size, self.patch_size),
            ("frames_per_token", self.num_frames, self.frames_per_token),
            ("heads", self.width, self.heads),
        ):
            _require(whole % part == 0, name, part, f"a divisor of {whole}")
        _require(self.norm_eps > 0, "norm_eps", self.norm_eps, "above 0")
        _require(self.temperature_init > 0, "temperature_init", self.temperature_init, "above 0")

    @property
    def num_tokens(self) -> int:
        """Tokens of a clip."""
        side = self.image_size // self.patch_size
        return side * side * (self.num_frames // self.frames_per_token)

    def build(self) -> EgoFeatureEncoder:
        """Make the model with fresh weights."""
        from egovl.models.ego_feature_encoder import EgoFeatureEncoder

        return EgoFeatureEncoder(self)
