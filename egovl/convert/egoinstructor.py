"""Egoinstructor's retriever and its egocentric feature encoder (its spec, 2.4 and 2.5)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from egovl.convert import clip
from egovl.convert.keys import KeyMap, Rename
from egovl.convert.load import LoadReport, Tolerated, load_published
from egovl.convert.space_time import count_blocks
from egovl.convert.unpickle import CheckpointError
from egovl.models.configs import TextTowerConfig
from egovl.models.ego_feature_encoder import EgoFeatureEncoder
from egovl.models.retriever import ViewRetriever, stretch_positions
from egovl.models.view_configs import (
    EgoFeatureEncoderConfig,
    FeatureTowerConfig,
    ViewRetrieverConfig,
)

PUBLISHED_HEADS = 8
"""Of both towers of the released retriever, whatever CLIP has (spec 2.4)."""

POSITIONS = "positional_embedding"

_RESBLOCKS = KeyMap(
    Rename(r.published.removeprefix("transformer."), r.ours, r.layout)
    for r in clip.TEXT_KEYS.renames
    if r.published.startswith("transformer.")
)
_TEXT_SIDE = clip.TEXT_KEYS.prefixed("", "text.") + KeyMap(
    [
        Rename("text_projection", "text_projection.weight", "transpose"),
        Rename("logit_scale", "logit_scale", "scalar"),
    ]
)

RETRIEVER_KEYS = (
    _RESBLOCKS.prefixed("visual.", "video.")
    + KeyMap(
        [
            Rename("visual_ln_final.{leaf}", "video.norm.{leaf}"),
            Rename("aggregation_projection", "video_projection.weight", "transpose"),
        ]
    )
    + _TEXT_SIDE
)

_VIDEO_BLOCKS = KeyMap(
    [
        Rename("norm1.{leaf}", "norm_attn.{leaf}"),
        Rename("norm2.{leaf}", "norm_mlp.{leaf}"),
        Rename("attn.{rest}", "attn.{rest}"),
        Rename("mlp.{rest}", "mlp.{rest}"),
    ]
)
EGO_ENCODER_KEYS = (
    _VIDEO_BLOCKS.prefixed("visual.blocks.{i}.", "video.blocks.{i}.")
    + KeyMap(
        [
            Rename("visual.patch_embed.proj.{leaf}", "video.patch_embed.{leaf}"),
            Rename("visual.norm.{leaf}", "video.norm.{leaf}"),
            Rename("image_projection", "video_projection.weight", "transpose"),
        ]
    )
    + _TEXT_SIDE
)


def load_retriever(model: ViewRetriever, state: Mapping[str, Tensor]) -> LoadReport:
    """Fill a retriever; a position table of another length is cut or stretched (spec 2.4)."""
    return load_published(model, _with_positions(model, state), RETRIEVER_KEYS)


def load_clip_text(model: ViewRetriever, state: Mapping[str, Tensor]) -> LoadReport:
    """Start a retriever's text tower from CLIP, as published without projection and temperature.

    What CLIP has no part for keeps its first weights.
    """
    text = {k: v for k, v in state.items() if not k.startswith("visual.")}
    tolerated = Tolerated(
        missing=(r"video\..*", r"(video|text)_projection\..*", r"logit_scale"),
        dropped=(r"text_projection", r"logit_scale", *clip.RECORDS),
    )
    keys = clip.TEXT_KEYS.prefixed("", "text.")
    return load_published(model, _with_positions(model, text), keys, tolerated)


def load_ego_encoder(model: EgoFeatureEncoder, state: Mapping[str, Tensor]) -> LoadReport:
    """Fill an egocentric feature encoder, strictly."""
    return load_published(model, state, EGO_ENCODER_KEYS)


def _with_positions(model: ViewRetriever, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    length = model.config.text.context_length
    return {
        key: stretch_positions(value.float(), length)
        if key.removeprefix("module.") == POSITIONS
        else value
        for key, value in state.items()
    }


def retriever_config(state: Mapping[str, Tensor], num_frames: int = 32) -> ViewRetrieverConfig:
    """Sizes of a released retriever; heads are the published 8, which no tensor tells.

    Raises:
        CheckpointError: the file holds another model.
    """
    width, embed_dim = _get(state, "aggregation_projection").shape
    return ViewRetrieverConfig(
        video=FeatureTowerConfig(
            feature_width=width,
            num_frames=num_frames,
            depth=count_blocks(state, "visual.resblocks."),
            heads=PUBLISHED_HEADS,
        ),
        text=_text_config(state),
        embed_dim=embed_dim,
    )


def ego_encoder_config(
    state: Mapping[str, Tensor], image_size: int = 224, num_frames: int = 8
) -> EgoFeatureEncoderConfig:
    """Sizes of a released egocentric feature encoder; heads are 64 wide.

    Raises:
        CheckpointError: the file holds another model.
    """
    patch = _get(state, "visual.patch_embed.proj.weight")
    return EgoFeatureEncoderConfig(
        image_size=image_size,
        patch_size=patch.shape[-1],
        num_frames=num_frames,
        frames_per_token=patch.shape[2],
        width=patch.shape[0],
        depth=count_blocks(state, "visual.blocks."),
        heads=max(1, patch.shape[0] // 64),
        text=_text_config(state),
        embed_dim=_get(state, "image_projection").shape[1],
    )


def _text_config(state: Mapping[str, Tensor]) -> TextTowerConfig:
    tokens, positions = _get(state, "token_embedding.weight"), _get(state, POSITIONS)
    return TextTowerConfig(
        vocab_size=tokens.shape[0],
        context_length=positions.shape[0],
        width=tokens.shape[1],
        heads=PUBLISHED_HEADS,
        depth=count_blocks(state, "transformer.resblocks."),
    )


def _get(state: Mapping[str, Tensor], key: str) -> Tensor:
    if key not in state:
        raise CheckpointError(f"not a file of Egoinstructor's retrieval side: {key} is missing")
    return state[key]
