"""Which actions come next: Ego4D's long-term anticipation (HierVL spec 6.6)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from egovl.data.types import Batch
from egovl.engine.task import StepOutput
from egovl.losses.classification import multi_head_loss
from egovl.losses.pairs import SideTable
from egovl.metrics.anticipation import nearest_edit_distance
from egovl.tasks.hierarchy_configs import AnticipationConfig
from egovl.tasks.long_video import LongVideoLogits

_LABELS = ("verb", "noun")


class Anticipation:
    """``TrainTask`` and ``EvalTask`` of the verbs and nouns of ``Z`` coming actions."""

    def __init__(self, config: AnticipationConfig) -> None:
        self.config = config
        self._logits = LongVideoLogits(config.normalization)

    def use_clips(self, table: SideTable) -> None:
        """Take the embeddings of the clips from here, where batches hold no pixels."""
        self._logits.use_clips(table)

    def train_step(self, model: nn.Module, batch: Batch) -> StepOutput:
        """Cross entropies of verbs and nouns, each the mean over all steps."""
        logits = self._steps(model, batch)
        loss = multi_head_loss(
            [logits[label].flatten(0, 1) for label in _LABELS],
            [batch.labels[label].flatten() for label in _LABELS],
            smoothing=0.0,
        )
        hits = {x: (logits[x].argmax(-1) == batch.labels[x]).float().mean() for x in _LABELS}
        return StepOutput(loss, {f"{label}_accuracy": hit.detach() for label, hit in hits.items()})

    def after_step(self, model: nn.Module) -> None:
        """Nothing to keep in range."""

    def eval_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Drawn sequences ``[B, K, Z]`` of verbs and nouns, and the true ones ``[B, Z]``."""
        logits, rows = self._steps(model, batch), {}
        for number, label in enumerate(_LABELS):
            rows[f"drawn_{label}"] = self._draw(logits[label], batch.index, number)
            rows[label] = batch.labels[label]
        return rows

    def score(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        """Edit distances of the nearest sequences, 0 .. 1: ``verb``, ``noun``, ``action``."""
        drawn, true = ({x: rows[prefix + x] for x in _LABELS} for prefix in ("drawn_", ""))
        classes = 1 + max(int(drawn["noun"].max()), int(true["noun"].max()))
        drawn["action"] = drawn["verb"] * classes + drawn["noun"]
        true["action"] = true["verb"] * classes + true["noun"]
        return {f"ed_{x}": float(nearest_edit_distance(drawn[x], true[x]).mean()) for x in drawn}

    def _steps(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits = self._logits(model, batch)
        steps = batch.labels["verb"].shape[1]
        for label in _LABELS:
            if label not in logits or logits[label].dim() != 3 or logits[label].shape[1] != steps:
                raise ValueError(
                    f"the dataset has {steps} coming actions with verb and noun; the model's heads "
                    f"are { {k: list(x.shape[1:]) for k, x in logits.items()} }: set "
                    f"model.num_steps={steps} and heads verb and noun"
                )
        return logits

    def _draw(self, logits_BZC: Tensor, index: Tensor, kind: int) -> Tensor:
        """Sequences drawn step by step from the class probabilities, by sample: ``[B, K, Z]``."""
        drawn = []
        for row, probabilities in zip(index.tolist(), logits_BZC.softmax(-1).cpu(), strict=True):
            numbers = torch.Generator().manual_seed((self.config.seed << 40) + (row << 1) + kind)
            count = self.config.num_sequences
            drawn.append(torch.multinomial(probabilities, count, True, generator=numbers).T)
        return torch.stack(drawn).to(index.device)
