"""Classes of long videos, told from their clips (HowTo100M; HierVL spec 5, 6.5)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from egovl.data.transforms import normalize_video
from egovl.data.types import Batch
from egovl.engine.task import StepOutput
from egovl.losses.classification import classification_loss
from egovl.losses.pairs import SideTable
from egovl.tasks.hierarchical import clip_mask
from egovl.tasks.hierarchy_configs import LongVideoClassificationConfig
from egovl.tasks.zero_shot import score_classes


class LongVideoLogits:
    """Logits of a `LongVideoModel` for a batch, from pixels or from stored embeddings."""

    def __init__(self, normalization: str) -> None:
        self._normalization = normalization
        self._cached: SideTable | None = None

    def use_clips(self, table: SideTable) -> None:
        """Take the embeddings of the clips from here, where batches hold no pixels."""
        self._cached = table

    def __call__(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Logits by label, in float32."""
        if batch.video is None:
            assert self._cached is not None
            clips = self._cached.rows(batch.index)
            logits = model(clips_BKP=clips, mask_BK=clip_mask(batch, clips.shape[1]))
        else:
            video = normalize_video(batch.video, self._normalization)
            logits = model(video, mask_BK=clip_mask(batch, video.shape[1]))
        return {label: x.float() for label, x in logits.items()}


class LongVideoClassification:
    """``TrainTask`` and ``EvalTask`` of one class a video."""

    def __init__(self, config: LongVideoClassificationConfig) -> None:
        self.config = config
        self._logits = LongVideoLogits(config.normalization)

    def use_clips(self, table: SideTable) -> None:
        """Take the embeddings of the clips from here, where batches hold no pixels."""
        self._logits.use_clips(table)

    def train_step(self, model: nn.Module, batch: Batch) -> StepOutput:
        """Cross entropy; video [B, K, C, T, H, W]."""
        logits, target = self._of_label(model, batch), batch.labels[self.config.label]
        loss = classification_loss(logits, target, smoothing=self.config.label_smoothing)
        hits = (logits.argmax(-1) == target).float().mean()
        return StepOutput(loss, {"accuracy": hits.detach()})

    def after_step(self, model: nn.Module) -> None:
        """Nothing to keep in range."""

    def eval_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Logits and class of each video."""
        return {
            "scores": self._of_label(model, batch),
            "target": batch.labels[self.config.label],
        }

    def score(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        """Percent: ``top1``, ``top5``, ``mean_class``."""
        return score_classes(rows["scores"], rows["target"])

    def _of_label(self, model: nn.Module, batch: Batch) -> Tensor:
        logits = self._logits(model, batch)
        if self.config.label not in logits:
            raise ValueError(f"the model has heads {sorted(logits)}, not {self.config.label!r}")
        return logits[self.config.label]
