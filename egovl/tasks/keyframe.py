"""State changes of objects: is there one (OSCC), at which frame (PNR). EgoVLP spec 4, 6.6."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egovl.data.transforms import normalize_video
from egovl.data.types import Batch
from egovl.engine.task import StepOutput
from egovl.metrics.keyframe import keyframe_error, state_change_accuracy
from egovl.tasks.configs import KeyframeConfig

_FACTS = ("start_frame", "end_frame", "keyframe_frame", "fps")


class Keyframe:
    """``TrainTask`` and ``EvalTask`` of one head: ``state_change`` or ``keyframe``."""

    def __init__(self, config: KeyframeConfig) -> None:
        self.config = config

    def train_step(self, model: nn.Module, batch: Batch) -> StepOutput:
        """Cross entropy; video [B, 1, C, T, H, W]."""
        logits, target = self._logits(model, batch), batch.labels[self.config.head]
        wanted = target if not self.config.label_spread else self._spread(target, logits)
        loss = F.cross_entropy(logits, wanted, label_smoothing=self.config.label_smoothing)
        hits = (logits.argmax(-1) == target).float()
        return StepOutput(loss, {"accuracy": hits.mean().detach()})

    def after_step(self, model: nn.Module) -> None:
        """Nothing to keep in range."""

    def eval_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Logits and what the metric needs of each clip."""
        facts = _FACTS if self.config.head == "keyframe" else ()
        rows = {name: batch.labels[name] for name in (self.config.head, *facts)}
        return {"scores": self._logits(model, batch), **rows}

    def score(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        """``accuracy`` in percent; with head ``keyframe`` also ``error_sec``."""
        found = state_change_accuracy(rows["scores"], rows[self.config.head])
        if self.config.head == "keyframe":
            found |= keyframe_error(
                rows["scores"],
                start_frame=rows["start_frame"],
                end_frame=rows["end_frame"],
                keyframe=rows["keyframe_frame"],
                fps=rows["fps"],
            )
        return found

    def _spread(self, target_B: Tensor, logits_BK: Tensor) -> Tensor:
        """Shares [B, K] of the places around the true ones."""
        places = torch.arange(logits_BK.shape[1], device=target_B.device)
        distance_BK = (places - target_B[:, None]) / self.config.label_spread
        return (-(distance_BK**2) / 2).softmax(dim=1)

    def _logits(self, model: nn.Module, batch: Batch) -> Tensor:
        assert batch.video is not None
        video = normalize_video(batch.video.flatten(0, 1), self.config.normalization)
        logits = model(video)
        if self.config.head not in logits:
            raise ValueError(f"the model has heads {sorted(logits)}, not {self.config.head!r}")
        return logits[self.config.head].float().unflatten(0, batch.video.shape[:2]).mean(dim=1)
