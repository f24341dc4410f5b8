"""EgoVLP's released dual encoder, and the ImageNet ViT it starts from."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from egovl.convert.distilbert import POSITION_IDS, distilbert_config
from egovl.convert.heads import OWN_HEADS
from egovl.convert.keys import KeyMap, Rename
from egovl.convert.load import AGGREGATOR, PSEUDO_SCALE, LoadReport, Tolerated, load_published
from egovl.convert.space_time import (
    SPACE_TIME_KEYS,
    TIME_ONLY,
    InflateMode,
    tower_config,
    with_frames,
)
from egovl.convert.unpickle import Checkpoint, CheckpointError
from egovl.models.classifier import Classifier
from egovl.models.configs import DualEncoderConfig
from egovl.models.dual_encoder import DualEncoder

TEMPORAL_KEY = "video_model.temporal_embed"

DUAL_ENCODER_KEYS = SPACE_TIME_KEYS.prefixed("video_model.", "video.") + KeyMap(
    [
        Rename("text_model.{rest}", "text.model.{rest}"),
        Rename("vid_proj.0.{leaf}", "video_projection.0.{leaf}"),
        Rename("txt_proj.1.{leaf}", "text_projection.1.{leaf}"),
    ]
)

# the temperature is a constant of EgoVLP's loss, not a weight
TOLERATED = Tolerated(
    missing=(r"logit_scale", PSEUDO_SCALE, AGGREGATOR), dropped=(rf"text_model\.{POSITION_IDS}",)
)
_VIT_TOLERATED = Tolerated(missing=TIME_ONLY, unexpected=(r"head\..*", r"pre_logits\..*"))


def load_state(model: DualEncoder, state: Mapping[str, Tensor]) -> LoadReport:
    """Fill a dual encoder from a published state dict, strictly."""
    return load_published(model, state, DUAL_ENCODER_KEYS, TOLERATED)


def load_classifier(model: Classifier, state: Mapping[str, Tensor]) -> LoadReport:
    """Fill a classifier from a dual encoder, or from a file of the state change or keyframe task.

    Its single head is the published video projection; one of another size, as in every pretrained
    file, is left out and reported.
    """
    labels = list(model.config.heads)
    keys, dropped = (
        SPACE_TIME_KEYS.prefixed("video_model.", "video."),
        [r"(text_model|txt_proj)\..*"],
    )
    head = state.get("vid_proj.0.weight")
    if len(labels) == 1 and head is not None and head.shape[0] == model.config.heads[labels[0]]:
        keys += KeyMap([Rename("vid_proj.0.{leaf}", f"heads.{labels[0]}." + "{leaf}")])
    else:
        dropped.append(r"vid_proj\..*")
    return load_published(
        model, state, keys, Tolerated(missing=(OWN_HEADS,), dropped=tuple(dropped))
    )


def load_dual_encoder(
    checkpoint: Checkpoint,
    num_frames: int | None = None,
    inflate: InflateMode = "zeros",
) -> tuple[DualEncoder, LoadReport]:
    """Build and fill the dual encoder of a released file.

    Args:
        checkpoint: what `load_checkpoint` read.
        num_frames: clip length of the model; the checkpoint's own, 16 in released files, if None.
        inflate: how a longer temporal embedding is made; `bilinear` keeps its end points.

    Raises:
        CheckpointError: the file holds another model.
    """
    state = checkpoint.state
    if num_frames is not None:
        state = with_frames(state, TEMPORAL_KEY, num_frames, inflate, align_corners=True)
    model = dual_encoder_config(state).build()
    return model, load_state(model, state)


def dual_encoder_config(state: Mapping[str, Tensor]) -> DualEncoderConfig:
    """Sizes of a released dual encoder."""
    if "vid_proj.0.weight" not in state:
        raise CheckpointError("not an EgoVLP dual encoder: it has no vid_proj.0.weight")
    return DualEncoderConfig(
        video=tower_config(state, "video_model."),
        text=distilbert_config(state, "text_model."),
        embed_dim=state["vid_proj.0.weight"].shape[0],
        projection="frozen_in_time",
        normalize=False,
    )


def load_vit(tower: nn.Module, state: Mapping[str, Tensor]) -> LoadReport:
    """Fill a timm-style tower from a timm ViT; what acts in time keeps its initial values."""
    return load_published(tower, state, SPACE_TIME_KEYS, _VIT_TOLERATED)
