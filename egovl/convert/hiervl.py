"""HierVL's released models: EgoVLP's dual encoder, an aggregator, a probe (HierVL spec 2.4).

The released aggregator is a cut-down video transformer that still owns what no input reaches, time
embedding, patch embedding, temporal attention and a classification head; these are left out, and
written as zeros for the published code to load.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from egovl.convert import egovlp
from egovl.convert.heads import OWN_HEADS
from egovl.convert.keys import KeyMap, Rename
from egovl.convert.load import AGGREGATOR, LoadReport, Tolerated, load_published
from egovl.convert.space_time import count_blocks
from egovl.convert.unpickle import CheckpointError
from egovl.models.dual_encoder import DualEncoder
from egovl.models.hierarchy_configs import (
    AverageConfig,
    HierarchicalEncoderConfig,
    SelfAttentionConfig,
)
from egovl.models.long_video import LongVideoModel

AGGREGATOR_KEYS = KeyMap(
    [
        Rename("cls_token", "cls_token"),
        Rename("pos_embed", "pos_embed"),
        Rename("blocks.{i}.norm1.{leaf}", "blocks.{i}.norm_attn.{leaf}"),
        Rename("blocks.{i}.norm2.{leaf}", "blocks.{i}.norm_mlp.{leaf}"),
        Rename("blocks.{i}.attn.{rest}", "blocks.{i}.attn.{rest}"),
        Rename("blocks.{i}.mlp.{rest}", "blocks.{i}.mlp.{rest}"),
        Rename("norm.{leaf}", "norm.{leaf}"),
    ]
)
KEYS = egovlp.DUAL_ENCODER_KEYS + AGGREGATOR_KEYS.prefixed("aggregation.", "aggregator.")

DEAD = (
    r"time_embed",
    r"patch_embed\.proj\.(weight|bias)",
    r"head\.(weight|bias)",
    r"blocks\.\d+\.(temporal_norm1|temporal_attn|temporal_fc)\..*",
)
"""What the released aggregator owns and never uses."""

_HEAD_WIDTH = 32  # of a released aggregator; heads leave no trace in the weights
_PROBE = "head_ht100m_linear_probe.0"
_PROBE_CLASSES = 100
_PROBE_NAMES = r"head_ht100m_linear_probe\..*"
_DEAD_NAMES = tuple(rf"aggregation\.{name}" for name in DEAD)
_AGGREGATOR_NAMES = r"aggregation\..*"


def load_state(model: DualEncoder, state: Mapping[str, Tensor]) -> LoadReport:
    """Fill a dual encoder, or one with an aggregator, from a HierVL or EgoVLP state dict.

    The reference loads anything it finds by name. Here only this may differ: a model without an
    aggregator, a file without one (EgoVLP's), the probe.
    """
    return load_published(model, state, KEYS, tolerated_of(model, state))


def load_aggregator(aggregator: nn.Module, state: Mapping[str, Tensor]) -> LoadReport:
    """Fill an aggregator alone, names without a prefix."""
    return load_published(aggregator, state, AGGREGATOR_KEYS, Tolerated(dropped=DEAD))


def load_long_video(model: LongVideoModel, state: Mapping[str, Tensor]) -> LoadReport:
    """Fill video tower, projection and aggregator; a head of the probe's size takes the probe."""
    keys, probe = KEYS, state.get(f"{_PROBE}.weight")
    dropped = [r"(text_model|txt_proj)\..*", *_DEAD_NAMES]
    labels = [label for label, size in model.config.heads.items() if size == _PROBE_CLASSES]
    if probe is not None and len(labels) == 1 and model.config.num_steps == 1:
        keys += KeyMap([Rename(f"{_PROBE}." + "{leaf}", f"heads.{labels[0]}." + "{leaf}")])
    else:
        dropped.append(_PROBE_NAMES)
    tolerated = Tolerated(
        missing=(OWN_HEADS,) if has_aggregator(state) else (OWN_HEADS, AGGREGATOR),
        dropped=tuple(dropped),
        unexpected=_left_aggregator(model),
    )
    return load_published(model, state, keys, tolerated)


def tolerated_of(model: nn.Module, state: Mapping[str, Tensor]) -> Tolerated:
    """What may differ between a released file and a model."""
    return Tolerated(
        missing=tuple(
            name
            for name in egovlp.TOLERATED.missing
            if name != AGGREGATOR or not has_aggregator(state)
        ),
        dropped=(*egovlp.TOLERATED.dropped, *_DEAD_NAMES, _PROBE_NAMES),
        unexpected=_left_aggregator(model),
    )


def _left_aggregator(model: nn.Module) -> tuple[str, ...]:
    learned = any(name.startswith("aggregator.") for name in model.state_dict())
    return () if learned else (_AGGREGATOR_NAMES,)


def is_unused(name: str) -> bool:
    """Whether a published tensor is one that the released model never uses, or its probe's."""
    return any(re.fullmatch(pattern, name) for pattern in (*_DEAD_NAMES, _PROBE_NAMES))


def has_aggregator(state: Mapping[str, Tensor]) -> bool:
    """Whether a released file holds the self-attention aggregator."""
    return "aggregation.cls_token" in state


def hierarchical_config(state: Mapping[str, Tensor]) -> HierarchicalEncoderConfig:
    """Sizes of a released model; one without an aggregator's tensors averages."""
    encoder = egovlp.dual_encoder_config(state)
    if not has_aggregator(state):
        return HierarchicalEncoderConfig(encoder=encoder, aggregator=AverageConfig())
    positions = state["aggregation.pos_embed"]
    width = positions.shape[2]
    if width % _HEAD_WIDTH:
        raise CheckpointError(
            f"aggregator of width {width}, not a multiple of {_HEAD_WIDTH}: give the model's config"
        )
    aggregator = SelfAttentionConfig(
        num_clips=positions.shape[1],
        depth=count_blocks(state, "aggregation.blocks."),
        heads=width // _HEAD_WIDTH,
    )
    return HierarchicalEncoderConfig(encoder=encoder, aggregator=aggregator)


@dataclass(frozen=True)
class UnusedSizes:
    """Sizes of the released aggregator that nothing else tells."""

    classes: int = 1000
    frames: int = 8
    patch_size: int = 16


def unused_shapes(
    aggregator: SelfAttentionConfig, width: int, sizes: UnusedSizes | None = None
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what the released aggregator owns and never uses."""
    sizes = sizes or UnusedSizes()
    square = (width, width)
    shapes: dict[str, tuple[int, ...]] = {
        "time_embed": (1, sizes.frames, width),
        "patch_embed.proj.weight": (width, 3, sizes.patch_size, sizes.patch_size),
        "patch_embed.proj.bias": (width,),
        "head.weight": (sizes.classes, width),
        "head.bias": (sizes.classes,),
    }
    for i in range(aggregator.depth):
        shapes |= {
            f"blocks.{i}.temporal_norm1.weight": (width,),
            f"blocks.{i}.temporal_norm1.bias": (width,),
            f"blocks.{i}.temporal_attn.qkv.weight": (3 * width, width),
            f"blocks.{i}.temporal_attn.proj.weight": square,
            f"blocks.{i}.temporal_attn.proj.bias": (width,),
            f"blocks.{i}.temporal_fc.weight": square,
            f"blocks.{i}.temporal_fc.bias": (width,),
        }
    return shapes


def publish(
    config: HierarchicalEncoderConfig,
    weights: Mapping[str, Tensor],
    sizes: UnusedSizes | None = None,
) -> dict[str, Any]:
    """A checkpoint as the published code loads it, with zeros for what it owns and never uses."""
    constants = ("logit_scale", "pseudo_logit_scale")  # of its loss, not of its model
    state = KEYS.publish({k: v for k, v in weights.items() if k not in constants})
    width = config.encoder.embed_dim
    fill = {f"{_PROBE}.weight": (_PROBE_CLASSES, width), f"{_PROBE}.bias": (_PROBE_CLASSES,)}
    if isinstance(config.aggregator, SelfAttentionConfig):
        unused = unused_shapes(config.aggregator, width, sizes)
        fill |= {f"aggregation.{name}": shape for name, shape in unused.items()}
    dtype = state["vid_proj.0.weight"].dtype
    whole = state | {name: torch.zeros(shape, dtype=dtype) for name, shape in fill.items()}
    return {
        "arch": "FrozenInTime",
        "epoch": 0,
        "state_dict": {f"module.{k}": v.detach().contiguous() for k, v in whole.items()},
        "monitor_best": 0.0,
    }
