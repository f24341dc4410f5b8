"""Names of the published space-time tower, and its temporal embedding at another clip length.

EgoVLP, LaViLa and HierVL share both, down to the names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from egovl.convert.keys import KeyMap, Rename
from egovl.convert.unpickle import CheckpointError
from egovl.models.configs import TIMM_STYLE, VideoTowerConfig

InflateMode = Literal["bilinear", "zeros", "interp"]

SPACE_TIME_KEYS = KeyMap(
    [
        Rename("cls_token", "cls_token"),
        Rename("pos_embed", "pos_embed"),
        Rename("temporal_embed", "temporal_embed"),
        Rename("patch_embed.proj.{leaf}", "patch_embed.{leaf}"),
        Rename("ln_pre.{leaf}", "norm_pre.{leaf}"),
        Rename("blocks.{i}.norm1.{leaf}", "blocks.{i}.norm_space.{leaf}"),
        Rename("blocks.{i}.norm2.{leaf}", "blocks.{i}.norm_mlp.{leaf}"),
        Rename("blocks.{i}.norm3.{leaf}", "blocks.{i}.norm_time.{leaf}"),
        Rename("blocks.{i}.attn.{rest}", "blocks.{i}.attn_space.{rest}"),
        Rename("blocks.{i}.timeattn.{rest}", "blocks.{i}.attn_time.{rest}"),
        Rename("blocks.{i}.alpha_timeattn", "blocks.{i}.time_gate", "scalar"),
        Rename("blocks.{i}.mlp.{rest}", "blocks.{i}.mlp.{rest}"),
        Rename("norm.{leaf}", "norm.{leaf}"),
    ]
)

TIME_ONLY = (
    r"(.*\.)?temporal_embed",
    r"(.*\.)?blocks\.\d+\.(attn_time|norm_time)\..*",
    r"(.*\.)?blocks\.\d+\.time_gate",
)
"""Our names that an image model cannot fill."""


def inflate_temporal(
    embed_1TD: Tensor, num_frames: int, mode: InflateMode = "bilinear", align_corners: bool = False
) -> Tensor:
    """Bring a temporal embedding [1, T, D] to `num_frames` rows.

    Fewer rows are the first ones. More rows are, by mode: `bilinear` linear in time between pixel
    centres, or with `align_corners` between the end points (EgoVLP 2.4; LaViLa 2.3 has it off);
    `zeros` padded; `interp` the nearest row.
    """
    have = embed_1TD.shape[1]
    if have >= num_frames:
        return embed_1TD[:, :num_frames].clone()
    if mode == "zeros":
        padding = embed_1TD.new_zeros(1, num_frames - have, embed_1TD.shape[2])
        return torch.cat([embed_1TD, padding], dim=1)
    rows_1DT = embed_1TD.transpose(1, 2)
    if mode == "interp":
        resized = F.interpolate(rows_1DT, size=num_frames, mode="nearest")
    elif mode == "bilinear":
        resized = F.interpolate(
            rows_1DT, size=num_frames, mode="linear", align_corners=align_corners
        )
    else:
        raise ValueError(f"mode={mode!r} is not allowed: it must be bilinear, zeros or interp")
    return resized.transpose(1, 2).contiguous()


def resize_positions(embed_1SD: Tensor, num_patches: int) -> Tensor:
    """Bring a spatial position table [1, 1 + N, D] to another square grid, bicubic between centres.

    The papers refuse another grid; the CLS row stays as it is.

    Raises:
        ValueError: a grid is not square.
    """
    have = embed_1SD.shape[1] - 1
    sides = math.isqrt(have), math.isqrt(num_patches)
    if [side**2 for side in sides] != [have, num_patches]:
        raise ValueError(f"positions of {have} patches to {num_patches}: both must be squares")
    if have == num_patches:
        return embed_1SD
    cls, grid = embed_1SD.split([1, have], dim=1)
    grid_1DHW = grid.unflatten(1, (sides[0], sides[0])).permute(0, 3, 1, 2)
    resized = F.interpolate(grid_1DHW, size=(sides[1], sides[1]), mode="bicubic")
    return torch.cat([cls, resized.flatten(2).transpose(1, 2)], dim=1)


def tower_config(state: Mapping[str, Tensor], prefix: str) -> VideoTowerConfig:
    """Read a tower's sizes and style off its published tensors, whose names start with `prefix`.

    Heads are 64 wide, as in every released tower; they leave no trace in the weights.

    Raises:
        CheckpointError: the tensors of a space-time tower are not there.
    """
    try:
        patch = state[f"{prefix}patch_embed.proj.weight"]
        pos_embed = state[f"{prefix}pos_embed"]
        temporal_embed = state[f"{prefix}temporal_embed"]
        hidden = state[f"{prefix}blocks.0.mlp.fc1.weight"].shape[0]
    except KeyError as error:
        raise CheckpointError(f"no space-time tower: {error.args[0]} is not there") from error
    width, patch_size = patch.shape[0], patch.shape[-1]
    config = VideoTowerConfig(
        image_size=patch_size * math.isqrt(pos_embed.shape[1] - 1),
        patch_size=patch_size,
        width=width,
        depth=count_blocks(state, f"{prefix}blocks."),
        heads=heads_of(width),
        num_frames=temporal_embed.shape[1],
        mlp_ratio=hidden / width,
        gated_time=f"{prefix}blocks.0.alpha_timeattn" in state,
    )
    if f"{prefix}ln_pre.weight" in state:
        return config
    return replace(config, **TIMM_STYLE)


def heads_of(width: int) -> int:
    """Heads of a released transformer of this width: 64 channels each."""
    if width % 64:
        raise CheckpointError(f"width {width} is not a multiple of 64: give the model's config")
    return width // 64


def count_blocks(state: Mapping[str, Tensor], prefix: str) -> int:
    """Number of blocks whose names start with `prefix` and an index."""
    return len({key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)})


def with_patches(state: Mapping[str, Tensor], key: str, num_patches: int) -> dict[str, Tensor]:
    """A state dict whose spatial positions, named `key`, cover `num_patches` patches a frame."""
    if key not in state:
        raise CheckpointError(f"no spatial positions {key} to resize")
    positions = state[key].float()
    resized = resize_positions(positions.reshape(1, *positions.shape[-2:]), num_patches)
    # CLIP's table has no leading one
    return {**state, key: resized.squeeze(0) if positions.dim() == 2 else resized}


def with_frames(
    state: Mapping[str, Tensor],
    key: str,
    num_frames: int,
    mode: InflateMode,
    align_corners: bool = False,
) -> dict[str, Tensor]:
    """A state dict whose temporal embedding, named `key`, has `num_frames` rows."""
    if key not in state:
        raise CheckpointError(f"no temporal embedding {key} to resize")
    return {**state, key: inflate_temporal(state[key].float(), num_frames, mode, align_corners)}
