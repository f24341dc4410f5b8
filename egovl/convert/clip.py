"""OpenAI CLIP into our towers: the image transformer inflated in time, the text tower as it is."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn

from egovl.convert.keys import KeyMap, Rename
from egovl.convert.load import PSEUDO_SCALE, LoadReport, Tolerated, load_published
from egovl.convert.space_time import TIME_ONLY, count_blocks, heads_of
from egovl.convert.unpickle import CheckpointError
from egovl.models.classifier import Classifier
from egovl.models.configs import (
    DualEncoderConfig,
    ImageTowerConfig,
    TextTowerConfig,
    VideoTowerConfig,
)
from egovl.models.dual_encoder import DualEncoder
from egovl.models.image_transformer import ImageTransformer
from egovl.models.narrator import Narrator


def _block_renames(attn: str, attn_norm: str) -> list[Rename]:
    published, ours = "transformer.resblocks.{i}.", "blocks.{i}."
    pairs = [
        ("attn.in_proj_weight", f"{attn}.qkv.weight"),
        ("attn.in_proj_bias", f"{attn}.qkv.bias"),
        ("attn.out_proj.{leaf}", attn + ".proj.{leaf}"),
        ("ln_1.{leaf}", attn_norm + ".{leaf}"),
        ("ln_2.{leaf}", "norm_mlp.{leaf}"),
        ("mlp.c_fc.{leaf}", "mlp.fc1.{leaf}"),
        ("mlp.c_proj.{leaf}", "mlp.fc2.{leaf}"),
    ]
    return [Rename(published + theirs, ours + own) for theirs, own in pairs]


def _image_keys(attn: str, attn_norm: str) -> KeyMap:
    outer = [
        Rename("class_embedding", "cls_token", "leading_ones"),
        Rename("positional_embedding", "pos_embed", "leading_ones"),
        Rename("conv1.weight", "patch_embed.weight"),
        Rename("ln_pre.{leaf}", "norm_pre.{leaf}"),
        Rename("ln_post.{leaf}", "norm.{leaf}"),
    ]
    return KeyMap(outer + _block_renames(attn, attn_norm)).prefixed("visual.", "")


IMAGE_KEYS = _image_keys("attn_space", "norm_space")
"""CLIP's image transformer inflated into a space-time tower."""

FRAME_KEYS = _image_keys("attn", "norm_attn")
"""The same as it is, for a tower that sees frame by frame."""

TEXT_KEYS = KeyMap(
    [
        Rename("token_embedding.weight", "token_embed.weight"),
        Rename("positional_embedding", "pos_embed"),
        Rename("ln_final.{leaf}", "norm.{leaf}"),
        *_block_renames("attn", "norm_attn"),
    ]
)

PROJECTION_KEYS = KeyMap(
    [
        Rename("visual.proj", "video_projection.weight", "transpose"),
        Rename("text_projection", "text_projection.weight", "transpose"),
        Rename("logit_scale", "logit_scale", "scalar"),
    ]
)

DUAL_ENCODER_KEYS = (
    IMAGE_KEYS.prefixed("", "video.") + TEXT_KEYS.prefixed("", "text.") + PROJECTION_KEYS
)
FRAME_DUAL_ENCODER_KEYS = (
    FRAME_KEYS.prefixed("", "video.") + TEXT_KEYS.prefixed("", "text.") + PROJECTION_KEYS
)
"""OpenAI's own model, and LaViLa's per-frame ones, which keep its names."""

RECORDS = ("input_resolution", "context_length", "vocab_size")
"""Written into OpenAI's archives beside the weights."""

_PROJECTIONS = (r"visual\.proj", r"text_projection", r"logit_scale")
_OWN_PROJECTIONS = (r"video_projection\..*", r"text_projection\..*", r"logit_scale")


def load_image_tower(tower: nn.Module, state: Mapping[str, Tensor]) -> LoadReport:
    """Fill a video tower from CLIP's image transformer; what acts in time keeps its init."""
    visual = {key: tensor for key, tensor in state.items() if key.startswith("visual.")}
    by_frame = isinstance(tower, ImageTransformer)
    tolerated = Tolerated(missing=() if by_frame else TIME_ONLY, dropped=(r"visual\.proj",))
    return load_published(tower, visual, FRAME_KEYS if by_frame else IMAGE_KEYS, tolerated)


def load_text_tower(tower: nn.Module, state: Mapping[str, Tensor]) -> LoadReport:
    """Fill a CLIP text tower."""
    tolerated = Tolerated(dropped=(r"visual\..*", *_PROJECTIONS, *RECORDS))
    return load_published(tower, state, TEXT_KEYS, tolerated)


def load_dual_encoder(model: DualEncoder, state: Mapping[str, Tensor]) -> LoadReport:
    """Fill a dual encoder.

    CLIP's projections and temperature come along only if the embedding has CLIP's width; at another
    width they keep their random initial values, as published. A DistilBERT text tower keeps its own
    weights.
    """
    if not isinstance(model.config.text, TextTowerConfig):
        return load_classifier(model, state)
    same_width = _embed_dim(state) == model.config.embed_dim and model.config.projection == "linear"
    by_frame = isinstance(model.video, ImageTransformer)
    missing = (PSEUDO_SCALE,) if by_frame else (*TIME_ONLY, PSEUDO_SCALE)
    tolerated = Tolerated(
        missing=missing if same_width else missing + _OWN_PROJECTIONS,
        dropped=RECORDS if same_width else RECORDS + _PROJECTIONS,
    )
    keys = FRAME_DUAL_ENCODER_KEYS if by_frame else DUAL_ENCODER_KEYS
    return load_published(model, state, keys, tolerated)


def load_classifier(
    model: DualEncoder | Classifier | Narrator, state: Mapping[str, Tensor]
) -> LoadReport:
    """Fill the video tower alone; the rest of the file is unexpected, and reported."""
    report = load_image_tower(model.video, state)
    rest = tuple(key for key in state if not key.startswith("visual."))
    return LoadReport(report.matched, report.missing, rest, report.dropped)


def frame_tower_config(state: Mapping[str, Tensor]) -> ImageTowerConfig:
    """Sizes of the tower that sees frame by frame."""
    sizes = image_tower_config(state, num_frames=1)
    return ImageTowerConfig(
        image_size=sizes.image_size,
        patch_size=sizes.patch_size,
        width=sizes.width,
        depth=sizes.depth,
        heads=sizes.heads,
    )


def image_tower_config(state: Mapping[str, Tensor], num_frames: int) -> VideoTowerConfig:
    """Sizes of the tower that CLIP's image transformer inflates to."""
    patch, positions = (
        _get(state, "visual.conv1.weight"),
        _get(state, "visual.positional_embedding"),
    )
    width, patch_size = patch.shape[0], patch.shape[-1]
    return VideoTowerConfig(
        image_size=patch_size * math.isqrt(positions.shape[0] - 1),
        patch_size=patch_size,
        width=width,
        depth=count_blocks(state, "visual.transformer.resblocks."),
        heads=heads_of(width),
        num_frames=num_frames,
    )


def text_tower_config(state: Mapping[str, Tensor]) -> TextTowerConfig:
    """Sizes of a CLIP text tower, from CLIP's or LaViLa's names."""
    tokens, positions = _get(state, "token_embedding.weight"), _get(state, "positional_embedding")
    return TextTowerConfig(
        vocab_size=tokens.shape[0],
        context_length=positions.shape[0],
        width=tokens.shape[1],
        heads=heads_of(tokens.shape[1]),
        depth=count_blocks(state, "transformer.resblocks."),
    )


def dual_encoder_config(
    state: Mapping[str, Tensor], num_frames: int, embed_dim: int | None = None
) -> DualEncoderConfig:
    """The dual encoder that a CLIP checkpoint starts; `embed_dim` defaults to CLIP's."""
    return DualEncoderConfig(
        video=image_tower_config(state, num_frames),
        text=text_tower_config(state),
        embed_dim=embed_dim or _embed_dim(state),
    )


def frame_dual_encoder_config(state: Mapping[str, Tensor]) -> DualEncoderConfig:
    """The model that OpenAI released, frame by frame; LaViLa's per-frame ones look the same."""
    return DualEncoderConfig(
        video=frame_tower_config(state), text=text_tower_config(state), embed_dim=_embed_dim(state)
    )


def _embed_dim(state: Mapping[str, Tensor]) -> int:
    return _get(state, "text_projection").shape[1]


def _get(state: Mapping[str, Tensor], key: str) -> Tensor:
    if key not in state:
        raise CheckpointError(f"not a CLIP checkpoint with a vision transformer: {key} is missing")
    return state[key]
