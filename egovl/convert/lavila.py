"""LaViLa's dual encoders (tower CLIP or timm style, text tower CLIP or DistilBERT), classifiers."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from egovl.convert import clip
from egovl.convert.distilbert import POSITION_IDS, distilbert_config
from egovl.convert.heads import OWN_HEADS, lavila_head_keys, lavila_heads
from egovl.convert.keys import KeyMap, Rename
from egovl.convert.load import AGGREGATOR, PSEUDO_SCALE, LoadReport, Tolerated, load_published
from egovl.convert.space_time import SPACE_TIME_KEYS, InflateMode, tower_config, with_frames
from egovl.convert.unpickle import Checkpoint, CheckpointError
from egovl.models.classifier import Classifier
from egovl.models.configs import (
    ClassifierConfig,
    DualEncoderConfig,
    ImageTowerConfig,
    Projection,
)
from egovl.models.dual_encoder import DualEncoder

TEMPORAL_KEY = "visual.temporal_embed"

DUAL_ENCODER_KEYS = (
    SPACE_TIME_KEYS.prefixed("visual.", "video.")
    + clip.TEXT_KEYS.prefixed("", "text.")
    + KeyMap(
        [
            Rename("textual.{rest}", "text.model.{rest}"),
            Rename("image_projection", "video_projection.weight", "transpose"),
            Rename("text_projection", "text_projection.weight", "transpose"),
            Rename("image_projection.0.{leaf}", "video_projection.0.{leaf}"),
            Rename("text_projection.1.{leaf}", "text_projection.1.{leaf}"),
            Rename("logit_scale", "logit_scale", "scalar"),
        ]
    )
)

_TOLERATED = Tolerated(missing=(PSEUDO_SCALE, AGGREGATOR), dropped=(rf"textual\.{POSITION_IDS}",))
_NOT_VIDEO = (
    r"transformer\..*",
    r"textual\..*",
    r"token_embedding\.weight",
    r"positional_embedding",
    r"ln_final\..*",
    r"(image|text)_projection(\..*)?",
    r"logit_scale",
)


def keys_of(config: DualEncoderConfig | ClassifierConfig, state: Mapping[str, Tensor]) -> KeyMap:
    """The names of a model; `state`, if not empty, tells how a single head is spelled."""
    if isinstance(config, ClassifierConfig):
        by_frame = isinstance(config.video, ImageTowerConfig)
        tower = SPACE_TIME_KEYS.prefixed("visual.", "")
        tower = clip.FRAME_KEYS if by_frame else tower
        return tower.prefixed("", "video.") + lavila_head_keys(list(config.heads), state)
    if isinstance(config.video, ImageTowerConfig):
        return clip.FRAME_DUAL_ENCODER_KEYS
    return DUAL_ENCODER_KEYS


def tolerated_of(
    config: DualEncoderConfig | ClassifierConfig, state: Mapping[str, Tensor]
) -> Tolerated:
    """Exceptions to strict loading: a dual encoder may fill a classifier's tower."""
    if not isinstance(config, ClassifierConfig):
        return _TOLERATED
    has_heads = any(key.startswith("fc_cls.") for key in state)
    return Tolerated(missing=() if has_heads else (OWN_HEADS,), dropped=_NOT_VIDEO)


def load_state(model: DualEncoder | Classifier, state: Mapping[str, Tensor]) -> LoadReport:
    """Fill a model from a published state dict, strictly.

    A classifier's tower may come from a dual encoder; its heads then keep their initial values.
    """
    config = model.config
    return load_published(model, state, keys_of(config, state), tolerated_of(config, state))


def load_dual_encoder(
    checkpoint: Checkpoint,
    num_frames: int | None = None,
    inflate: InflateMode = "bilinear",
) -> tuple[DualEncoder, LoadReport]:
    """Build and fill the dual encoder of a released file.

    Args:
        checkpoint: what `load_checkpoint` read.
        num_frames: clip length of the model; the checkpoint's own if None.
        inflate: how a longer temporal embedding is made.

    Raises:
        CheckpointError: the file holds another model.
    """
    state = checkpoint.state
    if num_frames is not None:
        state = with_frames(state, TEMPORAL_KEY, num_frames, inflate)
    model = dual_encoder_config(state, checkpoint.args).build()
    return model, load_state(model, state)


def dual_encoder_config(
    state: Mapping[str, Tensor], args: Mapping[str, object] | None = None
) -> DualEncoderConfig:
    """Sizes and options of a released dual encoder.

    Sizes stand in the tensors. `args`, the training arguments saved in the file, only tell whether
    embeddings are normalised: a record without `norm_embed` means no, no record at all means yes,
    as every released model was trained so.
    """
    if "visual.class_embedding" in state:  # OpenAI's names: a tower that sees frame by frame
        return clip.frame_dual_encoder_config(state)
    projection: Projection = "linear"
    key, axis = "image_projection", 1
    if "image_projection.0.weight" in state:
        projection, key, axis = "frozen_in_time", "image_projection.0.weight", 0
    if key not in state:
        raise CheckpointError("not a LaViLa dual encoder: it has no image_projection")
    is_distilbert = any(name.startswith("textual.") for name in state)
    video = tower_config(state, "visual.")
    return DualEncoderConfig(
        video=video,
        text=distilbert_config(state, "textual.")
        if is_distilbert
        else clip.text_tower_config(state),
        embed_dim=state[key].shape[axis],
        projection=projection,
        normalize=bool(args.get("norm_embed", False)) if args else True,
    )


def classifier_config(state: Mapping[str, Tensor]) -> ClassifierConfig:
    """Sizes of a released classifier.

    Raises:
        CheckpointError: the file has no head.
    """
    heads = lavila_heads(state)
    if not heads:
        raise CheckpointError("not a LaViLa classifier: it has no fc_cls")
    return ClassifierConfig(heads=heads, video=tower_config(state, "visual."))
