"""Samples and their pixels to one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from egovl.data.configs import LoaderConfig
from egovl.data.randomness import SampleRandom
from egovl.data.sampling import DrawInteger
from egovl.data.transforms import (
    eval_crop,
    multi_views,
    resize_short_side,
    resized_crop,
    sample_crop_box,
)
from egovl.data.types import Batch, Label, Sample


class Tokenizer(Protocol):
    """Texts to token ids."""

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """``tokens [N, L]`` int64 and ``mask [N, L]`` bool."""
        ...


def crop_clip(
    frames: np.ndarray, config: LoaderConfig, random: SampleRandom | None
) -> list[Tensor]:
    """One training crop with ``random``, all evaluation views without.

    Args:
        frames: ``[T, H, W, 3]`` uint8; in evaluation those of ``num_clips`` clips in a row.
        config: Size and kind of the crop.
        random: Numbers of this clip.

    Returns:
        ``[3, num_frames, image_size, image_size]`` each, uint8 or float32 0..255 by
        ``float_pixels``; clips outermost, the crops of a clip innermost.
    """
    pixels = torch.from_numpy(frames)
    if config.float_pixels:
        pixels = pixels.float()
    if random is not None:
        height, width = pixels.shape[1:3]
        box = sample_crop_box(height, width, random, scale=config.scale, ratio=config.ratio)
        flip = random.uniform(0, 1) < config.flip_probability
        return [resized_crop(pixels, box, config.image_size, flip=flip, antialias=config.antialias)]
    if config.num_crops > 1:
        video = resize_short_side(pixels, config.image_size, antialias=config.antialias)
        return multi_views(
            video,
            frames_per_clip=len(frames) // config.num_clips,
            stride=len(frames) // config.num_clips,
            size=config.image_size,
            num_crops=config.num_crops,
        )
    video = eval_crop(
        pixels, config.image_size, resize=config.eval_resize, antialias=config.antialias
    )
    return list(video.chunk(config.num_clips, dim=1))


def pick_text(texts: Sequence[str], draw: DrawInteger | None) -> str:
    """One of a sample's texts at random; without ``draw`` the first."""
    return texts[draw(0, len(texts) - 1) if draw else 0]


def collate(
    samples: Sequence[Sample],
    videos: Sequence[Sequence[Tensor]],
    texts: Sequence[str],
    tokenizer: Tokenizer | None,
    label_sizes: Mapping[str, int],
) -> Batch:
    """Put samples into one batch.

    Args:
        samples: ``B`` samples with equal label names.
        videos: For each sample its ``K`` clips ``[C, T, H, W]``; none at all leave pixels out.
        texts: The chosen text of each sample.
        tokenizer: None leaves the texts out.
        label_sizes: Labels that are lists of class ids, and how many classes there are.
    """
    tokens, mask = tokenizer(texts) if tokenizer is not None else (None, None)
    return Batch(
        index=torch.tensor([sample.index for sample in samples], dtype=torch.int64),
        video=torch.stack([torch.stack(list(clips)) for clips in videos]) if videos[0] else None,
        tokens=tokens,
        token_mask=mask,
        labels={
            name: _label(name, [sample.labels[name] for sample in samples], label_sizes.get(name))
            for name in samples[0].labels
        },
    )


def _label(name: str, values: Sequence[Label], size: int | None) -> Tensor:
    """``[B]``, ``[B, length]``, or 0/1 rows ``[B, size]`` float32 for lists of class ids."""
    if size is None:
        lengths = {len(value) for value in values if isinstance(value, Sequence)}
        if len(lengths) > 1:
            raise ValueError(
                f"label {name!r} has lists of lengths {sorted(lengths)}; "
                "name its number of classes in label_sizes"
            )
        label = torch.tensor(values)
        return label.float() if label.is_floating_point() else label
    rows = torch.zeros(len(values), size)
    for row, value in enumerate(values):
        rows[row, torch.tensor(value, dtype=torch.int64)] = 1
    return rows
