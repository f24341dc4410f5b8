"""Sizes and options of the captioner, as frozen dataclasses; standard library only.

The defaults are the released model on MPT-1B-RedPajama (Egoinstructor spec 2.1, 2.2).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from egovl.models.configs import Activation

if TYPE_CHECKING:
    from egovl.models.captioner.captioner import Captioner


def _require(holds: bool, field_name: str, value: object, allowed: str) -> None:
    if not holds:
        raise ValueError(f"{field_name}={value!r} is not allowed: it must be {allowed}")


def _require_positive(config: object, *names: str) -> None:
    for name in names:
        _require(getattr(config, name) >= 1, name, getattr(config, name), "at least 1")


@dataclass(frozen=True)
class FrameEncoderConfig:
    """CLIP's image transformer, read as patch tokens before its last norm."""

    image_size: int = 224
    """Side of the square input, pixels."""
    patch_size: int = 14
    width: int = 1024
    hidden_width: int = 4096
    depth: int = 24
    heads: int = 16
    activation: Activation = "quick_gelu"
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be built."""
        names = ("image_size", "patch_size", "width", "hidden_width", "depth", "heads")
        _require_positive(self, *names)
        _require(self.width % self.heads == 0, "heads", self.heads, f"a divisor of {self.width}")
        fits = self.image_size % self.patch_size == 0
        _require(fits, "patch_size", self.patch_size, f"a divisor of {self.image_size}")

    @property
    def patches_per_frame(self) -> int:
        """Patch tokens of one frame."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class ResamplerConfig:
    """Perceiver: the patch tokens of all frames of a clip to a few latents."""

    depth: int = 6
    heads: int = 8
    head_width: int = 64
    num_latents: int = 64
    mlp_ratio: int = 4
    max_frames: int | None = 32
    """Rows of the table of frame embeddings; null: none, frames without a mark (image models)."""

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be built."""
        _require_positive(self, "depth", "heads", "head_width", "num_latents", "mlp_ratio")
        frames = self.max_frames
        _require(frames is None or frames >= 1, "max_frames", frames, "at least 1, or null")


@dataclass(frozen=True)
class MediaAttentionConfig:
    """Gated cross-attention from words to the latents of their clip."""

    every: int = 1
    """Before every n-th decoder layer, beginning with the n-th."""
    heads: int = 8
    head_width: int = 64
    mlp_ratio: int = 4

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be built."""
        _require_positive(self, "every", "heads", "head_width", "mlp_ratio")


@dataclass(frozen=True)
class MPTConfig:
    """Decoder in the style of MosaicGPT; the output head is the token table."""

    vocab_size: int = 50432
    width: int = 2048
    depth: int = 24
    heads: int = 16
    mlp_ratio: int = 4
    context_length: int = 2048
    """Longest text, tokens: rows of the position table, and what prompts are cut to."""
    alibi: bool = True
    """Distances as a bias of attention; off, a learned position table."""
    alibi_bias_max: float = 8.0
    qk_norm: bool = True
    """Norms of queries and keys over the full width, before it is split into heads."""
    bias: bool = False
    """Of every linear layer and norm of the decoder."""
    clip_qkv: float | None = None
    """Queries, keys and values are clamped to this magnitude."""
    softmax_scale: float | None = None
    """Of attention; null: head width ** -0.5."""
    logit_scale: float | Literal["inv_sqrt_d_model"] | None = None
    embedding_fraction: float = 1.0
    """Share of the token embeddings' gradient that is kept."""
    low_precision_norm: bool = True
    """Under autocast the block norms run in its type, as published."""
    attention_dropout: float = 0.0
    residual_dropout: float = 0.0
    embedding_dropout: float = 0.0

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be built."""
        names = ("vocab_size", "width", "depth", "heads", "mlp_ratio", "context_length")
        _require_positive(self, *names)
        _require(self.width % self.heads == 0, "heads", self.heads, f"a divisor of {self.width}")
        _require(self.alibi_bias_max > 0, "alibi_bias_max", self.alibi_bias_max, "above 0")
        clip = self.clip_qkv
        _require(clip is None or clip > 0, "clip_qkv", clip, "above 0, or null")
        fraction = self.embedding_fraction
        _require(0 < fraction <= 1, "embedding_fraction", fraction, "above 0 and at most 1")
        for name in ("attention_dropout", "residual_dropout", "embedding_dropout"):
            value = getattr(self, name)
            _require(0 <= value < 1, name, value, "at least 0 and below 1")


@dataclass(frozen=True)
class CaptionerConfig:
    """Frozen frame encoder and decoder, between them a resampler and gated cross-attention."""

    name: Literal["captioner"] = "captioner"
    vision: FrameEncoderConfig = field(default_factory=FrameEncoderConfig)
    resampler: ResamplerConfig = field(default_factory=ResamplerConfig)
    decoder: MPTConfig = field(default_factory=MPTConfig)
    media: MediaAttentionConfig = field(default_factory=MediaAttentionConfig)
    train_all: bool = False
    """Everything learns, for small models from scratch; off: resampler, cross-attention and token
    table, as published."""
    gate_init: float = 0.0
    """Gates at the start; published 0, where the decoder is as it was before."""
    frozen_bf16: bool = False
    """Frozen weights are held in bfloat16: half the memory, other fp32 results."""
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        """Refuse contradictions."""
        _require(self.name == "captioner", "name", self.name, "captioner")
        half = self.frozen_bf16 and self.train_all
        _require(not half, "frozen_bf16", self.frozen_bf16, "false with train_all")

    def build(self) -> Captioner:
        """Make the model with fresh weights."""
        from egovl.models.captioner.captioner import Captioner

        return Captioner(self)
