"""Sizes and options of text decoders and of the narrator; standard library only.

A published variant is a value here (`GPT2_XL`), not a name in code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from egovl.models.configs import VideoConfig, VideoTowerConfig

if TYPE_CHECKING:
    from egovl.models.hf_decoder import GPT2
    from egovl.models.narrator import Narrator
    from egovl.models.seq2seq import Seq2Seq


def _require(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise ValueError(f"{name}={value!r} is not allowed: it must be {allowed}")


@dataclass(frozen=True)
class GPT2Config:
    """GPT-2 with cross-attention in every k-th layer (LaViLa spec 2.6). Sizes default to gpt2."""

    name: Literal["gpt2"] = "gpt2"
    vocab_size: int = 50257
    context_length: int = 1024
    """Rows of the position table: the longest text."""
    width: int = 768
    depth: int = 12
    heads: int = 12
    norm_eps: float = 1e-5
    dropout: float = 0.1
    """Of embeddings, attention and branches; active in training where the decoder is frozen too."""
    cross_every: int | None = None
    """Layers 0, k, 2k ... look at the clip; null: a language model alone."""
    gated: bool = True
    """Scale what the clip adds by tanh of numbers that start at 0: training starts as GPT-2."""
    frozen: bool = False
    """Train only what looks at the clip."""
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be built."""
        _require(self.name == "gpt2", "name", self.name, "gpt2")
        for name in ("vocab_size", "context_length", "width", "depth", "heads"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        divides = self.width % self.heads == 0
        _require(divides, "heads", self.heads, f"a divisor of width={self.width}")
        every = self.cross_every
        _require(every is None or every >= 1, "cross_every", every, "at least 1, or null")
        _require(0 <= self.dropout < 1, "dropout", self.dropout, "at least 0 and below 1")

    def attends_at(self, layer: int) -> bool:
        """Whether this layer looks at the clip."""
        return self.cross_every is not None and layer % self.cross_every == 0

    def build(self) -> GPT2:
        """Make the decoder with fresh weights."""
        from egovl.models.hf_decoder import GPT2

        return GPT2(self)


GPT2_BASE = GPT2Config()
GPT2_MEDIUM = GPT2Config(width=1024, depth=24, heads=16)
GPT2_LARGE = GPT2Config(width=1280, depth=36, heads=20)
GPT2_XL = GPT2Config(width=1600, depth=48, heads=25)


@dataclass(frozen=True)
class PoolerConfig:
    """Queries that read the video tower's tokens for the decoder."""

    queries: int = 256
    heads: int = 12
    head_width: int = 64
    norm_context: bool = True
    parallel_mlp: int = 0
    """Hidden factor of a SwiGLU branch beside the attention; 0: none, as released."""

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be built."""
        for name in ("queries", "heads", "head_width"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        _require(self.parallel_mlp >= 0, "parallel_mlp", self.parallel_mlp, "0 or more")


@dataclass(frozen=True)
class NarratorConfig:
    """A video-conditioned language model: tower, attention pooler, decoder (LaViLa spec 2.6)."""

    name: Literal["narrator"] = "narrator"
    video: VideoConfig = field(default_factory=VideoTowerConfig)
    pooler: PoolerConfig = field(default_factory=PoolerConfig)
    decoder: GPT2Config = field(default_factory=lambda: GPT2Config(cross_every=1, frozen=True))
    freeze_video: bool = True
    """Nothing of the tower trains, but what `train_time` names."""
    train_time: bool = False
    """Of a frozen space-time tower, what acts in time trains all the same."""

    def __post_init__(self) -> None:
        """Refuse contradictions."""
        _require(self.name == "narrator", "name", self.name, "narrator")
        every = self.decoder.cross_every
        _require(every is not None, "decoder.cross_every", every, "set: a narrator sees its clip")
        fits = self.freeze_video or not self.train_time
        _require(fits, "train_time", self.train_time, "false unless freeze_video is true")

    def build(self) -> Narrator:
        """Make the model with fresh weights."""
        from egovl.models.narrator import Narrator

        return Narrator(self)


@dataclass(frozen=True)
class Seq2SeqConfig:
    """A T5, for rephrasing. Sizes default to t5-large; a folder of weights brings its own."""

    name: Literal["seq2seq"] = "seq2seq"
    vocab_size: int = 32128
    width: int = 1024
    depth: int = 24
    heads: int = 16
    hidden_width: int = 4096
    start_id: int = 0
    """What the decoder begins with."""
    end_id: int = 1
    pad_id: int = 0

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be built."""
        _require(self.name == "seq2seq", "name", self.name, "seq2seq")
        for name in ("vocab_size", "width", "depth", "heads", "hidden_width"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        divides = self.width % self.heads == 0
        _require(divides, "heads", self.heads, f"a divisor of width={self.width}")

    def build(self) -> Seq2Seq:
        """Make the model with fresh weights."""
        from egovl.models.seq2seq import Seq2Seq

        return Seq2Seq(self)
