"""Checkpoints through torch.distributed.checkpoint: written beside, marked by COMMIT, then renamed.

``latest`` is computed from COMMIT marks, never from a pointer file; a damaged newest checkpoint
falls back to the one before and says so. Only tensors are stored, so that no pickle of a file has
to be trusted: counters stand in COMMIT (json), hyper-parameters in the run's config.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
import warnings
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as torch_dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from egovl import dist
from egovl.engine.average import WeightAverage
from egovl.engine.folder import RunFolder, Superseded, write_json
from egovl.engine.metadata import SafeReader

logger = logging.getLogger(__name__)

# said at every read and write of a single process, which is what it is meant to be
warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)

COMMIT = "COMMIT"
AVERAGE = "average"
_FLAT = StateDictOptions(flatten_optimizer_state_dict=True)


class CheckpointError(RuntimeError):
    """Nothing to resume from although checkpoints are there, or a save that failed."""


@dataclass(frozen=True)
class TrainState:
    """The counters of a run: steps taken, samples consumed, the loss scaler of fp16 training."""

    step: int = 0
    samples: int = 0
    scaler: dict[str, float] | None = None


class Checkpointer:
    """Saves and loads one run's checkpoints; every rank calls every method at the same step."""

    def __init__(self, folder: RunFolder, *, keep: int = 2, asynchronous: bool = False) -> None:
        self._folder = folder
        self._keep = keep
        self._asynchronous = asynchronous
        self.average: WeightAverage | None = None
        """Saved and restored with the model, where the trainer keeps one."""
        self.protected: int | None = None
        """Step of a checkpoint that is kept however old it is."""
        self._pending: tuple[Future[Any], TrainState, Path] | None = None
        # background collectives must not mix with those of training
        self._group: torch_dist.ProcessGroup | None = None
        if torch_dist.is_initialized():
            self._group = cast(torch_dist.ProcessGroup, torch_dist.new_group(backend="gloo"))
        self.save_seconds = 0.0

    def save(
        self, state: TrainState, model: nn.Module, optimizer: torch.optim.Optimizer, *, wait: bool
    ) -> None:
        """Write step ``state.step``; without ``wait`` it may finish behind the next steps.

        Raises:
            CheckpointError: a rank could not write (full disk); the older checkpoints stay valid.
            Superseded: a newer attempt holds the run.
        """
        self.finish()
        self._folder.require_current()
        started = time.monotonic()
        final = self._folder.checkpoints / f"step-{state.step}"
        # rank 0 looks for all: a background save of this very step may be committed just now
        if dist.broadcast_object((final / COMMIT).exists()):
            return
        beside = self._folder.checkpoints / f".step-{state.step}.a{self._folder.attempt}"
        tensors = _tensors(model, optimizer)
        if self.average is not None:
            tensors[AVERAGE] = self.average.tensors
        writer = dcp.FileSystemWriter(str(beside), sync_files=True, overwrite=True)
        try:
            if self._asynchronous and not wait and self._group is not None:
                future = dcp.async_save(tensors, storage_writer=writer, process_group=self._group)
                self._pending = (cast("Future[Any]", future), state, beside)
                return
            dcp.save(
                tensors,
                storage_writer=writer,
                process_group=self._group,
                no_dist=self._group is None,
            )
        except (dcp.CheckpointException, OSError, RuntimeError) as error:
            self._discard(beside)
            raise CheckpointError(_save_message(final, error)) from error
        self._commit(state, beside, final)
        self.save_seconds = time.monotonic() - started

    def poll(self) -> None:
        """Commit a background save that has ended on this rank's side."""
        if self._pending is not None and dist.rank() == 0 and self._pending[0].done():
            future, state, beside = self._pending
            self._pending = None
            self._finish_one(future, state, beside)

    def finish(self) -> None:
        """Wait for a background save and commit it."""
        if self._pending is not None:
            future, state, beside = self._pending
            self._pending = None
            self._finish_one(future, state, beside)

    def load_latest(
        self, model: nn.Module, optimizer: torch.optim.Optimizer | None
    ) -> TrainState | None:
        """Load the newest whole checkpoint in place; None when the run has none.

        Raises:
            CheckpointError: there are checkpoints and none of them can be read.
        """
        found, damaged = dist.broadcast_object(committed(self._folder.checkpoints))
        for note in damaged:
            _log_once("%s: trying the checkpoint before it", note)
        for step in found:
            path = self._folder.checkpoints / f"step-{step}"
            state = self._try_load(path, model, optimizer)
            if state is not None:
                return state
        if found or damaged:
            raise CheckpointError(
                f"{self._folder.checkpoints}: no readable checkpoint among steps "
                f"{found or 'listed above'}; move the folder away to start the run anew"
            )
        return None

    def _try_load(
        self, path: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None
    ) -> TrainState | None:
        failure = ""
        try:
            load_into(path, model, optimizer, group=self._group)
            if self.average is not None:
                load_average(path, model, self.average, group=self._group)
        except (dcp.CheckpointException, OSError, RuntimeError, ValueError) as error:
            failure = _cause(error)
        if dist.all_agree_max(int(bool(failure))):
            _log_once("%s cannot be loaded (%s): trying the checkpoint before it", path, failure)
            return None
        return read_commit(path)

    def _finish_one(self, future: Future[Any], state: TrainState, beside: Path) -> None:
        """Commit a background save; one that failed is loud, and the steps after it go on."""
        try:
            future.result()
            if dist.rank() == 0:
                commit_folder(self._folder, state, beside)
                self._prune()
        except (dcp.CheckpointException, OSError, RuntimeError) as error:
            self._discard(beside)
            if dist.rank() == 0:
                logger.error("%s", _save_message(beside, error))

    def _commit(self, state: TrainState, beside: Path, final: Path) -> None:
        outcome = ""
        if dist.rank() == 0:
            try:
                commit_folder(self._folder, state, beside)
                self._prune()
            except OSError as error:
                outcome = str(error)
            except Superseded:
                outcome = "superseded"
        outcome = dist.broadcast_object(outcome)
        if outcome == "superseded":
            self._folder.require_current()
        if outcome:
            self._discard(beside)
            raise CheckpointError(_save_message(final, outcome))

    def _prune(self) -> None:
        steps, _ = committed(self._folder.checkpoints)
        for step in steps[self._keep :]:
            if step == self.protected:
                continue
            shutil.rmtree(self._folder.checkpoints / f"step-{step}", ignore_errors=True)

    def _discard(self, beside: Path) -> None:
        if dist.rank() == 0:
            shutil.rmtree(beside, ignore_errors=True)


def commit_folder(folder: RunFolder, state: TrainState, beside: Path) -> None:
    """Seal a written folder: list its files and sizes in COMMIT, then rename it into place."""
    folder.require_current()
    files = {f.name: f.stat().st_size for f in sorted(beside.iterdir()) if f.name != COMMIT}
    record = asdict(state) | {
        "attempt": folder.attempt,
        "world_size": dist.world_size(),
        "files": files,
    }
    write_json(beside / COMMIT, record)
    final = folder.checkpoints / f"step-{state.step}"
    if final.exists():  # left without COMMIT, or damaged: replace it
        shutil.rmtree(final)
    folder.require_current()
    os.replace(beside, final)


def committed(checkpoints: Path) -> tuple[list[int], list[str]]:
    """Whole checkpoints of a folder, newest first, and a note on each damaged one."""
    whole: list[int] = []
    damaged: list[str] = []
    for path in checkpoints.glob("step-*"):
        if not path.name[5:].isdigit() or not (path / COMMIT).exists():
            continue
        try:
            sizes = json.loads((path / COMMIT).read_text())["files"]
        except (ValueError, KeyError) as error:
            damaged.append(f"{path / COMMIT} cannot be read ({error})")
            continue
        wrong = [n for n, size in sizes.items() if _size(path / n) != size]
        if wrong:
            damaged.append(
                f"{path / wrong[0]} holds {_size(path / wrong[0])} bytes, "
                f"COMMIT says {sizes[wrong[0]]}"
            )
        else:
            whole.append(int(path.name[5:]))
    return sorted(whole, reverse=True), damaged


def read_commit(path: Path) -> TrainState:
    """The counters of a checkpoint folder."""
    record = json.loads((path / COMMIT).read_text())
    return TrainState(record["step"], record["samples"], record.get("scaler"))


def load_into(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    *,
    group: torch_dist.ProcessGroup | None = None,
) -> None:
    """Load a checkpoint folder into a model and, where given, its optimizer; reshards as needed."""
    state = {"model": get_model_state_dict(model)}
    untouched: list[nn.Parameter] = []
    if optimizer is not None:
        moments = _optimizer_tensors(model, optimizer)
        untouched = _never_stepped(path, model, moments)
        state |= {"optimizer": moments}
    dcp.load(
        state, storage_reader=SafeReader(str(path)), process_group=group, no_dist=group is None
    )
    set_model_state_dict(model, state["model"])
    if optimizer is not None:
        whole = get_optimizer_state_dict(model, optimizer, options=_FLAT)
        merged = cast("dict[str, Any]", {**whole, **state["optimizer"]})
        set_optimizer_state_dict(model, optimizer, merged, options=_FLAT)
        for param in untouched:
            optimizer.state.pop(param, None)


def _never_stepped(
    path: Path, model: nn.Module, moments: dict[str, torch.Tensor]
) -> list[nn.Parameter]:
    """Parameters whose moments the checkpoint lacks, as no step before it used them.

    Their entries are taken out of ``moments``, so that they start as they would have started.
    """
    stored = SafeReader(str(path)).read_metadata().state_dict_metadata
    found: list[nn.Parameter] = []
    lacking: list[str] = []
    for name, param in model.named_parameters():
        own = [key for key in moments if key.startswith(f"state.{name}.")]
        if own and not any(f"optimizer.{key}" in stored for key in own):
            found.append(param)
            lacking += own
    if len(lacking) == len(moments):
        return []  # no moments at all: loading says what is missing
    for key in lacking:
        del moments[key]
    return found


def load_average(
    path: Path,
    model: nn.Module,
    average: WeightAverage,
    *,
    group: torch_dist.ProcessGroup | None = None,
) -> None:
    """Restore an average of weights; a checkpoint without one lets it begin at the model's."""
    if not has_average(path):
        _log_once("%s has no average of weights: it begins at the weights of this step", path)
        average.reset(model.state_dict())
        return
    dcp.load(
        {AVERAGE: average.tensors},
        storage_reader=SafeReader(str(path)),
        process_group=group,
        no_dist=group is None,
    )


def has_average(path: Path) -> bool:
    """Whether a checkpoint folder holds an average of weights."""
    stored = SafeReader(str(path)).read_metadata().state_dict_metadata
    return any(name.startswith(f"{AVERAGE}.") for name in stored)


def read_weights(path: Path, *, averaged: bool = False) -> dict[str, torch.Tensor]:
    """The model's tensors in a checkpoint folder, whatever model it was; or their average.

    Raises:
        CheckpointError: the run kept no average.
    """
    stored = SafeReader(str(path)).read_metadata().state_dict_metadata
    prefix = f"{AVERAGE}." if averaged else "model."
    tensors = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in stored.items()
        if name.startswith(prefix) and isinstance(entry, TensorStorageMetadata)
    }
    if not tensors:
        raise CheckpointError(
            f"{path} holds no average of weights; set trainer.ema_decay to keep one"
        )
    dcp.load(tensors, storage_reader=SafeReader(str(path)), no_dist=True)
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def _tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Any]]:
    return {
        "model": get_model_state_dict(model),
        "optimizer": _optimizer_tensors(model, optimizer),
    }


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    flat = get_optimizer_state_dict(model, optimizer, options=_FLAT)
    return {k: v for k, v in flat.items() if isinstance(v, torch.Tensor)}


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else -1


def _cause(error: object) -> str:
    """The first rank's own error in one line, without the traceback that DCP wraps around it."""
    if isinstance(error, dcp.CheckpointException):
        rank, (inner, _) = next(iter(error.failures.items()))
        return f"rank {rank}: {_cause(inner)}"
    first = next((line for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}" if isinstance(error, BaseException) else first


def _save_message(path: Path, error: object) -> str:
    free = shutil.disk_usage(path.parent if path.parent.exists() else path.parents[1]).free
    return (
        f"could not save {path.name}: {_cause(error)} ({free / 2**20:.0f} MiB free on that disk); "
        f"older checkpoints are untouched: free some space, the run goes on from them"
    )


def _log_once(message: str, *values: object) -> None:
    if dist.rank() == 0:
        logger.warning(message, *values)
