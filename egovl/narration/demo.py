"""Narrate one video file: clips of a few seconds, a text for each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from egovl.convert.own import read_weights_file
from egovl.convert.released import convert_released
from egovl.data.configs import CaptionTokenizerConfig, ChunkedVideoConfig, LoaderConfig
from egovl.data.image_reader import encode_jpeg
from egovl.data.loader import build_eval_loader
from egovl.data.reader_cache import ReaderCache
from egovl.data.types import VideoSource
from egovl.models.decoder_configs import NarratorConfig
from egovl.models.generation.configs import GenerationConfig
from egovl.models.narrator import Narrator
from egovl.narration.clips import Intervals, uncovered
from egovl.narration.configs import NarrateConfig, UncoveredConfig
from egovl.narration.narrate import Narrate
from egovl.narration.subtitles import TimedLine
from egovl.recipe import load_recipe, model_config
from egovl.run import load_run

_BATCH = 4
_PICTURE_QUALITY = 80


@dataclass(frozen=True)
class DemoOptions:
    """How a video is cut and told."""

    seconds: float = 4.0
    samples: int = 1
    greedy: bool = False
    seed: int = 0


@dataclass(frozen=True)
class _Weights:
    """A narrator, where its tokenizer lies if the checkpoint says it, and its pixel statistics."""

    model: Narrator
    tokenizer: Any
    normalization: str


@dataclass(frozen=True, kw_only=True)
class _OneFile(ChunkedVideoConfig):
    """The file itself, whatever the name asked for."""

    def source(self, video_uid: str) -> VideoSource:
        """The video of any id."""
        return VideoSource(path=self.video_root, fps=None)

    def seconds_per_chunk(self) -> float | None:
        """A whole file."""
        return None


def narrate_video(
    video: Path, checkpoint: Path, tokenizer: Path | None, options: DemoOptions
) -> list[TimedLine]:
    """Texts of a video's clips, in order.

    Raises:
        FileNotFoundError: no weights or tokenizer there; it says what to name.
        ValueError: the checkpoint holds no narrator.
        DecodeError: the video cannot be read.
    """
    found = _load(checkpoint)
    tower = found.model.config.video
    loader = LoaderConfig(
        eval_batch_size=_BATCH,
        num_workers=0,
        num_frames=tower.num_frames,
        image_size=tower.image_size,
    )
    facts = ReaderCache(loader.backend, 1, loader.decode_timeout_sec).facts(video)
    length = facts.num_frames / facts.fps
    rule = UncoveredConfig(min_sec=min(0.1, options.seconds), max_sec=options.seconds)
    places = uncovered([(video.stem, length, length)], rule)
    clips = Intervals(_OneFile(video_root=video), places)
    config = GenerationConfig(
        strategy="greedy" if options.greedy else "sample",
        top_p=None if options.greedy else 0.95,
        temperature=1.0 if options.greedy else 0.7,
        num_return_sequences=options.samples,
        max_new_tokens=min(76, found.model.config.decoder.context_length - 1),
    )
    job = Narrate(NarrateConfig(generation=config, normalization=found.normalization))  # type: ignore[arg-type]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    job.start(found.model.to(device).eval(), _tokenizer(found, tokenizer), device)
    lines: list[TimedLine] = []
    for batch in build_eval_loader(clips, loader, None, rank=0, world_size=1):
        assert batch.video is not None
        pixels = batch.video[:, 0]
        generator = torch.Generator(device).manual_seed(options.seed + int(batch.index[0]))
        with torch.no_grad():
            written = job.narrate(pixels.to(device), generator)
        for row, record, frames in zip(batch.index.tolist(), written, pixels, strict=True):
            place, texts = places[row], tuple(map(_one_line, record["texts"]))
            lines.append(TimedLine(place.start_sec, place.end_sec, texts, _pictures(frames)))
    return lines


def _pictures(frames_CTHW: Tensor) -> tuple[bytes, ...]:
    pictures = frames_CTHW.to(torch.uint8).permute(1, 2, 3, 0).numpy()
    return tuple(encode_jpeg(picture, _PICTURE_QUALITY) for picture in pictures)


def _one_line(text: str) -> str:
    """A text that breaks neither a line nor a subtitle, whatever was written."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _load(checkpoint: Path) -> _Weights:
    if checkpoint.is_dir():
        recipe, model, _ = load_run(checkpoint, load_recipe)
        normalization = recipe.train.task.normalization if recipe.train else "clip"
        return _Weights(_narrator(model, checkpoint), recipe.tokenizer, normalization)
    if not checkpoint.is_file():
        raise FileNotFoundError(f"{checkpoint}: no checkpoint and no run folder there")
    if checkpoint.suffix == ".safetensors":
        described, weights = read_weights_file(checkpoint)
        config: Any = model_config(described, checkpoint)
        normalization = "clip"
    else:
        converted = convert_released(checkpoint, "lavila")
        config, weights, normalization = converted.config, converted.weights, "clip_legacy"
    if not isinstance(config, NarratorConfig):
        raise ValueError(f"{checkpoint} holds a {config.name}, not a narrator")
    model = replace(config, video=replace(config.video, gradient_checkpointing=False)).build()
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return _Weights(model, None, normalization)


def _narrator(model: object, where: Path) -> Narrator:
    if not isinstance(model, Narrator):
        raise ValueError(f"{where} holds a {type(model).__name__}, not a narrator")
    return model


def _tokenizer(found: _Weights, folder: Path | None) -> Any:
    if folder is not None:
        return CaptionTokenizerConfig(folder=folder).build()
    if found.tokenizer is None:
        raise FileNotFoundError(
            "this checkpoint names no tokenizer: give --tokenizer DIR with gpt2's vocab.json and "
            "merges.txt"
        )
    return found.tokenizer.build()
