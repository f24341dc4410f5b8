"""Fill a model from somebody else's weights file, by the name of who wrote it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from egovl.convert import clip, egovlp, lavila
from egovl.convert.load import LoadReport
from egovl.convert.space_time import InflateMode, with_frames
from egovl.convert.unpickle import CheckpointError, load_checkpoint, strip_module
from egovl.models.dual_encoder import DualEncoder

logger = logging.getLogger(__name__)

Loader = Callable[[DualEncoder, Mapping[str, Tensor]], LoadReport]

ORIGINS: Mapping[str, Loader] = {
    "clip": clip.load_dual_encoder,
    "lavila": lavila.load_state,
    "egovlp": egovlp.load_state,
    "timm": lambda model, state: egovlp.load_vit(model.video, state),
}
# published key of the temporal embedding, and how each paper stretches it (specs, 2.3 and 2.4)
_TEMPORAL: Mapping[str, tuple[str, InflateMode]] = {
    "lavila": ("visual.temporal_embed", "bilinear"),
    "egovlp": ("video_model.temporal_embed", "zeros"),
}


def load_released(model: DualEncoder, origin: str, file: Path) -> LoadReport:
    """Load a released file into a dual encoder; the clip length is adapted where it differs.

    Raises:
        FileNotFoundError: naming what to download where.
        CheckpointError: the file holds something else, or does not fit the model.
    """
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} is not there: download the {origin} weights and name their folder as "
            "`weights` in configs/paths.yaml, or give init.file=PATH; init=null starts at random"
        )
    state = {strip_module(key): value for key, value in load_checkpoint(file).state.items()}
    if origin in _TEMPORAL:
        key, mode = _TEMPORAL[origin]
        if key in state:
            state = with_frames(state, key, model.config.video.num_frames, mode)
    try:
        report = ORIGINS[origin](model, state)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from error
    logger.info("%s (%s): %s", file, origin, report)
    return report
