"""Fill a model from a weights file, by the name of who wrote it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from egovl.convert import (
    clip,
    egoinstructor,
    egoinstructor_captioner,
    egoinstructor_files,
    egovlp,
    groundnlq,
    hiervl,
    lavila,
    narrator,
    own,
)
from egovl.convert.load import LoadReport
from egovl.convert.space_time import InflateMode, with_frames, with_patches
from egovl.convert.unpickle import CheckpointError, load_checkpoint
from egovl.models.captioner.captioner import Captioner
from egovl.models.classifier import Classifier
from egovl.models.configs import VideoTowerConfig
from egovl.models.dual_encoder import DualEncoder
from egovl.models.ego_feature_encoder import EgoFeatureEncoder
from egovl.models.grounder.grounder import Grounder
from egovl.models.hf_decoder import GPT2
from egovl.models.hierarchy_configs import LongVideoConfig
from egovl.models.long_video import LongVideoModel
from egovl.models.narrator import Narrator
from egovl.models.retriever import ViewRetriever

logger = logging.getLogger(__name__)

State = Mapping[str, Tensor]
Loader = Callable[[Any, State], LoadReport]


@dataclass(frozen=True)
class Origin:
    """How the files of one system are read."""

    dual_encoder: Loader
    classifier: Loader
    positions: str
    """Its name of the spatial positions."""
    temporal: str | None = None
    """Its name of the temporal embedding."""
    inflate: InflateMode = "zeros"
    """How its paper stretches that (specs, 2.3 and 2.4)."""
    align_corners: bool = False
    long_video: Loader | None = None
    """None: its files hold nothing for such a model."""
    narrator: Loader | None = None


ORIGINS: Mapping[str, Origin] = {
    "clip": Origin(
        clip.load_dual_encoder,
        clip.load_classifier,
        "visual.positional_embedding",
        narrator=clip.load_classifier,
    ),
    "lavila": Origin(
        lavila.load_state,
        lavila.load_state,
        "visual.pos_embed",
        "visual.temporal_embed",
        "bilinear",
        narrator=narrator.load_state,
    ),
    "egovlp": Origin(
        egovlp.load_state,
        egovlp.load_classifier,
        "video_model.pos_embed",
        "video_model.temporal_embed",
        align_corners=True,
        long_video=hiervl.load_long_video,
    ),
    "hiervl": Origin(
        hiervl.load_state,
        egovlp.load_classifier,
        "video_model.pos_embed",
        "video_model.temporal_embed",
        align_corners=True,
        long_video=hiervl.load_long_video,
    ),
    "timm": Origin(
        lambda model, state: egovlp.load_vit(model.video, state),
        lambda model, state: egovlp.load_vit(model.video, state),
        "pos_embed",
    ),
    "egovl": Origin(
        own.load_dual_encoder,
        own.load_classifier,
        "video.pos_embed",
        "video.temporal_embed",
        "bilinear",
        long_video=own.load_long_video,
        narrator=own.load_narrator,
    ),
}


GROUNDER_LOADERS: Mapping[str, Callable[[Grounder, State, bool], LoadReport]] = {
    "groundnlq": groundnlq.load_state,
    "egovl": own.load_grounder,
}


RETRIEVER_LOADERS: Mapping[str, Loader] = {
    "egoinstructor": egoinstructor.load_retriever,
    "clip": egoinstructor.load_clip_text,
    "egovl": own.load_same,
}
ENCODER_LOADERS: Mapping[str, Loader] = {
    "egoinstructor": egoinstructor.load_ego_encoder,
    "egovl": own.load_same,
}
CAPTIONER_LOADERS: Mapping[str, Loader] = {
    "egoinstructor": egoinstructor_captioner.load_captioner,
    "egovl": egoinstructor_files.load_own_captioner,
}


# a name that no other system's files have
_MARKS = {
    "aggregation.cls_token": "hiervl",  # before EgoVLP, whose towers it holds under their names
    "video_model.cls_token": "egovlp",
    "video.pos_embed": "egovl",
    "video_projection.weight": "egovl",
    "resampler.latents": "egovl",
    "aggregation_projection": "egoinstructor",
    "perceiver.latents": "egoinstructor",
    "video_embed.convs.0.weight": "egovl",
    "visual.blocks.0.attn.q_bias": "egoinstructor",  # before LaViLa, whose blocks have such names
    "visual.blocks.0.attn.qkv.weight": "lavila",
    "visual.conv1.weight": "clip",
    "blocks.0.attn.qkv.weight": "timm",
    "backbone.vid_embd.0.conv.weight": "groundnlq",
}


def find_origin(state: State) -> str:
    """Who wrote a file, by the names of its tensors.

    Raises:
        CheckpointError: nobody whose files are known.
    """
    for mark, origin in _MARKS.items():
        if mark in state:
            return origin
    raise CheckpointError(
        f"nobody knows who wrote it (it has {', '.join(sorted(state)[:4])}); "
        f"name its origin: init.origin={'|'.join({**ORIGINS, **GROUNDER_LOADERS})}"
    )


@dataclass(frozen=True)
class Adaptation:
    """How tables of positions are brought to the model's sizes."""

    inflate: InflateMode | None = None
    """Of a longer clip; None: as the origin's paper does."""
    resize_positions: bool = False
    """Bicubic to another number of patches; off, it is refused."""
    weights: Literal["raw", "ema"] = "raw"
    """Of a file that holds both: the weights, or their moving average."""
    heads: bool = True
    """Off, a grounder's heads keep their initial values."""


PUBLISHED = Adaptation()


def load_released(
    model: nn.Module, origin: str, file: Path, adaptation: Adaptation = PUBLISHED
) -> LoadReport:
    """Load a weights file into a model; the clip length is adapted where it differs.

    Raises:
        FileNotFoundError: naming what to download where.
        CheckpointError: the file holds something else, or does not fit the model.
    """
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} is not there: download the {origin} weights and name their folder as "
            "`weights` in configs/paths.yaml, or give init.file=PATH; init=null starts at random"
        )
    try:
        checkpoint = load_checkpoint(file)
        state: State = checkpoint.state
        origin = find_origin(state) if origin == "auto" else origin
        if adaptation.weights == "ema":
            state = groundnlq.averaged_state(checkpoint.extra)
        report = load_weights(model, origin, state, adaptation)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from error
    logger.info("%s (%s): %s", file, origin, report)
    return report


def load_weights(
    model: nn.Module, origin: str, state: State, adaptation: Adaptation = PUBLISHED
) -> LoadReport:
    """Load tensors under the names of `origin` into a model.

    Raises:
        CheckpointError: they are another model's, or of other sizes.
    """
    for kind, loaders in (
        (ViewRetriever, RETRIEVER_LOADERS),
        (EgoFeatureEncoder, ENCODER_LOADERS),
        (Captioner, CAPTIONER_LOADERS),
    ):
        if isinstance(model, kind) and origin in loaders:
            return loaders[origin](model, state)
    if isinstance(model, Grounder) and origin in GROUNDER_LOADERS:
        return GROUNDER_LOADERS[origin](model, state, adaptation.heads)
    known = ORIGINS.get(origin)
    if known is None:
        raise CheckpointError(f"{origin} weights cannot fill a {type(model).__name__}")
    if isinstance(model, Classifier):
        return known.classifier(model, _adapted(model, known, state, adaptation))
    if isinstance(model, DualEncoder):
        return known.dual_encoder(model, _adapted(model, known, state, adaptation))
    if isinstance(model, LongVideoModel) and known.long_video is not None:
        return known.long_video(model, _adapted(model, known, state, adaptation))
    if isinstance(model, Narrator) and known.narrator is not None:
        return known.narrator(model, _adapted(model, known, state, adaptation))
    if isinstance(model, GPT2) and origin == "egovl":
        return narrator.load_own_decoder(model, state)
    raise CheckpointError(f"{origin} weights cannot fill a {type(model).__name__}")


def _adapted(
    model: Classifier | DualEncoder | LongVideoModel | Narrator,
    origin: Origin,
    state: State,
    adaptation: Adaptation,
) -> State:
    described = model.config
    tower = (described.encoder if isinstance(described, LongVideoConfig) else described).video
    if adaptation.resize_positions and origin.positions in state:
        state = with_patches(state, origin.positions, tower.patches_per_frame)
    if isinstance(tower, VideoTowerConfig) and origin.temporal is not None:
        mode = adaptation.inflate or origin.inflate
        if origin.temporal in state:
            state = with_frames(
                state, origin.temporal, tower.num_frames, mode, origin.align_corners
            )
    return state
