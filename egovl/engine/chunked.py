"""The gradient of a whole batch from forwards of parts of it (Gao et al. 2021, GradCache).

A contrastive loss compares every row with every other, so parts cannot be summed. But the model
treats rows alone: embed all parts without a graph, take the loss and its gradient with respect to
the embeddings, then embed each part again and push its share of that gradient through. Memory is
that of one part, time one forward more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from egovl.engine.parallel import gradients_stay_local
from egovl.engine.task import ChunkedTask, DeviceBatch, Embedded, StepOutput


@dataclass(frozen=True)
class RandomState:
    """torch's random numbers of the CPU, and of a GPU."""

    cpu: Tensor
    gpu: Tensor | None
    device: torch.device

    @classmethod
    def of(cls, device: torch.device) -> RandomState:
        """The state now."""
        gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(torch.get_rng_state(), gpu, device)

    def restore(self) -> None:
        """Draw the same numbers again."""
        torch.set_rng_state(self.cpu)
        if self.gpu is not None:
            torch.cuda.set_rng_state(self.gpu, self.device)


def backward_in_chunks(
    task: ChunkedTask,
    network: nn.Module,
    batch: DeviceBatch,
    micro_batch: int,
    autocast: Callable[[], contextlib.AbstractContextManager[Any]],
    scale: Callable[[Tensor], Tensor],
) -> StepOutput:
    """Add the gradient of a whole batch's loss to the parameters.

    Args:
        task: its loss takes all rows.
        network: the model, or DDP around it; gradients are exchanged once.
        batch: this rank's rows.
        micro_batch: rows of a forward; the last part may have fewer.
        autocast: makes the precision context of a forward.
        scale: what the loss is multiplied with before its backward (a gradient scaler's ``scale``).

    Returns:
        The loss and report of the whole batch. Dropout draws the same numbers in both forwards of
        a part.
    """
    starts = range(0, len(batch.index), micro_batch)
    parts = [batch[start : start + micro_batch] for start in starts]
    kept: list[Embedded] = []
    states: list[RandomState] = []
    with torch.no_grad():
        for part in parts:
            states.append(RandomState.of(batch.index.device))
            with autocast():
                kept.append(task.embed(network, part))
    whole = _leaves(kept)
    with autocast():
        output = task.loss(whole, batch)
    scale(output.loss).backward()  # pyright: ignore[reportUnknownMemberType]
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        states[number].restore()
        with contextlib.nullcontext() if last else gradients_stay_local(network):
            with autocast():
                again = task.embed(network, part)
            rows = slice(number * micro_batch, (number + 1) * micro_batch)
            _push(again, whole, rows, with_shared=last)
    return output


def _leaves(parts: list[Embedded]) -> Embedded:
    """All parts as one, cut off the model, collecting gradients."""
    rows = {
        name: torch.cat([part.rows[name] for part in parts]).detach().requires_grad_()
        for name in parts[0].rows
    }
    shared = {name: x.detach().clone().requires_grad_() for name, x in parts[0].shared.items()}
    return Embedded(rows, shared)


def _push(part: Embedded, whole: Embedded, rows: slice, *, with_shared: bool) -> None:
    """Backward of a part's embeddings with its rows of the gradient."""
    pushed = [(x, whole.rows[name].grad, rows) for name, x in part.rows.items()]
    if with_shared:
        pushed += [(x, whole.shared[name].grad, slice(None)) for name, x in part.shared.items()]
    wanted = [
        (x, grad[own] if grad.dim() else grad)
        for x, grad, own in pushed
        if grad is not None and x.requires_grad
    ]
    torch.autograd.backward([x for x, _ in wanted], [grad for _, grad in wanted])
