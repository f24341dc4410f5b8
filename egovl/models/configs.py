"""Sizes and options of the models, as frozen dataclasses; standard library only.

A published variant is a value here (`TSF_LARGE`), not a name in code. `build()` imports the model
when it is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

if TYPE_CHECKING:
    from egovl.models.classifier import Classifier
    from egovl.models.dual_encoder import DualEncoder
    from egovl.models.hf_text import HFTextTransformer
    from egovl.models.image_transformer import ImageTransformer
    from egovl.models.text_transformer import TextTransformer
    from egovl.models.video_transformer import SpaceTimeTransformer

Activation = Literal["quick_gelu", "gelu", "gelu_tanh", "squared_relu"]
TimeInit = Literal["zeros", "rand"]
Projection = Literal["linear", "frozen_in_time", "identity"]
AttentionAxis = Literal["space", "time"]

CLIP_NORM_EPS = 1e-5


def _require(holds: bool, field_name: str, value: object, allowed: str) -> None:
    if not holds:
        raise ValueError(f"{field_name}={value!r} is not allowed: it must be {allowed}")


def _require_positive(config: object, *field_names: str) -> None:
    for name in field_names:
        value = getattr(config, name)
        _require(value >= 1, name, value, "at least 1")


def _require_choice(config: object, field_name: str, choices: object) -> None:
    value = getattr(config, field_name)
    allowed = get_args(choices)
    _require(value in allowed, field_name, value, f"one of {', '.join(allowed)}")


def _require_heads(width: int, heads: int) -> None:
    _require(width % heads == 0, "heads", heads, f"a divisor of width={width}")


def _require_name(config: object, name: str) -> None:
    _require(getattr(config, "name", None) == name, "name", getattr(config, "name", None), name)


def _require_patches(config: VideoTowerConfig | ImageTowerConfig) -> None:
    _require(
        config.image_size % config.patch_size == 0,
        "patch_size",
        config.patch_size,
        f"a divisor of image_size={config.image_size}",
    )


def _require_rate(config: object, *field_names: str) -> None:
    for name in field_names:
        value = getattr(config, name)
        _require(0.0 <= value < 1.0, name, value, "at least 0 and below 1")


@dataclass(frozen=True)
class VideoTowerConfig:
    """Divided space-time transformer (TimeSformer in the style of Frozen in Time).

    The defaults are LaViLa's TSF-B in the style that starts from OpenAI CLIP; `TIMM_STYLE` holds
    the fields in which EgoVLP's style, which starts from an ImageNet ViT, differs.
    """

    is_default: ClassVar[bool] = True  # a recipe's video section without a name is this

    name: Literal["space_time"] = "space_time"
    image_size: int = 224
    """Side of the square input, pixels."""
    patch_size: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    num_frames: int = 4
    """Rows of the temporal embedding: the most frames a clip may have."""
    mlp_ratio: float = 4.0
    patch_bias: bool = False
    ln_pre: bool = True
    """LayerNorm after the embeddings are added; its eps is 1e-5, as in CLIP."""
    activation: Activation = "quick_gelu"
    norm_eps: float = 1e-6
    """eps of the blocks' norms and of the last one; both papers use 1e-6, CLIP itself 1e-5."""
    gated_time: bool = False
    """Scale temporal attention by tanh of a scalar that starts at 0."""
    time_init: TimeInit = "zeros"
    """`zeros`: temporal attention starts as exactly 0, as published for inflated image models. Its
    weights then receive rounding noise instead of a gradient (the input gradient of a LayerNorm
    sums to 0 over channels), which Adam blows up: a tower trained from scratch wants `rand`."""
    position_std: float = 0.02
    """Spread of the spatial positions at the start."""
    temporal_std: float = 0.0
    """Spread of the temporal embedding at the start. Published 0 suits an inflated image model;
    from scratch, frames without a mark are alike, and their order is learned late or never."""
    drop_path: float = 0.0
    """Rate of the last block; earlier blocks grow linearly from 0."""
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be built."""
        _require_name(self, "space_time")
        _require_positive(self, "image_size", "patch_size", "width", "depth", "heads", "num_frames")
        _require_heads(self.width, self.heads)
        _require_patches(self)
        _require(self.mlp_ratio > 0, "mlp_ratio", self.mlp_ratio, "above 0")
        _require(self.norm_eps > 0, "norm_eps", self.norm_eps, "above 0")
        for spread in ("position_std", "temporal_std"):
            _require(getattr(self, spread) >= 0, spread, getattr(self, spread), "0 or more")
        _require_rate(self, "drop_path")
        _require_choice(self, "activation", Activation)
        _require_choice(self, "time_init", TimeInit)

    @property
    def patches_per_frame(self) -> int:
        """Patch tokens of one frame."""
        return (self.image_size // self.patch_size) ** 2

    def build(self) -> SpaceTimeTransformer:
        """Make the tower with fresh weights."""
        from egovl.models.video_transformer import SpaceTimeTransformer

        return SpaceTimeTransformer(self)


TSF_BASE = VideoTowerConfig()
TSF_LARGE = VideoTowerConfig(patch_size=14, width=1024, depth=24, heads=16)
TSF_LARGE_336 = VideoTowerConfig(image_size=336, patch_size=14, width=1024, depth=24, heads=16)
TIMM_STYLE: Mapping[str, Any] = {"patch_bias": True, "ln_pre": False, "activation": "gelu"}
"""Fields of the EgoVLP style: `dataclasses.replace(TSF_BASE, **TIMM_STYLE)`."""


@dataclass(frozen=True)
class ImageTowerConfig:
    """CLIP's image transformer on each frame, features averaged (LaViLa spec 2.4)."""

    name: Literal["clip_vit"] = "clip_vit"
    image_size: int = 224
    """Side of the square input, pixels."""
    patch_size: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    num_frames: int = 4
    """Frames of a clip where its cost is counted; the tower takes any number."""
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be built."""
        _require_name(self, "clip_vit")
        _require_positive(self, "image_size", "patch_size", "width", "depth", "heads", "num_frames")
        _require_heads(self.width, self.heads)
        _require_patches(self)

    @property
    def patches_per_frame(self) -> int:
        """Patch tokens of one frame."""
        return (self.image_size // self.patch_size) ** 2

    def build(self) -> ImageTransformer:
        """Make the tower with fresh weights."""
        from egovl.models.image_transformer import ImageTransformer

        return ImageTransformer(self)


CLIP_VIT_B32 = ImageTowerConfig(patch_size=32)
CLIP_VIT_B16 = ImageTowerConfig()
CLIP_VIT_L14 = ImageTowerConfig(patch_size=14, width=1024, depth=24, heads=16)
CLIP_VIT_L14_336 = ImageTowerConfig(image_size=336, patch_size=14, width=1024, depth=24, heads=16)

VideoConfig = VideoTowerConfig | ImageTowerConfig

VIDEO_TOWERS: Mapping[str, type] = {"space_time": VideoTowerConfig, "clip_vit": ImageTowerConfig}
"""Value of the field `name` of a video section -> its config class."""


@dataclass(frozen=True)
class TextTowerConfig:
    """CLIP's text transformer: pre-norm, QuickGELU, causal, read at the end-of-text token."""

    name: Literal["clip_text"] = "clip_text"
    vocab_size: int = 49408
    context_length: int = 77
    """The longest text, tokens; shorter inputs use the first positions."""
    width: int = 512
    heads: int = 8
    depth: int = 12
    causal: bool = True

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be built."""
        _require_name(self, "clip_text")
        _require_positive(self, "vocab_size", "context_length", "width", "heads", "depth")
        _require_heads(self.width, self.heads)

    def build(self) -> TextTransformer:
        """Make the tower with fresh weights."""
        from egovl.models.text_transformer import TextTransformer

        return TextTransformer(self)


@dataclass(frozen=True)
class HFTextConfig:
    """DistilBERT, read at token 0. Sizes default to distilbert-base-uncased."""

    name: Literal["distilbert"] = "distilbert"
    folder: Path | None = None
    """A local Hugging Face folder (config.json and weights); it then decides every size, and may
    hold another encoder: BERT gives its pooled output (EgoVLP 2.2), any other its token 0."""
    vocab_size: int = 30522
    context_length: int = 512
    width: int = 768
    heads: int = 12
    depth: int = 6
    hidden_width: int = 3072
    dropout: float = 0.1
    attention_dropout: float = 0.1

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be built."""
        _require_name(self, "distilbert")
        _require_positive(
            self, "vocab_size", "context_length", "width", "heads", "depth", "hidden_width"
        )
        _require_heads(self.width, self.heads)
        _require_rate(self, "dropout", "attention_dropout")

    def build(self) -> HFTextTransformer:
        """Make the tower, with the folder's weights if one is named."""
        from egovl.models.hf_text import HFTextTransformer

        return HFTextTransformer(self)


TextConfig = TextTowerConfig | HFTextConfig

TEXT_TOWERS: Mapping[str, type] = {"clip_text": TextTowerConfig, "distilbert": HFTextConfig}
"""Value of the field `name` of a text section -> its config class."""


@dataclass(frozen=True)
class DualEncoderConfig:
    """A video tower and a text tower that meet in one embedding space."""

    name: Literal["dual_encoder"] = "dual_encoder"
    video: VideoConfig = field(default_factory=VideoTowerConfig)
    text: TextConfig = field(default_factory=TextTowerConfig)
    embed_dim: int = 256
    """Width of both embeddings; the towers' own widths when `projection` is `identity`."""
    projection: Projection = "linear"
    """`linear`: matrices without bias (LaViLa); `frozen_in_time`: Linear for video, ReLU and Linear
    for text (EgoVLP's `minimal`); `identity`: none."""
    normalize: bool = True
    """Embeddings of length 1 from `forward`. EgoVLP leaves this to whoever compares them."""
    temperature_init: float = 0.07
    learn_temperature: bool = True
    pseudo_temperature_init: float | None = None
    """Start of the second temperature, for pseudo-labelled pairs (loss `ssl_clip`); null: none."""
    learn_pseudo_temperature: bool = False

    def __post_init__(self) -> None:
        """Refuse contradictions."""
        _require_name(self, "dual_encoder")
        _require_positive(self, "embed_dim")
        _require_choice(self, "projection", Projection)
        _require(self.temperature_init > 0, "temperature_init", self.temperature_init, "above 0")
        pseudo = self.pseudo_temperature_init
        _require(pseudo is None or pseudo > 0, "pseudo_temperature_init", pseudo, "above 0")

    def build(self) -> DualEncoder:
        """Make the model with fresh weights."""
        from egovl.models.dual_encoder import DualEncoder

        return DualEncoder(self)


@dataclass(frozen=True)
class ClassifierConfig:
    """A video tower with one linear head for each label, read off its CLS feature.

    LaViLa spec 2.7; EgoVLP's state change and keyframe models are one head without dropout.
    """

    heads: dict[str, int]
    """Label -> number of classes, in the order of the published heads: EK-100 has verb 97, noun
    300, action 3806."""
    name: Literal["classifier"] = "classifier"
    video: VideoConfig = field(default_factory=VideoTowerConfig)
    dropout: float = 0.5
    """Of the feature in training, drawn for each head alone."""
    head_std: float | None = 0.01
    """Spread of a head's weights at the start; null: as torch draws a linear layer (EgoVLP)."""

    def __post_init__(self) -> None:
        """Refuse heads that cannot be built."""
        _require_name(self, "classifier")
        _require(bool(self.heads), "heads", self.heads, "one label with its classes, or more")
        for label, classes in self.heads.items():
            _require(classes >= 1, f"heads.{label}", classes, "at least 1")
            _require("." not in label, "heads", label, "a name without a dot")
        _require_rate(self, "dropout")
        std = self.head_std
        _require(std is None or std >= 0, "head_std", std, "0 or more")

    def build(self) -> Classifier:
        """Make the model with fresh weights."""
        from egovl.models.classifier import Classifier

        return Classifier(self)
