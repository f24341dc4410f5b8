"""Settings of the optimiser and of the loop. Torch-free, so that reading a config stays quick."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from egovl.engine.monitor import parse_rule


def _check(owner: object, field: str, claim: bool, allowed: str) -> None:
    if not claim:
        name = type(owner).__name__
        raise ValueError(f"{name}.{field} is {getattr(owner, field)}: must be {allowed}")


@dataclass(frozen=True)
class OptimConfig:
    """Optimiser and learning rate schedule. Defaults: LaViLa's pretraining (its spec, 5)."""

    name: Literal["adamw", "sgd", "legacy_adamw"] = "adamw"
    """`legacy_adamw`: that of transformers 4.2, which EgoVLP used (eps before bias correction)."""
    lr: float = 3e-5
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW only."""
    eps: float = 1e-8
    """AdamW only."""
    weight_decay: float = 0.01
    """Of the parameters that decay; see ``egovl.engine.optim.is_decayed``."""
    decay_all: bool = False
    """Every parameter decays, vectors too, as EgoVLP's optimiser had it (with a decay of 0)."""
    momentum: float = 0.9
    """SGD only."""
    schedule: Literal[
        "constant", "cosine", "milestones", "hf_constant", "hf_linear", "hf_cosine"
    ] = "constant"
    """What follows the warm-up. `hf_`: Hugging Face's, which warm up from 0 and end at 0."""
    milestones: tuple[float, ...] = ()
    """Epochs after which the learning rate falls by `milestone_factor`."""
    milestone_factor: float = 0.1
    milestones_after_warmup: bool = False
    """Milestones count epochs from the end of the warm-up."""
    legacy_lr_after_epoch1: float | None = None
    """With milestones: the base after the first epoch, as EgoVLP's trainer overwrites it (2e-4
    unless told otherwise; parity: egovlp `lr_schedule`)."""
    steps_per_epoch: int = 0
    """What milestones count with; `in_steps` sets it."""
    warmup_steps: int = 0
    """Steps of linear warm-up from ``lr_start`` to ``lr``."""
    warmup_epochs: float = 0.0
    """The same in epochs; give one of the two."""
    warmup_ratio: float = 0.0
    """The same as a share of all steps, rounded down."""
    lr_start: float = 1e-6
    """Learning rate of step 0 where there is a warm-up."""
    lr_end: float = 1e-5
    """Where the half cosine ends."""
    scale_lr_end: bool = True
    """A scaled group ends at the scaled ``lr_end``; off, every group ends at ``lr_end`` itself
    (GroundNLQ)."""
    clip_grad_norm: float | None = None
    """Largest global gradient norm; null for no clipping."""
    clip_grad_value: float | None = None
    """Largest size of each gradient's entry, LaViLa's other way to clip; null for none."""
    backbone_lr_scale: float = 1.0
    """Factor of the towers' learning rate, everything but `heads.`; LaViLa's classification meant
    0.1 and gave it to the heads too (its spec, 8.2): lower `lr` for the published rates."""
    fused: bool = False
    """One kernel for all parameters."""

    def __post_init__(self) -> None:
        names = ("adamw", "sgd", "legacy_adamw")
        _check(self, "name", self.name in names, f"one of {', '.join(names)}")
        hf = ("hf_constant", "hf_linear", "hf_cosine")
        schedules = ("constant", "cosine", "milestones", *hf)
        _check(self, "schedule", self.schedule in schedules, f"one of {', '.join(schedules)}")
        by_milestones = self.schedule == "milestones"
        _check(self, "milestones", by_milestones or not self.milestones, "empty without them")
        after = self.milestones_after_warmup
        _check(self, "milestones_after_warmup", by_milestones or not after, "false without them")
        late = self.legacy_lr_after_epoch1
        _check(self, "legacy_lr_after_epoch1", late is None or by_milestones, "null without them")
        _check(self, "milestone_factor", self.milestone_factor > 0, "above 0")
        fused = self.fused and self.name == "legacy_adamw"
        _check(self, "fused", not fused, "false with legacy_adamw")
        _check(self, "lr", self.lr > 0, "above 0")
        _check(self, "betas", all(0 <= beta < 1 for beta in self.betas), "two numbers in [0, 1)")
        _check(self, "eps", self.eps > 0, "above 0")
        _check(self, "momentum", 0 <= self.momentum < 1, "in [0, 1)")
        warmups = ("warmup_steps", "warmup_epochs", "warmup_ratio")
        for field in ("weight_decay", *warmups, "lr_start", "lr_end"):
            _check(self, field, getattr(self, field) >= 0, "0 or more")
        _check(self, "backbone_lr_scale", self.backbone_lr_scale >= 0, "0 or more")
        for field in ("clip_grad_norm", "clip_grad_value"):
            clip = getattr(self, field)
            _check(self, field, clip is None or clip > 0, "above 0, or null for no clipping")
        both = self.clip_grad_norm is not None and self.clip_grad_value is not None
        _check(self, "clip_grad_value", not both, "null with clip_grad_norm: clip in one way")
        _check(self, "warmup_ratio", self.warmup_ratio <= 1, "at most 1")
        if sum(getattr(self, field) > 0 for field in warmups) > 1:
            raise ValueError(
                f"OptimConfig: warmup_steps {self.warmup_steps}, warmup_epochs "
                f"{self.warmup_epochs}, warmup_ratio {self.warmup_ratio}: give one of them"
            )

    def in_steps(self, steps_per_epoch: int) -> OptimConfig:
        """The same settings with the warm-up counted in steps, rounded down."""
        counted = replace(self, steps_per_epoch=steps_per_epoch)
        if not self.warmup_epochs:
            return counted
        steps = int(self.warmup_epochs * steps_per_epoch)
        return replace(counted, warmup_steps=steps, warmup_epochs=0.0)


@dataclass(frozen=True)
class TrainerConfig:
    """How long to train, how often to look, and how to compute."""

    steps: int | None = None
    """Optimiser steps of the whole run; give this or ``epochs``."""
    epochs: float | None = None
    """Passes over the training set; give this or ``steps``."""
    log_every: int = 10
    """Steps between two lines of metrics."""
    eval_every: int | None = None
    """Steps between two evaluations; null evaluates only at the end."""
    save_every: int | None = None
    """Steps between two checkpoints."""
    save_every_minutes: float | None = None
    """Minutes between two checkpoints; also with ``save_every``, whichever comes first."""
    keep_checkpoints: int = 2
    """Newest checkpoints that stay; two survive a damaged newest one."""
    monitor: str = "off"
    """``max egomcq/inter_video``: after an evaluation that is the best so far by this metric, save,
    keep that checkpoint whatever comes later, and name it in best.json; `off` watches nothing."""
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    """Autocast type of the forward; fp16 scales the loss. Parameters and losses stay float32."""
    parallel: Literal["ddp", "fsdp2"] = "ddp"
    """ddp holds a whole copy on every rank; fsdp2 shards weights, gradients and optimiser state:
    for models that do not fit."""
    compile: bool = False
    """Run the model through torch.compile."""
    ema_decay: float | None = None
    """Keep a moving average of the weights, this much of it old after each step; null: none. It is
    saved with every checkpoint; ``init.weights=ema`` starts from it."""
    evaluate_ema: bool = False
    """Evaluations during training see the average instead of the weights themselves."""
    legacy_ema_init: bool = False
    """GroundNLQ: the average starts from the weights as they were before ``init`` was loaded."""
    accumulate: int = 1
    """Parts of a step, each with a loss of its own; a contrastive loss compares within a part only
    (`micro_batch` compares all)."""
    micro_batch: int | None = None
    """Rows of a forward on each rank; a contrastive loss still compares the whole batch, and its
    gradient is the whole batch's, for one more forward. Null: the whole batch at once."""
    async_save: bool = True
    """Write checkpoints while training goes on."""
    deterministic: bool = False
    """Only deterministic kernels: slower, bit-equal on the same GPUs."""
    tf32: bool = True
    """Let float32 products on GPUs use TF32."""
    find_unused_parameters: bool = False
    """For models of which a step may leave trainable parameters unused."""
    bucket_warmup: bool = True
    """Backward once and drop it at every start, so that DDP's order of sums is the same after a
    resume; needed for bit-equal resumes with more than two ranks."""

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(
                f"TrainerConfig: steps is {self.steps} and epochs is {self.epochs}: "
                "give exactly one of them"
            )
        fields = ("steps", "epochs", "eval_every", "save_every", "save_every_minutes")
        for field in fields:
            value = getattr(self, field)
            _check(self, field, value is None or value > 0, "above 0, or null")
        for field in ("log_every", "keep_checkpoints", "accumulate"):
            _check(self, field, getattr(self, field) >= 1, "1 or more")
        micro = self.micro_batch
        _check(self, "micro_batch", micro is None or micro >= 1, "1 or more, or null")
        if micro is not None and self.accumulate > 1:
            raise ValueError(
                f"TrainerConfig: micro_batch {micro} and accumulate {self.accumulate}: "
                "give one of them"
            )
        ema = self.ema_decay
        _check(self, "ema_decay", ema is None or 0 <= ema < 1, "in [0, 1), or null for no average")
        for field in ("evaluate_ema", "legacy_ema_init"):
            _check(self, field, not getattr(self, field) or ema is not None, "false without one")
        parse_rule(self.monitor)
        precisions = ("fp32", "bf16", "fp16")
        _check(self, "precision", self.precision in precisions, "fp32, bf16 or fp16")
        _check(self, "parallel", self.parallel in ("ddp", "fsdp2"), "ddp or fsdp2")
