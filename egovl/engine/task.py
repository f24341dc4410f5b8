"""What the engine asks of a task. Tasks implement it; the engine knows no task by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn


class DeviceBatch(Protocol):
    """A batch that can be moved and cut; ``egovl.data.types.Batch`` is one."""

    index: Tensor

    def to(self, device: Any, non_blocking: bool = True) -> DeviceBatch:
        """The same batch on a device."""
        ...

    def __getitem__(self, rows: slice) -> DeviceBatch:
        """Some rows of the batch."""
        ...


@dataclass
class StepOutput:
    """A training step's loss (scalar, differentiable) and detached scalars to log beside it."""

    loss: Tensor
    report: dict[str, Tensor] = field(default_factory=dict[str, Tensor])


@dataclass
class Embedded:
    """What a model makes of some rows of a batch, before a loss compares them."""

    rows: dict[str, Tensor]
    """Each [B, ...], a row a sample."""
    shared: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """The same for all rows: learned scalars of the loss."""


class TrainTask(Protocol):
    """A thing to learn."""

    def train_step(self, model: nn.Module, batch: Any) -> StepOutput:
        """Forward and loss of this rank's part of a batch; the task gathers across ranks."""
        ...

    def after_step(self, model: nn.Module) -> None:
        """Keep parameters in their range after the optimizer moved them."""
        ...


@runtime_checkable
class ChunkedTask(Protocol):
    """A task whose loss compares all rows, but whose model sees one at a time.

    Its ``train_step`` is ``loss(embed(model, batch), batch)``; so the trainer may embed a batch in
    parts and still take the gradient of the whole (``TrainerConfig.micro_batch``).
    """

    def embed(self, model: nn.Module, batch: Any) -> Embedded:
        """Forward of some rows."""
        ...

    def loss(self, embedded: Embedded, batch: Any) -> StepOutput:
        """Loss of this rank's part of a batch, all of whose rows are embedded."""
        ...


class EvalTask(Protocol):
    """A thing to measure."""

    def eval_step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Rows (first dim B) to keep for scoring."""
        ...

    def score(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        """Metrics over all rows of all ranks, each sample once, in dataset order."""
        ...


@runtime_checkable
class PreparedEvalTask(Protocol):
    """An evaluation that needs the weights before its first batch, as class texts do."""

    def prepare(self, model: nn.Module, device: torch.device) -> None:
        """Called on every rank at the start of every evaluation."""
        ...
