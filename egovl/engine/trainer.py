"""One training loop for every task: step, agree on a stop, log, evaluate, save, resume exactly.

The state of a run is its weights, its optimizer and two counters (``TrainState``): sample order
and augmentation are functions of (seed, epoch, index), random draws of a step are seeded by (seed,
step, rank), and the learning rate is a function of the step. So a stopped and resumed run computes
what the unbroken run computes, bit for bit on CPU with gloo and the same world size.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from egovl import dist
from egovl.engine.average import WeightAverage
from egovl.engine.checkpoint import COMMIT, Checkpointer, CheckpointError, TrainState
from egovl.engine.chunked import backward_in_chunks
from egovl.engine.configs import OptimConfig, TrainerConfig
from egovl.engine.evaluator import Evaluation, StopAgreed, evaluate
from egovl.engine.flops import peak_flops, utilisation
from egovl.engine.folder import RunFolder, write_json
from egovl.engine.heartbeat import beat
from egovl.engine.log import Progress, RunLog, evaluated_names
from egovl.engine.monitor import Monitor
from egovl.engine.optim import build_optimizer, lr_at, scaled_lr_at
from egovl.engine.parallel import clip_grad_norm, gradients_stay_local, shard, wrap
from egovl.engine.signals import StopRequest
from egovl.engine.task import ChunkedTask, DeviceBatch, StepOutput, TrainTask

logger = logging.getLogger(__name__)

_SHOWN = ("loss", "clips_per_sec", "mfu")
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class TrainingDiverged(RuntimeError):
    """The loss is not finite."""


@dataclass(frozen=True)
class TrainPlan:
    """What to train, on what, for how long.

    ``batches(start_sample)`` yields this rank's part of the global batches from that sample on.
    ``forward_flops`` are those of one sample, where they are known.
    """

    task: TrainTask
    model: nn.Module
    batches: Callable[[int], Iterator[DeviceBatch]]
    global_batch: int
    total_steps: int
    evaluations: list[Evaluation]
    seed: int
    forward_flops: float | None = None
    average_start: dict[str, Tensor] | None = None
    """Where the moving average of the weights begins; None: at the weights."""


@dataclass
class FitResult:
    """How a training ended."""

    outcome: Literal["done", "stopped"]
    step: int
    train_loss: float = math.nan
    metrics: dict[str, float] = field(default_factory=dict)


class Trainer:
    """Trains one plan in one run folder."""

    def __init__(
        self,
        plan: TrainPlan,
        optim: OptimConfig,
        config: TrainerConfig,
        folder: RunFolder,
        stop: StopRequest,
        device: torch.device,
    ) -> None:
        if config.micro_batch is not None and not isinstance(plan.task, ChunkedTask):
            raise ValueError(
                f"trainer.micro_batch {config.micro_batch}: {type(plan.task).__name__} cannot be "
                "embedded in parts; use trainer.accumulate"
            )
        self.plan = plan
        self.config = config
        self.folder = folder
        self.device = device
        self.model = plan.model.to(self.device)
        if config.parallel == "fsdp2" and dist.world_size() > 1:
            shard(self.model, self.device)
        self.optim_config = optim
        self.optimizer = build_optimizer(self.model, optim)
        self.scaler = torch.GradScaler(self.device.type, enabled=config.precision == "fp16")
        self.checkpointer = Checkpointer(
            folder, keep=config.keep_checkpoints, asynchronous=config.async_save
        )
        self.average: WeightAverage | None = None
        if config.ema_decay is not None:
            self.average = WeightAverage(self.model, config.ema_decay, plan.average_start)
        self.checkpointer.average = self.average
        self._monitor = Monitor(config.monitor)
        self._stop = stop
        self._flag = dist.AsyncFlag()
        self._step = 0
        self._metrics: dict[str, float] = {}
        self._failed_saves = 0
        self._last_save_time = time.monotonic()

    def fit(self) -> FitResult:
        """Train to the last step, or until a stop is agreed on; a checkpoint stands in both cases.

        Raises:
            TrainingDiverged: naming the step.
            CheckpointError: the last save failed.
            Superseded: a newer attempt holds the run.
        """
        state = self.checkpointer.load_latest(self.model, self.optimizer) or TrainState()
        self._step = state.step
        self._recall_best()
        if state.scaler is not None:
            self.scaler.load_state_dict(state.scaler)
        self.model.train()
        network = wrap(self.model, self.config, self.device)
        log = RunLog(self.folder, state.step) if dist.rank() == 0 else None
        pending = _Pending(self.plan, peak_flops(self.device))
        progress = None
        if log is not None:
            if state.step:
                logger.info("resuming at step %d of %d", state.step, self.plan.total_steps)
            progress = Progress(self.plan.total_steps, state.step, "train")
        batches = self.plan.batches(state.samples)
        try:
            result = self._loop(network, batches, pending, log, progress)
        finally:
            if progress is not None:
                progress.close()
            if log is not None:
                log.close()
            if isinstance(close := getattr(batches, "close", None), Callable):
                close()
            self._flag.close()
        return result

    def _loop(
        self,
        network: nn.Module,
        batches: Iterator[DeviceBatch],
        pending: _Pending,
        log: RunLog | None,
        progress: Progress | None,
    ) -> FitResult:
        first = next(batches).to(self.device) if self._step < self.plan.total_steps else None
        self._warm_up_buckets(network, first)
        try:
            if self._evaluate_if_due(log, resumed=True):
                self._keep_if_best()
            while self._step < self.plan.total_steps:
                beat("step", self._step)
                if self._agreed_to_stop():
                    raise StopAgreed
                batch, first = first if first is not None else next(batches), None
                lr = lr_at(self._step, self.optim_config, self.plan.total_steps)
                report = self._train_step(network, batch.to(self.device))
                self._step += 1
                pending.add({"step": self._step, "steps": self.plan.total_steps, "lr": lr}, report)
                save = self._save_is_due()
                last = self._step == self.plan.total_steps
                # before a checkpoint, so that no step below a COMMIT lacks its line after a kill
                if save or last or self._step % self.config.log_every == 0:
                    self._log(pending, log, progress)
                if save and not last:
                    self._save(wait=False, must=False)
                if self._evaluate_if_due(log):
                    self._keep_if_best()
                    pending.start_clock()
        except StopAgreed:
            self._log(pending, log, progress)
            self._save(wait=True, must=True)
            return FitResult("stopped", self._step, pending.last_loss, self._metrics)
        self._save(wait=True, must=True)
        return FitResult("done", self._step, pending.last_loss, self._metrics)

    def _warm_up_buckets(self, network: nn.Module, batch: DeviceBatch | None) -> None:
        """Run one backward whose gradients are dropped, at fresh and resumed starts alike.

        DDP orders its buckets after the first backward; a sum over more than two ranks depends on
        where a value lies in its bucket. Without this a resumed run's first step differs in the
        last bit from the unbroken run's.
        """
        replicated = isinstance(network, DistributedDataParallel)
        if batch is None or not (replicated and self.config.bucket_warmup):
            return
        if dist.world_size() <= 2:
            return
        self._seed_step()
        self._backward(network, batch)
        self.optimizer.zero_grad(set_to_none=True)

    def _train_step(self, network: nn.Module, batch: DeviceBatch) -> dict[str, Tensor]:
        self._seed_step()
        for group in self.optimizer.param_groups:
            scale = group.get("lr_scale", 1.0)
            group["lr"] = scaled_lr_at(self._step, self.optim_config, self.plan.total_steps, scale)
        report = self._backward(network, batch)
        optim = self.optim_config
        if optim.clip_grad_norm is not None or optim.clip_grad_value is not None:
            self.scaler.unscale_(self.optimizer)
        if optim.clip_grad_norm is not None:
            report["grad_norm"] = clip_grad_norm(self.model.parameters(), optim.clip_grad_norm)
        if optim.clip_grad_value is not None:
            nn.utils.clip_grad_value_(self.model.parameters(), optim.clip_grad_value)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.plan.task.after_step(self.model)
        if self.average is not None:
            self.average.update(self.model)
        return report

    def _backward(self, network: nn.Module, batch: DeviceBatch) -> dict[str, Tensor]:
        """Forward and backward in ``accumulate`` parts; returns the mean of what they report."""
        parts = self.config.accumulate
        size = math.ceil(len(batch.index) / parts)
        total: dict[str, Tensor] = {}
        for number in range(parts):
            last = number == parts - 1
            part = batch[number * size : (number + 1) * size] if parts > 1 else batch
            with contextlib.nullcontext() if last else gradients_stay_local(network):
                output = self._backward_part(network, part, parts)
            for key, value in {"loss": output.loss.detach(), **output.report}.items():
                total[key] = total.get(key, torch.zeros((), device=value.device)) + value / parts
        return total

    def _backward_part(self, network: nn.Module, part: DeviceBatch, parts: int) -> StepOutput:
        task, micro_batch = self.plan.task, self.config.micro_batch
        if micro_batch is not None and len(part.index) > micro_batch:
            assert isinstance(task, ChunkedTask)
            return backward_in_chunks(
                task, network, part, micro_batch, self.autocast, self.scaler.scale
            )
        with self.autocast():
            output = task.train_step(network, part)
        self.scaler.scale(output.loss / parts).backward()  # pyright: ignore
        return output

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The precision of a forward pass."""
        dtype = _DTYPES.get(self.config.precision)
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def _seed_step(self) -> None:
        """Random draws inside a step (dropout, drop path) depend on (seed, step, rank) alone."""
        sequence = np.random.SeedSequence([self.plan.seed, self._step, dist.rank()])
        number = int(sequence.generate_state(1, np.uint64)[0])
        torch.manual_seed(number)
        random.seed(number)
        np.random.seed(number % 2**32)

    def _agreed_to_stop(self) -> bool:
        return self._flag.exchange(self._stop.requested())

    def _evaluate_if_due(self, log: RunLog | None, *, resumed: bool = False) -> bool:
        """Evaluate at the configured steps; after a resume, what the stop left out of this step."""
        every, step = self.config.eval_every, self._step
        final = step == self.plan.total_steps
        if step == 0 or not self.plan.evaluations or not (final or (every and step % every == 0)):
            return False
        done: list[str] = []
        if resumed:
            done = dist.broadcast_object(sorted(evaluated_names(self.folder, step)))
        for evaluation in self.plan.evaluations:
            if evaluation.name in done and not final and self._monitor.mode == "off":
                continue
            with self._evaluated_weights():
                metrics = evaluate(
                    evaluation,
                    self.model,
                    self.device,
                    should_stop=self._agreed_to_stop,
                    autocast=self.autocast,
                )
            self._metrics |= {f"{evaluation.name}/{k}": v for k, v in metrics.items()}
            if log is not None:
                log.evaluation(step, evaluation.name, metrics)
                shown = ", ".join(f"{k} {v:.2f}" for k, v in metrics.items())
                logger.info("step %d: %s: %s", step, evaluation.name, shown)
        return True

    def _evaluated_weights(self) -> contextlib.AbstractContextManager[None]:
        if self.average is not None and self.config.evaluate_ema:
            return self.average.applied(self.model)
        return contextlib.nullcontext()

    def _recall_best(self) -> None:
        """Take up what an earlier attempt found best."""
        path = self.folder.best
        known = json.loads(path.read_text()) if dist.rank() == 0 and path.exists() else None
        known = dist.broadcast_object(known)
        if known is not None and known["metric"] == self._monitor.metric:
            self._monitor.best = known["value"]
            self.checkpointer.protected = known["step"]

    def _keep_if_best(self) -> None:
        """Save and protect this step if the watched metric is the best so far."""
        if not self._monitor.improved(self._metrics):
            return
        previous, self.checkpointer.protected = self.checkpointer.protected, self._step
        self._save(wait=True, must=False)
        whole = self.folder.checkpoints / f"step-{self._step}" / COMMIT
        if not dist.broadcast_object(whole.exists()):
            self.checkpointer.protected = previous  # the save failed, and said so
        elif dist.rank() == 0:
            self.folder.require_current()
            record = {"metric": self._monitor.metric, "value": self._monitor.best}
            write_json(self.folder.best, record | {"step": self._step})

    def _save_is_due(self) -> bool:
        self.checkpointer.poll()
        due = bool(self.config.save_every) and self._step % (self.config.save_every or 1) == 0
        if minutes := self.config.save_every_minutes:
            waited = time.monotonic() - self._last_save_time > 60 * minutes
            due = due or dist.broadcast_object(waited)
        return due

    def _save(self, *, wait: bool, must: bool) -> None:
        """Save; a failed save in the middle of a run is loud but not fatal, three in a row are."""
        if not self._step:
            return  # stopped before the first step: there is nothing to lose
        beat("save", self._step)
        scaler = self.scaler.state_dict() if self.scaler.is_enabled() else None
        state = TrainState(self._step, self._step * self.plan.global_batch, scaler)
        try:
            self.checkpointer.save(state, self.model, self.optimizer, wait=wait)
            self._failed_saves = 0
        except CheckpointError as error:
            self._failed_saves += 1
            if must or self._failed_saves >= 3:
                raise
            if dist.rank() == 0:
                logger.error("step %d: %s", self._step, error)
        self._last_save_time = time.monotonic()

    def _log(self, pending: _Pending, log: RunLog | None, progress: Progress | None) -> None:
        records = pending.flush()
        if not records:
            return
        broken = next((r for r in records if not math.isfinite(r["loss"])), None)
        if log is not None:
            log.train(records)
        if progress is not None:
            shown = {k: records[-1][k] for k in _SHOWN if k in records[-1]}
            progress.update(len(records), **shown)
        if broken is not None:
            raise TrainingDiverged(
                f"the loss is {broken['loss']} at step {broken['step']}: lower optim.lr, set "
                "optim.clip_grad_norm, or use trainer.precision=fp32; "
                f"{self.folder.checkpoints} holds the steps before"
            )


class _Pending:
    """Scalars of the steps since the last log line, kept on the device: one transfer a line."""

    def __init__(self, plan: TrainPlan, peak: float | None) -> None:
        self._facts: list[dict[str, Any]] = []
        self._reports: list[dict[str, Tensor]] = []
        self._plan = plan
        self._peak = peak
        self._since = time.monotonic()
        self.last_loss = math.nan

    def start_clock(self) -> None:
        """Count the time of the steps to come from now on: an evaluation is no step."""
        self._since = time.monotonic()

    def add(self, facts: dict[str, Any], report: dict[str, Tensor]) -> None:
        """Keep a step: what every rank knows, and this rank's scalars on the device."""
        self._facts.append(facts)
        self._reports.append(report)

    def flush(self) -> list[dict[str, Any]]:
        """One record a step: means over ranks, the learning rate, and the clips a second."""
        if not self._facts:
            return []
        keys = sorted(self._reports[0])
        table = torch.stack([torch.stack([r[k].double() for k in keys]) for r in self._reports])
        table = dist.mean_over_ranks(table)
        per_step = max(time.monotonic() - self._since, 1e-9) / len(self._facts)
        clips_per_sec = self._plan.global_batch / per_step
        rate = {"clips_per_sec": round(clips_per_sec, 1)}
        flops = self._plan.forward_flops
        used = utilisation(flops, clips_per_sec, dist.world_size(), self._peak)
        records = [
            {**facts, **dict(zip(keys, row, strict=True)), **rate, **used}
            for facts, row in zip(self._facts, table.tolist(), strict=True)
        ]
        for record in records:
            record["sec_left"] = round((record["steps"] - record["step"]) * per_step, 1)
        self._facts, self._reports = [], []
        self.start_clock()
        self.last_loss = records[-1]["loss"]
        return records
