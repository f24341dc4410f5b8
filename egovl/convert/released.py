"""Whole files from one layout to another: released checkpoints into ours, and ours back."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from egovl.convert import clip, egovlp, lavila, narrator
from egovl.convert.keys import KeyMap
from egovl.convert.load import LoadReport, Tolerated, match_published
from egovl.convert.unpickle import Checkpoint, CheckpointError, load_checkpoint
from egovl.models.configs import (
    CLIP_VIT_B16,
    CLIP_VIT_B32,
    CLIP_VIT_L14,
    CLIP_VIT_L14_336,
    TIMM_STYLE,
    TSF_BASE,
    TSF_LARGE,
    TSF_LARGE_336,
    ClassifierConfig,
    DualEncoderConfig,
    HFTextConfig,
    VideoConfig,
    VideoTowerConfig,
)
from egovl.models.decoder_configs import NarratorConfig

ModelConfig = DualEncoderConfig | ClassifierConfig | NarratorConfig
State = Mapping[str, Tensor]

ANY_NAME = r".*"


@dataclass(frozen=True)
class Converted:
    """A model of ours out of a file: sizes, tensors under our names, what happened to each name."""

    config: ModelConfig
    weights: dict[str, Tensor]
    report: LoadReport


def convert_released(file: Path, origin: str, *, strict: bool = False) -> Converted:
    """Read a released file.

    Nothing is built: names and shapes are compared with a model on the meta device.

    Args:
        file: what was downloaded.
        origin: ``lavila``, ``egovlp`` or ``clip``.
        strict: refuse names that nothing knows, which otherwise are reported and left out.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: it holds something else, lacks tensors or has them in other shapes.
    """
    checkpoint = load_checkpoint(file)
    config, keys, tolerated = _READERS[origin](checkpoint)
    with torch.device("meta"):
        own = config.build().state_dict()
    if not strict:
        tolerated = Tolerated(
            tolerated.missing, tolerated.dropped, (*tolerated.unexpected, ANY_NAME)
        )
    try:
        weights, report = match_published(own, checkpoint.state, keys, tolerated)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from error
    if "logit_scale" in report.missing and isinstance(config, DualEncoderConfig):
        weights["logit_scale"] = torch.tensor([math.log(1 / config.temperature_init)])
    return Converted(config, weights, report)


Reading = tuple[ModelConfig, KeyMap, Tolerated]


def _read_lavila(checkpoint: Checkpoint) -> Reading:
    state = checkpoint.state
    if "img_queries" in state:
        found = narrator.narrator_config(state)
        return found, narrator.keys_of(found), narrator.tolerated_of(found)
    if any(key.startswith("fc_cls.") for key in state):
        config: DualEncoderConfig | ClassifierConfig = lavila.classifier_config(state)
    else:
        config = lavila.dual_encoder_config(state, checkpoint.args)
    return config, lavila.keys_of(config, state), lavila.tolerated_of(config, state)


def _read_egovlp(checkpoint: Checkpoint) -> Reading:
    config = egovlp.dual_encoder_config(checkpoint.state)
    return config, egovlp.DUAL_ENCODER_KEYS, egovlp.TOLERATED


def _read_clip(checkpoint: Checkpoint) -> Reading:
    config = clip.frame_dual_encoder_config(checkpoint.state)
    return config, clip.FRAME_DUAL_ENCODER_KEYS, Tolerated(dropped=clip.RECORDS)


_READERS = {"lavila": _read_lavila, "egovlp": _read_egovlp, "clip": _read_clip}


def publish(config: ModelConfig, weights: State, layout: str) -> dict[str, Any]:
    """A checkpoint in somebody else's layout, as their code loads it.

    Args:
        config: the model's.
        weights: under our names.
        layout: ``lavila`` or ``egovlp``.

    Raises:
        CheckpointError: that system has no such model.
    """
    return {"lavila": _publish_lavila, "egovlp": _publish_egovlp}[layout](config, dict(weights))


def _publish_lavila(config: ModelConfig, weights: dict[str, Tensor]) -> dict[str, Any]:
    pseudo = weights.pop("pseudo_logit_scale", None)
    if isinstance(config, NarratorConfig):
        state = narrator.publish(config, weights)
    else:
        state = lavila.keys_of(config, {}).publish(weights)
    content = {
        "epoch": 0,
        "state_dict": _wrapped(state),
        "best_acc1": 0.0,
        "args": argparse.Namespace(**_lavila_args(config)),
    }
    if pseudo is not None:  # LaViLa's loss keeps it
        content["criterion"] = {"logit_scale_pseudo": pseudo.reshape(())}
    return content


def _publish_egovlp(config: ModelConfig, weights: dict[str, Tensor]) -> dict[str, Any]:
    if not (
        isinstance(config, DualEncoderConfig)
        and isinstance(config.video, VideoTowerConfig)
        and isinstance(config.text, HFTextConfig)
        and config.projection == "frozen_in_time"
        and not (config.video.ln_pre or config.video.gated_time)
    ):
        raise CheckpointError(
            "EgoVLP has only dual encoders with a timm-style space-time tower, DistilBERT and the "
            "frozen_in_time projection; convert this model to lavila"
        )
    for constant in ("logit_scale", "pseudo_logit_scale"):  # of its loss, not of its model
        weights.pop(constant, None)
    state = egovlp.DUAL_ENCODER_KEYS.publish(weights)
    return {"arch": "FrozenInTime", "epoch": 0, "state_dict": _wrapped(state), "monitor_best": 0.0}


def _wrapped(state: State) -> dict[str, Tensor]:
    return {f"module.{name}": tensor.detach().contiguous() for name, tensor in state.items()}


def _lavila_args(config: ModelConfig) -> dict[str, Any]:
    """What LaViLa's evaluation reads beside the weights (its spec, 2.8)."""
    video = config.video
    is_narrator = isinstance(config, NarratorConfig)
    args: dict[str, Any] = {
        "model": _narrator_name(config) if is_narrator else _lavila_name(config),
        "use_cls_token": False,
        "clip_length": video.num_frames,
        "timesformer_gated_xattn": isinstance(video, VideoTowerConfig) and video.gated_time,
    }
    if isinstance(config, NarratorConfig):
        return args | narrator.published_args(config)
    if isinstance(config, ClassifierConfig):
        return args | {
            "num_classes": list(config.heads.values()),
            "dropout_ratio": config.dropout,
            "use_vn_classifier": len(config.heads) > 1,
        }
    # EgoVLP normalises where it compares, so its model is LaViLa's with normalisation
    normalized = config.normalize or config.projection == "frozen_in_time"
    return args | {"project_embed_dim": config.embed_dim, "norm_embed": normalized}


_TOWERS: Mapping[str, VideoConfig] = {
    "CLIP_OPENAI_TIMESFORMER_BASE": TSF_BASE,
    "CLIP_OPENAI_TIMESFORMER_LARGE": TSF_LARGE,
    "CLIP_OPENAI_TIMESFORMER_LARGE_336PX": TSF_LARGE_336,
    "CLIP_OPENAI_VITB32": CLIP_VIT_B32,
    "CLIP_OPENAI_VITB16": CLIP_VIT_B16,
    "CLIP_OPENAI_VITL14": CLIP_VIT_L14,
    "CLIP_OPENAI_VITL14_336PX": CLIP_VIT_L14_336,
}
_SIZES = ("image_size", "patch_size", "width", "depth", "heads")


def _narrator_name(config: NarratorConfig) -> str | None:
    """LaViLa's factory of this narrator; None where it has none of these sizes."""
    kind = "TIMESFORMER" if isinstance(config.video, VideoTowerConfig) else "VIT"
    tower = next(
        (n for n, t in _TOWERS.items() if kind in n and _sizes(t) == _sizes(config.video)), ""
    )
    decoder = narrator.decoder_name(config.decoder)
    return f"V{tower}_{decoder}".replace("VCLIP", "VCLM") if tower and decoder else None


def _lavila_name(config: DualEncoderConfig | ClassifierConfig) -> str | None:
    """LaViLa's factory of this model; None where it has none of these sizes."""
    video = config.video
    if isinstance(video, VideoTowerConfig) and not video.ln_pre:
        timm = all(getattr(video, name) == value for name, value in TIMM_STYLE.items())
        if not timm or _sizes(video) != _sizes(TSF_BASE):
            return None
        if isinstance(config, ClassifierConfig) or config.projection == "linear":
            return "CLIP_HF_TIMESFORMER_DISTILBERT_BASE"
        return "CLIP_HF_EGOVLP_DISTILBERT_BASE"
    for name, tower in _TOWERS.items():
        if type(tower) is type(video) and _sizes(tower) == _sizes(video):
            is_bert = isinstance(config, DualEncoderConfig) and isinstance(
                config.text, HFTextConfig
            )
            return name + "_DISTILBERT_BASE" if is_bert else name
    return None


def _sizes(config: VideoConfig) -> tuple[int, ...]:
    return tuple(getattr(config, name) for name in _SIZES)
