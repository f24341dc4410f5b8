"""Runs one evaluation over all ranks: each sample once, in dataset order, scored on rank 0."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from egovl import dist
from egovl.engine.heartbeat import beat
from egovl.engine.parallel import whole_weights
from egovl.engine.task import DeviceBatch, EvalTask, PreparedEvalTask


class SizedLoader(Protocol):
    """Batches of this rank's share; ``len`` is their number."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[DeviceBatch]: ...


@dataclass(frozen=True)
class Evaluation:
    """One named evaluation of a run."""

    name: str
    task: EvalTask
    loader: SizedLoader


class StopAgreed(Exception):
    """A stop was agreed on in the middle; the evaluation is repeated after the resume."""


@torch.no_grad()
def evaluate(
    evaluation: Evaluation,
    model: nn.Module,
    device: torch.device,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    autocast: Callable[[], Any] | None = None,
) -> dict[str, float]:
    """Metrics of an evaluation, the same on every rank.

    Args:
        evaluation: task and loader.
        model: not wrapped by DDP: ranks may hold unequal numbers of batches.
        device: where the model is.
        should_stop: asked as often on every rank; true on all ranks at the same call.
        autocast: makes the precision context of a forward pass.

    Raises:
        StopAgreed: ``should_stop`` said so.
    """
    was_training = model.training
    model.eval()
    kept: list[dict[str, Tensor]] = []
    gathered_weights = contextlib.ExitStack()
    gathered_weights.enter_context(whole_weights(model))
    try:
        if isinstance(evaluation.task, PreparedEvalTask):
            with autocast() if autocast else torch.autocast(device.type, enabled=False):
                evaluation.task.prepare(model, device)
        for number, batch in enumerate(_padded(evaluation.loader)):
            beat("eval", number)
            if should_stop():
                raise StopAgreed(evaluation.name)
            if batch is None:
                continue
            batch = batch.to(device)
            with autocast() if autocast else torch.autocast(device.type, enabled=False):
                rows = evaluation.task.eval_step(model, batch)
            kept.append({"index": batch.index, **rows})
    finally:
        gathered_weights.close()
        model.train(was_training)
    local = {key: torch.cat([rows[key] for rows in kept]) for key in kept[0]} if kept else {}
    nothing = torch.empty(0, dtype=torch.int64, device=device)
    index, gathered = dist.gather_rows(local.pop("index", nothing), local)
    if dist.rank() == 0 and not len(index):
        raise ValueError(f"evaluation {evaluation.name!r} has no samples")
    scores = evaluation.task.score(gathered) if dist.rank() == 0 else {}
    return dist.broadcast_object(scores)


def _padded(loader: SizedLoader) -> Iterable[DeviceBatch | None]:
    """The loader's batches, then None up to the longest share: all ranks ask to stop alike."""
    longest = dist.all_agree_max(len(loader))
    count = 0
    for batch in loader:
        count += 1
        yield batch
    for _ in range(longest - count):
        yield None
