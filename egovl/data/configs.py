"""Config of the data side. Standard library only: `build` imports what it needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from egovl.data.types import VideoSource

if TYPE_CHECKING:
    from egovl.data.caption_tokens import CaptionTokenizer
    from egovl.data.datasets.egoclip import EgoClip
    from egovl.data.datasets.egomcq import EgoMCQ
    from egovl.data.prompt_tokens import PromptTokenizer
    from egovl.data.text import CLIPTokenizer, HFTokenizer

PUBLISHED_CHUNK_SEC = {"egovlp": 600.0, "lavila": 300.0}


def _check(holds: bool, field: str, value: object, allowed: str) -> None:
    if not holds:
        raise ValueError(f"{field} is {value!r}; it must be {allowed}")


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """How clips are chosen, decoded, cropped and put into batches."""

    batch_size: int = 64
    """Samples per training step over all ranks."""
    eval_batch_size: int = 8
    """Samples per evaluation batch on each rank."""
    num_workers: int = 2
    """Loading processes per rank; 0 loads in the training process."""
    pixels: bool = True
    """Off, no video is opened: for tasks on the texts alone."""
    num_frames: int = 4
    image_size: int = 224
    """Side of the square crop, pixels."""
    sampling: Literal["segment", "range", "window"] = "segment"
    """segment: LaViLa's overlapping segments; range: EgoVLP's disjoint ranges; window: every
    ``stride``-th frame of a window of a whole file (LaViLa's EGTEA)."""
    stride: int = 2
    """Frames between two neighbours of a window."""
    num_clips: int = 1
    """Evaluation reads this many clips of every sample, spread over its time."""
    num_crops: int = 1
    """Evaluation takes 1 crop, the 3 along the long side, or 6: these and their mirror images."""
    legacy_windows: bool = False
    """LaViLa: windows start at frame 0, what a short clip lacks is black (parity: sampling)."""
    legacy_ranges: bool = False
    """EgoVLP as published: never the last frame of a range, clips under 2 frames per range fail."""
    scale: tuple[float, float] = (0.5, 1.0)
    """Share of the picture that a training crop covers."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip_probability: float = 0.0
    shuffle_frames: bool = False
    """Probe: a clip's frames in random order, in training and evaluation; what is still answered
    rightly does not need to know the order."""
    eval_resize: int | None = None
    """Short side and centre crop of evaluation before the last resize (EgoVLP: 256)."""
    antialias: bool = False
    """The released models were trained without."""
    float_pixels: bool = False
    """Resize in float32 as published; off resizes in uint8, within one grey level, faster."""
    clips_per_chunk: int = 8
    """Samples of an opened chunk that are read close together."""
    shuffle_window: int = 2048
    """Samples among which the order is fully random."""
    open_readers: int = 32
    """Video files that each loading process keeps open."""
    prefetch: int = 2
    """Batches that each loading process works ahead."""
    on_error: Literal["raise", "skip"] = "raise"
    """An unreadable clip: stop; or count it, and replace it (evaluation: leave it out)."""
    max_bad_fraction: float = 0.01
    """With skip: stop when more than this share of a rank's samples is unreadable."""
    decode_timeout_sec: float = 30.0
    """Longest time for the frames of one file."""
    batch_timeout_sec: float = 600.0
    """Longest wait for a loading process; then it counts as hung."""
    backend: Literal["auto", "pyav", "decord", "torchcodec"] = "auto"

    def __post_init__(self) -> None:
        for name in (
            "batch_size",
            "eval_batch_size",
            "num_frames",
            "image_size",
            "clips_per_chunk",
            "shuffle_window",
            "open_readers",
            "prefetch",
            "stride",
            "num_clips",
        ):
            _check(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        _check(self.num_workers >= 0, "num_workers", self.num_workers, "0 or more")
        _check(0 < self.scale[0] <= self.scale[1] <= 1, "scale", self.scale, "0 < low <= high <= 1")
        _check(0 < self.ratio[0] <= self.ratio[1], "ratio", self.ratio, "0 < low <= high")
        _check(
            0 <= self.flip_probability <= 1, "flip_probability", self.flip_probability, "in 0 .. 1"
        )
        _check(
            0 <= self.max_bad_fraction <= 1, "max_bad_fraction", self.max_bad_fraction, "in 0 .. 1"
        )
        for name in ("decode_timeout_sec", "batch_timeout_sec"):
            _check(getattr(self, name) > 0, name, getattr(self, name), "more than 0 seconds")
        resize = self.eval_resize
        _check(
            resize is None or resize >= self.image_size,
            "eval_resize",
            resize,
            f"at least image_size ({self.image_size})",
        )
        _check(self.num_crops in (1, 3, 6), "num_crops", self.num_crops, "1, 3 or 6")
        _check(
            self.num_crops == 1 or resize is None,
            "num_crops",
            self.num_crops,
            "1 with eval_resize: several crops are cut from the short side itself",
        )
        rules = ("segment", "range", "window")
        _check(self.sampling in rules, "sampling", self.sampling, f"one of {rules}")
        _check(self.on_error in ("raise", "skip"), "on_error", self.on_error, "raise or skip")
        backends = ("auto", "pyav", "decord", "torchcodec")
        _check(self.backend in backends, "backend", self.backend, f"one of {backends}")


@dataclass(frozen=True, kw_only=True)
class ChunkedVideoConfig:
    """Where the videos of an annotation file lie and how its seconds become frames."""

    video_root: Path
    layout: Literal["egovlp", "lavila", "file"] = "egovlp"
    """<root>/ then egovlp: <uid>/<k>.mp4; lavila: <uid>.mp4/<start_sec>.mp4; file: <uid>.mp4."""
    chunk_sec: float | None = None
    """Seconds per chunk; None is the layout's published value, 600 or 300."""
    manifest: Path | None = None
    """manifest.jsonl of `prepare videos`: rows of videos that it lacks are left out."""
    fps: Literal["assume30", "probe"] = "assume30"
    """The published readers take 30 frames per second for granted; probe asks the file."""
    seek_offset: int = 0
    """EgoVLP's numbers were produced with -1: one frame early (parity: egovlp frame_sampling)."""
    legacy_boundary: bool = False
    """EgoVLP: a frame exactly on a chunk boundary comes from the start of the first chunk."""
    legacy_outside: bool = False
    """Both papers: a clip behind the end of its video repeats the last frame; off: an error."""

    def __post_init__(self) -> None:
        layouts = ("egovlp", "lavila", "file")
        _check(self.layout in layouts, "layout", self.layout, f"one of {layouts}")
        _check(self.fps in ("assume30", "probe"), "fps", self.fps, "assume30 or probe")
        _check(self.seek_offset in (0, -1), "seek_offset", self.seek_offset, "0 or -1")
        _check(
            self.chunk_sec is None or (self.chunk_sec > 0 and self.layout != "file"),
            "chunk_sec",
            self.chunk_sec,
            "more than 0 and unset for layout file",
        )

    def source(self, video_uid: str) -> VideoSource:
        """The video of this id."""
        folder = self.layout == "egovlp"
        return VideoSource(
            path=self.video_root / (video_uid if folder else f"{video_uid}.mp4"),
            chunk_sec=self.seconds_per_chunk(),
            chunk_names="index" if folder else "start",
            fps=30.0 if self.fps == "assume30" else None,
            seek_offset=self.seek_offset,
            legacy_boundary=self.legacy_boundary,
            legacy_outside=self.legacy_outside,
        )

    def seconds_per_chunk(self) -> float | None:
        """Seconds per chunk, None for whole files."""
        return None if self.layout == "file" else self.chunk_sec or PUBLISHED_CHUNK_SEC[self.layout]

    def check_root(self) -> None:
        """Refuse a missing video folder before anything is loaded."""
        if not self.video_root.is_dir():
            raise FileNotFoundError(
                f"video_root {self.video_root} is not a folder; set it in configs/paths.yaml or "
                "with an override"
            )


@dataclass(frozen=True, kw_only=True)
class EgoClipConfig(ChunkedVideoConfig):
    """EgoClip: narrated clips from a tab separated table."""

    annotations: Path
    """egoclip.csv"""
    name: Literal["egoclip"] = "egoclip"
    neg_window_sec: float | None = None
    """Adds to each sample one of the same video within this window (EgoVLP: 60); None: off."""
    legacy_self_negative: bool = False
    """EgoVLP: the added sample may be the sample itself (parity: egovlp egoclip_items)."""
    on_bad_row: Literal["raise", "skip"] = "raise"
    """A row that cannot be read: stop naming file and line, or skip and count it."""
    cache_folder: Path | None = None
    """Where the packed table is kept; None: beside the annotation file."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.on_bad_row in ("raise", "skip"), "on_bad_row", self.on_bad_row, "raise or skip")
        _check(
            self.neg_window_sec is None or self.neg_window_sec > 0,
            "neg_window_sec",
            self.neg_window_sec,
            "more than 0 seconds, or unset",
        )

    def build(self) -> EgoClip:
        """Read the table, or its packed copy."""
        from egovl.data.datasets.egoclip import EgoClip

        return EgoClip(self)


@dataclass(frozen=True, kw_only=True)
class EgoMCQConfig(ChunkedVideoConfig):
    """EgoMCQ: a query and five clips, one of which shows it."""

    annotations: Path
    """egomcq.json"""
    name: Literal["egomcq"] = "egomcq"

    def build(self) -> EgoMCQ:
        """Read the questions."""
        from egovl.data.datasets.egomcq import EgoMCQ

        return EgoMCQ(self)


@dataclass(frozen=True, kw_only=True)
class CLIPBPEConfig:
    """CLIP's byte pair tokenizer."""

    name: Literal["clip_bpe"] = "clip_bpe"
    context_length: int = 77
    vocabulary: Path | None = None
    """bpe_simple_vocab_16e6.txt.gz; None: the copy inside the open_clip_torch wheel."""
    vocab_size: int | None = None
    """Keeps only the most frequent merges, for small models; None: all 49408 ids."""
    legacy_truncate: bool = False
    """LaViLa: a text that is too long loses its end token (parity: lavila tokenizers)."""

    def __post_init__(self) -> None:
        _check(self.context_length >= 2, "context_length", self.context_length, "at least 2")
        _check(
            self.vocab_size is None or 514 <= self.vocab_size <= 49408,
            "vocab_size",
            self.vocab_size,
            "in 514 .. 49408: 512 bytes, start, end, then merges",
        )

    def build(self) -> CLIPTokenizer:
        """Read the vocabulary."""
        from egovl.data.text import load_clip_tokenizer

        return load_clip_tokenizer(self)


@dataclass(frozen=True, kw_only=True)
class HFTokenizerConfig:
    """A Hugging Face tokenizer from a local folder; nothing is fetched."""

    folder: Path
    name: Literal["hf"] = "hf"
    context_length: int | None = None
    """Longest text in tokens; None: the tokenizer's own maximum."""
    legacy_truncate: bool = False
    """LaViLa: a text that is too long loses its end token (parity: lavila tokenizers)."""

    def __post_init__(self) -> None:
        length = self.context_length
        _check(length is None or length >= 2, "context_length", length, "at least 2")

    def build(self) -> HFTokenizer:
        """Read the tokenizer files."""
        from egovl.data.text import load_hf_tokenizer

        return load_hf_tokenizer(self)


@dataclass(frozen=True, kw_only=True)
class CaptionTokenizerConfig:
    """GPT-2's tokens for captions, from a local folder with vocab.json and merges.txt."""

    folder: Path
    name: Literal["gpt2"] = "gpt2"
    context_length: int = 77
    legacy_decode: bool = False
    """LaViLa: ids without an end token lose their last (parity: lavila tokenizers)."""

    def __post_init__(self) -> None:
        _check(self.context_length >= 3, "context_length", self.context_length, "at least 3")

    def build(self) -> CaptionTokenizer:
        """Read the tokenizer files."""
        from egovl.data.caption_tokens import load_caption_tokenizer

        return load_caption_tokenizer(
            self.folder, self.context_length, legacy_decode=self.legacy_decode
        )


@dataclass(frozen=True, kw_only=True)
class PromptTokenizerConfig:
    """GPT-NeoX's tokens for prompts, from a local tokenizer.json."""

    file: Path
    name: Literal["prompt"] = "prompt"
    context_length: int = 2048
    legacy_truncate: bool = False
    """A long prompt is cut before its begin and end are put around it, two tokens too many."""

    def __post_init__(self) -> None:
        _check(self.context_length >= 3, "context_length", self.context_length, "at least 3")

    def build(self) -> PromptTokenizer:
        """Read the tokenizer."""
        from egovl.data.prompt_tokens import load_prompt_tokenizer

        return load_prompt_tokenizer(
            self.file, self.context_length, legacy_truncate=self.legacy_truncate
        )


TOKENIZERS = {
    "clip_bpe": CLIPBPEConfig,
    "gpt2": CaptionTokenizerConfig,
    "hf": HFTokenizerConfig,
    "prompt": PromptTokenizerConfig,
}
