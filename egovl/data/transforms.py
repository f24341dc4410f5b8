"""Crops, resizes and normalisation of clips.

Frames come as ``[T, H, W, C]`` 0..255, uint8 or float32, and leave as ``[C, T, H, W]`` of the same
type: float32 is the published path, uint8 the fast one (within one grey level). Resizing is
bilinear without antialiasing unless asked, as the released models were trained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from egovl.data.types import RandomSource

Box = tuple[int, int, int, int]  # top, left, height, width

# mean and standard deviation per channel of pixels 0..255
_CLIP_STD = (68.5005327, 66.6321579, 70.32316305)
NORMALIZATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "clip": ((122.7709383, 116.7460125, 104.09373615), _CLIP_STD),
    # LaViLa's red mean is a typing error that its released models need (parity: lavila transforms)
    "clip_legacy": ((108.3272985, 116.7460125, 104.09373615), _CLIP_STD),
    # Egoinstructor's captioner: CLIP's, rounded
    "clip_rounded": ((122.655, 116.79, 104.04), (68.595, 66.555, 70.38)),
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
}

LEGACY_BGR = "imagenet_legacy_bgr"


def sample_crop_box(
    height: int,
    width: int,
    random: RandomSource,
    *,
    scale: tuple[float, float] = (0.5, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box:
    """Box of a random resized crop: area share from ``scale``, aspect log-uniform from ``ratio``.

    After ten boxes that do not fit, the largest centred one with an allowed aspect.
    """
    for _ in range(10):
        area = height * width * random.uniform(*scale)
        aspect = math.exp(random.uniform(math.log(ratio[0]), math.log(ratio[1])))
        box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = random.integer(0, height - box_height)
            left = random.integer(0, width - box_width)
            return top, left, box_height, box_width
    aspect = min(max(width / height, ratio[0]), ratio[1])
    box_width = min(width, round(height * aspect))
    box_height = min(height, round(width / aspect))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def resized_crop(
    frames_THWC: Tensor, box: Box, size: int, *, flip: bool = False, antialias: bool = False
) -> Tensor:
    """Cut one box out of all frames and resize it, ``[C, T, size, size]``."""
    top, left, height, width = box
    cropped = frames_THWC[:, top : top + height, left : left + width]
    resized = _resize(cropped.permute(0, 3, 1, 2), (size, size), antialias)
    if flip:
        resized = resized.flip(-1)
    return resized.transpose(0, 1)


def resize_short_side(frames_THWC: Tensor, size: int, *, antialias: bool = False) -> Tensor:
    """Scale so that the short side is ``size``, ``[C, T, h, w]``; the long side is truncated."""
    height, width = frames_THWC.shape[1:3]
    if height <= width:
        target = (size, int(size * width / height))
    else:
        target = (int(size * height / width), size)
    return _resize(frames_THWC.permute(0, 3, 1, 2), target, antialias).transpose(0, 1)


def squash(frames_THWC: Tensor, size: int, *, antialias: bool = False) -> Tensor:
    """Resize to a square whatever the aspect, bicubic, float32 beyond 0..255 too, ``[C, T, ...]``.

    Egoinstructor spec 3.4.
    """
    images = frames_THWC.permute(0, 3, 1, 2).float()
    resized = functional.interpolate(
        images, size=(size, size), mode="bicubic", align_corners=False, antialias=antialias
    )
    return resized.transpose(0, 1)


def center_crop(video_CTHW: Tensor, size: int) -> Tensor:
    """Middle square, ``[C, T, size, size]``.

    Raises:
        ValueError: The picture is smaller.
    """
    height, width = video_CTHW.shape[-2:]
    if min(height, width) < size:
        raise ValueError(f"a centre crop of {size} does not fit in {height} x {width} pixels")
    top, left = round((height - size) / 2), round((width - size) / 2)
    return video_CTHW[..., top : top + size, left : left + size]


def eval_crop(
    frames_THWC: Tensor, size: int, *, resize: int | None = None, antialias: bool = False
) -> Tensor:
    """Short side to ``resize``, middle square of it, then to ``size``: ``[C, T, size, size]``.

    LaViLa: ``resize`` is ``size``. EgoVLP: 256, then 224.
    """
    square = center_crop(
        resize_short_side(frames_THWC, resize or size, antialias=antialias), resize or size
    )
    return _resize(square.transpose(0, 1), (size, size), antialias).transpose(0, 1)


def temporal_views(video_CTHW: Tensor, frames_per_clip: int, stride: int) -> list[Tensor]:
    """Windows of ``frames_per_clip`` frames, ``stride`` apart, that fit."""
    starts = range(0, video_CTHW.shape[1] - frames_per_clip + 1, stride)
    return [video_CTHW[:, start : start + frames_per_clip] for start in starts]


def spatial_views(video_CTHW: Tensor, size: int, num_crops: int) -> list[Tensor]:
    """Square views along the long side: 1 (middle), 3 (both ends and middle).

    6 are those three and the three of the mirrored video, which begin at its other end.

    Raises:
        ValueError: Another number, or a picture smaller than ``size``.
    """
    if num_crops not in (1, 3, 6):
        raise ValueError(f"num_crops is {num_crops}; it must be 1, 3 or 6")
    height, width = video_CTHW.shape[-2:]
    if min(height, width) < size:
        raise ValueError(f"crops of {size} do not fit in {height} x {width} pixels")
    middle_top, middle_left = math.ceil((height - size) / 2), math.ceil((width - size) / 2)
    if height > width:
        corners = [(0, middle_left), (middle_top, middle_left), (height - size, middle_left)]
    else:
        corners = [(middle_top, 0), (middle_top, middle_left), (middle_top, width - size)]
    chosen = corners[1:2] if num_crops == 1 else corners
    videos = (video_CTHW, video_CTHW.flip(-1)) if num_crops == 6 else (video_CTHW,)
    return [video[..., t : t + size, x : x + size] for video in videos for t, x in chosen]


def multi_views(
    video_CTHW: Tensor, *, frames_per_clip: int, stride: int, size: int, num_crops: int
) -> list[Tensor]:
    """All spatial views of each temporal view, time outermost."""
    return [
        view
        for clip in temporal_views(video_CTHW, frames_per_clip, stride)
        for view in spatial_views(clip, size, num_crops)
    ]


def normalize_video(video: Tensor, name: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """Subtract the mean and divide by the deviation of a named set, on the tensor's own device.

    Args:
        video: ``[..., C, T, H, W]``, 0..255, uint8 or float.
        name: Key of `NORMALIZATIONS`, or ``imagenet_legacy_bgr``: HierVL's EPIC models saw blue in
            the place of red, with the statistics of RGB (parity: hiervl ``data``).
        dtype: Type of the result.
    """
    if name == LEGACY_BGR:
        video, name = bgr_of(video), "imagenet"
    if name not in NORMALIZATIONS:
        known = sorted([*NORMALIZATIONS, LEGACY_BGR])
        raise ValueError(f"normalisation {name!r} is unknown; known: {known}")
    return normalize_channels(video, *NORMALIZATIONS[name]).to(dtype)


def bgr_of(video: Tensor) -> Tensor:
    """Red and blue of ``[..., C, T, H, W]`` exchanged, as HierVL reads EPIC's frames."""
    return video.flip(-4)


def normalize_channels(video: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """``(video - mean) / std`` per channel of ``[..., C, T, H, W]``, float32."""
    shape, device = (-1, 1, 1, 1), video.device
    means, deviations = (torch.tensor(v, device=device).view(shape) for v in (mean, std))
    return (video.float() - means) / deviations


def _resize(images_TCHW: Tensor, size: tuple[int, int], antialias: bool) -> Tensor:
    if tuple(images_TCHW.shape[-2:]) == size:
        return images_TCHW
    return functional.interpolate(
        images_TCHW, size=size, mode="bilinear", align_corners=False, antialias=antialias
    )
