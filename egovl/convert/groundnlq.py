"""GroundNLQ's released grounding models, base and star, raw weights or their moving average."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from egovl.convert.keys import KeyMap, Rename
from egovl.convert.load import LoadReport, Tolerated, load_published
from egovl.convert.unpickle import CheckpointError
from egovl.models.grounder.configs import GrounderConfig, Layers
from egovl.models.grounder.grounder import Grounder

NORM_KEYS = KeyMap([Rename("{leaf}", "{leaf}", "channel")])
CONV_KEYS = KeyMap([Rename("conv.{leaf}", "{leaf}")])
TEXT_ATTENTION_KEYS = KeyMap(
    [
        rename
        for name in ("query", "key", "value", "proj")
        for rename in (
            Rename(f"{name}.weight", f"{name}.weight", "trailing_one"),
            Rename(f"{name}.bias", f"{name}.bias"),
        )
    ]
)
ATTENTION_KEYS = TEXT_ATTENTION_KEYS + KeyMap(
    [
        rename
        for name in ("query", "key", "value")
        for rename in (
            Rename(f"{name}_conv.conv.weight", f"{name}_conv.weight"),
            Rename(f"{name}_norm." + "{leaf}", f"{name}_norm." + "{leaf}", "channel"),
        )
    ]
    + [Rename("rel_pe", "relative_bias", "leading_two")]
)
BLOCK_KEYS = (
    ATTENTION_KEYS.prefixed("attn.", "attn.")
    + TEXT_ATTENTION_KEYS.prefixed("cross_attn.", "cross_attn.")
    + KeyMap(
        [
            Rename("ln1.{leaf}", "norm_attn.{leaf}", "channel"),
            Rename("ln2.{leaf}", "norm_mlp.{leaf}", "channel"),
            Rename("ln3.{leaf}", "norm_cross.{leaf}", "channel"),
            Rename("mlp.0.weight", "mlp.fc1.weight", "trailing_one"),
            Rename("mlp.0.bias", "mlp.fc1.bias"),
            Rename("mlp.3.weight", "mlp.fc2.weight", "trailing_one"),
            Rename("mlp.3.bias", "mlp.fc2.bias"),
            Rename("drop_path_attn.scale", "drop_path_attn.scale", "channel"),
            Rename("drop_path_mlp.scale", "drop_path_mlp.scale", "channel"),
        ]
    )
)
CONV_BLOCK_KEYS = KeyMap(
    [
        rename
        for name in ("conv1", "conv2", "downsample")
        for rename in CONV_KEYS.prefixed(f"{name}.", f"{name}.").renames
    ]
)
NECK_KEYS = KeyMap(
    [
        Rename("fpn_norms.{i}.{leaf}", "norms.{i}.{leaf}", "channel"),
        Rename("lateral_convs.{i}.conv.{leaf}", "lateral.{i}.{leaf}"),
        Rename("fpn_convs.{i}.conv.{leaf}", "smooth.{i}.{leaf}"),
    ]
)
_HEAD_KEYS = [
    rename
    for published, ours, last in (
        ("cls_head", "heads.classification", "cls_head"),
        ("reg_head", "heads.regression", "offset_head"),
    )
    for rename in (
        Rename(published + ".head.{i}.conv.{leaf}", ours + ".trunk.{i}.{leaf}"),
        Rename(published + ".norm.{i}.{leaf}", ours + ".norms.{i}.{leaf}", "channel"),
        Rename(f"{published}.{last}.conv." + "{leaf}", ours + ".out.{leaf}"),
    )
]
_EMBED_KEYS = [
    rename
    for published, ours in (("vid", "video_embed"), ("txt", "text_embed"))
    for rename in (
        Rename(f"backbone.{published}_embd." + "{i}.conv.{leaf}", ours + ".convs.{i}.{leaf}"),
        Rename(
            f"backbone.{published}_embd_norm." + "{i}.{leaf}", ours + ".norms.{i}.{leaf}", "channel"
        ),
    )
]


def _stack_keys(published: str, ours: str) -> KeyMap:
    return BLOCK_KEYS.prefixed(f"backbone.{published}." + "{i}.", ours + ".{i}.")


GROUNDER_KEYS = (
    KeyMap(_EMBED_KEYS)
    + _stack_keys("vid_stem", "video_stem")
    + _stack_keys("txt_stem", "text_stem")
    + _stack_keys("branch", "branch")
    + NECK_KEYS.prefixed("neck.", "neck.")
    + KeyMap(_HEAD_KEYS)
    + KeyMap([Rename("reg_head.scale.{i}.scale", "heads.regression.scales.{i}", "scalar")])
)

NORMALIZER = "normalizer"
"""Of the loss; the published code never saves it (GroundNLQ spec 2.7)."""
TOLERATED = Tolerated(missing=(NORMALIZER,))
HEADLESS = Tolerated(missing=(NORMALIZER, r"heads\..*"), dropped=(r".*head.*",))
"""Finetuning starts with new heads (GroundNLQ spec 5)."""


def load_state(model: Grounder, state: Mapping[str, Tensor], keep_heads: bool = True) -> LoadReport:
    """Fill a grounder from a published state dict, strictly; without heads to finetune it."""
    return load_published(model, state, GROUNDER_KEYS, TOLERATED if keep_heads else HEADLESS)


def averaged_state(extra: Mapping[str, Any]) -> dict[str, Tensor]:
    """The moving average of the weights in a released file, beside its raw weights.

    Raises:
        CheckpointError: the file has none.
    """
    found = extra.get("state_dict_ema")
    if not isinstance(found, Mapping) or not found:
        raise CheckpointError("no state_dict_ema in this file: it holds raw weights only")
    return {str(key).removeprefix("module."): tensor for key, tensor in found.items()}


def grounder_config(state: Mapping[str, Tensor]) -> GrounderConfig:
    """Sizes of a released model, as its tensors show them.

    What leaves no trace in them (heads of attention, windows without relative positions, position
    table, ranges) is as in all released models.

    Raises:
        CheckpointError: not such a model.
    """
    first = state.get("backbone.vid_embd.0.conv.weight")
    if first is None:
        raise CheckpointError("not a GroundNLQ model: it has no backbone.vid_embd.0.conv.weight")
    released = GrounderConfig()
    crossed = _numbers(state, r"backbone\.branch\.(\d+)\.cross_attn\.key\.bias")
    blocks = _count(state, r"backbone\.branch\.(\d+)\.attn\.key\.bias")
    layers = Layers(
        embed=_count(state, r"backbone\.vid_embd\.(\d+)\.conv\.weight"),
        text=_count(state, r"backbone\.txt_stem\.(\d+)\.attn\.key\.bias"),
        video=_count(state, r"backbone\.vid_stem\.(\d+)\.attn\.key\.bias"),
        cross_branch=len(crossed),
        branch=blocks - len(crossed),
    )
    levels = _count(state, r"reg_head\.scale\.(\d+)\.scale")
    relative = next((t for key, t in state.items() if key.endswith("attn.rel_pe")), None)
    neck_dim, head_dim = _head_sizes(state)
    return replace(
        released,
        video_dim=first.shape[1],
        text_dim=state["backbone.txt_embd.0.conv.weight"].shape[1],
        num_classes=state["cls_head.cls_head.conv.weight"].shape[0],
        layers=layers,
        width=first.shape[0],
        heads=released.heads if relative is None else relative.shape[2],
        window=released.window if relative is None else (relative.shape[3],),
        kernel=first.shape[2],
        embed_norm="backbone.vid_embd_norm.0.weight" in state,
        relative_positions=relative is not None,
        neck="fpn" if any(key.startswith("neck.lateral") for key in state) else "identity",
        neck_dim=neck_dim,
        neck_norm="neck.fpn_norms.0.weight" in state,
        start_level=layers.levels - levels,
        head_dim=head_dim,
        head_kernel=state["cls_head.cls_head.conv.weight"].shape[2],
        head_layers=1 + _count(state, r"cls_head\.head\.(\d+)\.conv\.weight"),
        head_norm="cls_head.norm.0.weight" in state,
        ranges=released_ranges(levels),
        drop_path=released.drop_path if _has_scales(state) else 0.0,
        legacy_text_padding=True,
        legacy_video_padding=True,
    )


def released_ranges(levels: int) -> tuple[tuple[float, float], ...]:
    """The released models' overlapping ranges for another number of levels."""
    ends = [(2.0**level if level else 0.0, 4 * 2.0**level) for level in range(levels)]
    return (*ends[:-1], (ends[-1][0], 10000.0))


def _head_sizes(state: Mapping[str, Tensor]) -> tuple[int, int]:
    first = state.get("cls_head.head.0.conv.weight", state["cls_head.cls_head.conv.weight"])
    return first.shape[1], state["cls_head.cls_head.conv.weight"].shape[1]


def _has_scales(state: Mapping[str, Tensor]) -> bool:
    return any(key.endswith("drop_path_attn.scale") for key in state)


def _numbers(state: Mapping[str, Tensor], pattern: str) -> set[int]:
    return {int(m[1]) for key in state if (m := re.fullmatch(pattern, key))}


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return len(_numbers(state, pattern))


def publish(weights: Mapping[str, Tensor], averaged: Mapping[str, Tensor] | None) -> dict[str, Any]:
    """A checkpoint as GroundNLQ's code loads it.

    Args:
        weights: under our names.
        averaged: their moving average; None: the weights themselves.
    """
    raw = _published(weights)
    return {
        "epoch": 0,
        "state_dict": raw,
        "state_dict_ema": raw if averaged is None else _published(averaged),
    }


def _published(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    kept = {name: tensor for name, tensor in weights.items() if name != NORMALIZER}
    return {
        name: tensor.detach().contiguous() for name, tensor in GROUNDER_KEYS.publish(kept).items()
    }


def initial_normalizer(config: GrounderConfig) -> Tensor:
    """What a file without the loss's normaliser starts with."""
    return torch.tensor([config.normalizer_init])
