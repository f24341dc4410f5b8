"""What flows from annotations to a batch: where frames come from, what a sample says.

Shapes: ``B`` samples, ``K`` clips each, ``C`` channels, ``T`` frames, ``H W`` pixels, ``L`` tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

Label = int | float | Sequence[int] | Sequence[float]


class RandomSource(Protocol):
    """Random numbers of one sample."""

    def integer(self, low: int, high: int) -> int:
        """Integer of the closed range."""
        ...

    def uniform(self, low: float, high: float) -> float:
        """Number of ``[low, high)``."""
        ...

    def choose(self, count: int, wanted: int) -> list[int]:
        """``wanted`` different numbers of ``0 .. count - 1``."""
        ...


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of video time in seconds, ``0 <= start_sec < end_sec``.

    An endless one reaches to the end of its file.
    """

    start_sec: float
    end_sec: float

    def __post_init__(self) -> None:
        if not 0 <= self.start_sec < self.end_sec:
            raise ValueError(
                f"span {self.start_sec} .. {self.end_sec} s: needs 0 <= start < end; "
                "correct or drop the annotation row"
            )


@dataclass(frozen=True, slots=True)
class VideoSource:
    """One video, as a whole file or as a folder of chunks of ``chunk_sec`` seconds.

    Attributes:
        path: The file, or the folder that holds the chunks.
        chunk_sec: Length of a chunk; None for a whole file.
        chunk_names: ``index``: ``0.mp4, 1.mp4`` (EgoVLP); ``start``: ``0.mp4, 300.mp4`` (LaViLa).
        fps: Rate that turns seconds into frame numbers; None reads it from the file.
        seek_offset: Added to every frame number before reading. EgoVLP's published numbers were
            produced with -1 (parity: egovlp ``frame_sampling``).
        legacy_boundary: EgoVLP reads a frame that lies exactly on a chunk boundary from the
            beginning of the first chunk.
        legacy_outside: LaViLa and EgoVLP repeat the last frame for a span behind the video's end,
            LaViLa wraps a clip over more than two chunks; off, both are handled or refused.
        rounding: How the segment rule turns a whole file's seconds into frames. ``duration``: start
            rounded, duration truncated, at least one frame each; ``outward``: start rounded, end
            rounded up (LaViLa's EK-100); ``none``: the end stays fractional (its Charades-Ego).
        legacy_wrap_sec: HierVL reads HowTo100M's whole files as if their frame numbers began anew
            after this time (parity: hiervl ``data``).
    """

    path: Path
    chunk_sec: float | None = None
    chunk_names: Literal["index", "start"] = "index"
    fps: float | None = 30.0
    seek_offset: int = 0
    legacy_boundary: bool = False
    legacy_outside: bool = False
    rounding: Literal["duration", "outward", "none"] = "duration"
    legacy_wrap_sec: float | None = None

    def chunk_of(self, time_sec: float) -> int:
        """Number of the chunk that holds this time; 0 for a whole file."""
        return 0 if self.chunk_sec is None else int(time_sec // self.chunk_sec)

    def chunk_file(self, chunk: int) -> Path:
        """Path of a chunk, which need not exist."""
        if self.chunk_sec is None:
            return self.path
        name = chunk if self.chunk_names == "index" else round(chunk * self.chunk_sec)
        return self.path / f"{name}.mp4"

    def place_of(self, frame: int) -> tuple[Path, int]:
        """File and frame number in it of a frame of the whole video, at ``fps`` or 30 a second."""
        if self.chunk_sec is None:
            return self.path, frame
        chunk, local = divmod(frame, round(self.chunk_sec * (self.fps or 30.0)))
        return self.chunk_file(chunk), local


@dataclass(frozen=True, slots=True)
class ClipRef:
    """Where the frames of one clip come from.

    Attributes:
        video: The video.
        span: Its stretch of time.
        frame_range: First frame and one past the last, where the annotation counts frames; then
            the span only names the clip.
        frames: Exactly these frames, where the annotation fixes them.
    """

    video: VideoSource
    span: Span
    frame_range: tuple[int, int] | None = None
    frames: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """What a dataset returns: references and words, no pixels and no tokens."""

    index: int
    clips: tuple[ClipRef, ...]
    texts: tuple[str, ...]
    labels: Mapping[str, Label]
    children: tuple[str, ...] = ()
    """Texts of the parts that the text sums up: narrations of a summary."""


class ClipDataset(Protocol):
    """Annotations of clips. Every dataset class fulfils this."""

    @property
    def label_sizes(self) -> Mapping[str, int]:
        """Number of classes of each label that is a list of class ids."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def chunk_of(self, index: int) -> Hashable:
        """Which file a sample is read from; samples of one chunk are read close together."""
        ...


@runtime_checkable
class NumbersChunks(Protocol):
    """A dataset large enough to state the chunks of many samples at once."""

    def chunk_numbers(self, rows: np.ndarray | None = None) -> np.ndarray:
        """``[N]`` int64, equal for samples of one chunk; of some rows, or of all."""
        ...


@runtime_checkable
class OrderedByTime(NumbersChunks, Protocol):
    """A dataset of any size that keeps its rows ordered by video and time."""

    @property
    def time_order(self) -> np.ndarray:
        """``[N]`` rows by video, then start; mapped, not held."""
        ...


@runtime_checkable
class HasPartners(Protocol):
    """A dataset that may add a second sample, chosen at random, to each one of a training batch."""

    @property
    def has_partners(self) -> bool:
        """Whether it does."""
        ...

    def partner(self, index: int, draw: Callable[[int, int], int]) -> int:
        """The added sample; ``draw(low, high)`` gives an integer of the closed range."""
        ...


@runtime_checkable
class DrawsSamples(Protocol):
    """A dataset whose training sample is partly random: its text with its weight, its window."""

    def draw_sample(self, index: int, random: RandomSource) -> Sample:
        """The sample of one visit."""
        ...


@runtime_checkable
class OrdersEvaluation(Protocol):
    """A dataset that knows in which order its evaluation is cheapest."""

    def evaluation_order(self) -> Sequence[int]:
        """Every row once."""
        ...


@runtime_checkable
class ReadsBatches(Protocol):
    """A dataset whose samples are no clips of video: it makes its own batches."""

    def batch_reader(self, config: Any, seed: int) -> Any:
        """Maps a ``BatchPlan`` to a ``LoadedBatch``; sent to the loading processes."""
        ...


@runtime_checkable
class ReadsItems(Protocol):
    """A dataset whose samples are more than clips and one text: it reads and joins them itself."""

    def read_item(self, index: int, config: Any, random: RandomSource | None) -> Any:
        """One sample, from files; without ``random`` as in evaluation.

        Raises:
            DecodeError: It cannot be read.
        """
        ...

    def join_items(self, items: Sequence[Any], tokenizer: Any) -> Batch:
        """Samples as a batch."""
        ...


@dataclass(slots=True)
class Batch:
    """What a step gets. Rows follow ``index``.

    Attributes:
        index: ``[B]`` int64, row of the dataset.
        video: ``[B, K, C, T, H, W]`` uint8, or float32 0..255 on the float path.
        tokens: ``[B, L]`` int64.
        token_mask: ``[B, L]`` bool, True where a token stands.
        labels: Each ``[B]`` or ``[B, size]``.
        narrations: ``[B, K, L]`` int64, tokens of the parts of each text; rows with them are
            videos with summaries, rows without are clips.
        narration_mask: ``[B, K, L]`` bool.
    """

    index: Tensor
    video: Tensor | None
    tokens: Tensor | None
    token_mask: Tensor | None
    labels: dict[str, Tensor]
    narrations: Tensor | None = None
    narration_mask: Tensor | None = None

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        """Copy to a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Copy to page-locked memory, from which a copy to the device can overlap with compute."""
        return self._map(lambda tensor: tensor.pin_memory())

    def __getitem__(self, rows: slice) -> Batch:
        """Some rows, as views."""
        return self._map(lambda tensor: tensor[rows])

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        def optional(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else change(tensor)

        return Batch(
            index=change(self.index),
            video=optional(self.video),
            tokens=optional(self.tokens),
            token_mask=optional(self.token_mask),
            labels={name: change(label) for name, label in self.labels.items()},
            narrations=optional(self.narrations),
            narration_mask=optional(self.narration_mask),
        )
