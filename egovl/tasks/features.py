"""Features of clips out of a trained model's video side, for other systems to read."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from egovl.data.types import Batch
from egovl.models.classifier import Classifier
from egovl.models.dual_encoder import DualEncoder
from egovl.models.ego_feature_encoder import EgoFeatureEncoder
from egovl.tasks.configs import FeaturesConfig
from egovl.tasks.views import encode_views

_PROJECTED = (DualEncoder, EgoFeatureEncoder)


class Features:
    """``EvalTask`` without a score: one feature a clip, the mean over its views."""

    def __init__(self, config: FeaturesConfig) -> None:
        self.config = config

    def eval_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Features [B, D] float32; video [B, K, C, T, H, W]."""
        assert batch.video is not None

        def encode(video_BCTHW: Tensor) -> Tensor:
            feature = video_tower(model)(video_BCTHW)
            if not self.config.projection:
                return feature
            assert isinstance(model, _PROJECTED)
            return model.video_projection(feature)

        views_BKD = encode_views(encode, batch.video, self.config.normalization)
        return {"features": views_BKD.mean(dim=1)}

    def score(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        """Nothing is measured."""
        return {}

    def width(self, model: nn.Module) -> int:
        """Numbers of a feature.

        Raises:
            ValueError: the model has no such feature.
        """
        tower = video_tower(model)
        if not self.config.projection:
            return int(tower.width)  # type: ignore[arg-type]  every tower has one
        if not isinstance(model, _PROJECTED):
            raise ValueError(
                f"a {type(model).__name__} has no projection: set features.task.projection=false"
            )
        is_identity = isinstance(model.video_projection, nn.Identity)
        return int(tower.width) if is_identity else model.config.embed_dim  # type: ignore[arg-type]

    def layer(self, model: nn.Module) -> str:
        """What of the tower, behind its last norm: the clip's token, or the mean of all tokens."""
        return "mean" if isinstance(model, EgoFeatureEncoder) else "cls"


def video_tower(model: nn.Module) -> nn.Module:
    """The part of a model that sees clips.

    Raises:
        ValueError: it has none.
    """
    if not isinstance(model, (*_PROJECTED, Classifier)):
        raise ValueError(f"a {type(model).__name__} has no video tower to take features from")
    return model.video
