"""LaViLa's dual encoders (spec: tower CLIP or timm style, text tower CLIP or DistilBERT)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from egovl.convert import clip
from egovl.convert.distilbert import POSITION_IDS, distilbert_config
from egovl.convert.keys import KeyMap, Rename
from egovl.convert.load import LoadReport, Tolerated, load_published
from egovl.convert.space_time import SPACE_TIME_KEYS, InflateMode, tower_config, with_frames
from egovl.convert.unpickle import Checkpoint, CheckpointError
from egovl.models.configs import DualEncoderConfig, Projection
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

_TOLERATED = Tolerated(dropped=(rf"textual\.{POSITION_IDS}",))


def load_state(model: DualEncoder, state: Mapping[str, Tensor]) -> LoadReport:
    """Fill a dual encoder from a published state dict, strictly."""
    return load_published(model, state, DUAL_ENCODER_KEYS, _TOLERATED)


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
