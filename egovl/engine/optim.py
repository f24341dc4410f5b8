"""Optimiser, weight decay groups and learning rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypedDict

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from egovl.engine.configs import OptimConfig
from egovl.engine.legacy_adamw import LegacyAdamW

DecayRule = Callable[[str, nn.Parameter], bool]


class ParamGroup(TypedDict):
    """Parameters that share a weight decay, with their names in the same order."""

    names: list[str]
    params: list[nn.Parameter]
    weight_decay: float


def is_decayed(name: str, param: nn.Parameter) -> bool:
    """Whether weight decay applies: LaViLa's rule on names and dimensions (its spec, section 5).

    Vectors and scalars do not decay, nor does a name that contains ``bias``, ``ln`` or ``bn``.
    Position, class and token embeddings and the projections do. Parity: ``param_groups_clip``.
    """
    return param.ndim >= 2 and not any(part in name for part in ("bias", "ln", "bn"))


def _every_one(name: str, param: nn.Parameter) -> bool:
    return True


def param_groups(
    model: nn.Module, weight_decay: float, is_decayed: DecayRule = is_decayed
) -> list[ParamGroup]:
    """Split the trainable parameters into those that decay and those that do not, in this order.

    Args:
        model: a shared parameter counts once, under its first name.
        weight_decay: of the first group; the second has 0.
        is_decayed: which parameters belong to the first.
    """
    decayed = ParamGroup(names=[], params=[], weight_decay=weight_decay)
    spared = ParamGroup(names=[], params=[], weight_decay=0.0)
    for name, param in model.named_parameters():
        if param.requires_grad:
            group = decayed if is_decayed(name, param) else spared
            group["names"].append(name)
            group["params"].append(param)
    return [decayed, spared]


def build_optimizer(
    model: nn.Module, config: OptimConfig, is_decayed: DecayRule = is_decayed
) -> Optimizer:
    """Make the optimiser of the model's trainable parameters; its groups as ``param_groups``.

    Raises:
        ValueError: if the model has no trainable parameter.
    """
    groups: list[dict[str, Any]] = []
    is_decayed = getattr(model, "is_decayed", is_decayed)  # a model may have a published rule
    if config.decay_all:
        is_decayed = _every_one
    for group in param_groups(model, config.weight_decay, is_decayed):
        groups += _with_lr_scales(group, config.backbone_lr_scale)
    if not groups:
        raise ValueError(f"{type(model).__name__} has no trainable parameter; all are frozen")
    if config.name == "sgd":
        return SGD(groups, lr=config.lr, momentum=config.momentum, fused=config.fused)
    if config.name == "legacy_adamw":
        return LegacyAdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps)
    return AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=config.fused)


def _with_lr_scales(group: ParamGroup, backbone: float) -> list[dict[str, Any]]:
    """The group for the optimiser, cut in heads and the rest where their rates differ."""
    decay = group["weight_decay"]
    if backbone == 1.0:
        return [{"params": group["params"], "weight_decay": decay}] if group["params"] else []
    by_scale: dict[float, list[nn.Parameter]] = {}
    for name, param in zip(group["names"], group["params"], strict=True):
        scale = 1.0 if name.startswith("heads.") else backbone
        by_scale.setdefault(scale, []).append(param)
    return [
        {"params": params, "weight_decay": decay, "lr_scale": scale}
        for scale, params in by_scale.items()
    ]


def scaled_lr_at(step: int, config: OptimConfig, total_steps: int, scale: float) -> float:
    """Learning rate of a group whose rates are those of ``config`` times ``scale``."""
    if scale == 1.0 or config.scale_lr_end:
        return lr_at(step, config, total_steps) * scale
    scaled = replace(config, lr=config.lr * scale, lr_start=config.lr_start * scale)
    return lr_at(step, scaled, total_steps)


def lr_at(step: int, config: OptimConfig, total_steps: int) -> float:
    """Learning rate of a step, counted from 0: linear warm-up, then what ``schedule`` says.

    The warm-up's last step has the peak already, and so has the cosine's first; the cosine would
    reach ``lr_end`` at ``total_steps``, one after the last. LaViLa spec section 5; parity:
    ``scheduler``. Milestones count finished epochs, EgoVLP spec section 5; parity: ``lr_schedule``.

    Raises:
        ValueError: if epochs are not counted in steps (see ``OptimConfig.in_steps``) or the warm-up
            is longer than the run.
    """
    warmup = config.warmup_steps or int(config.warmup_ratio * total_steps)
    if config.warmup_epochs:
        raise ValueError(f"warmup_epochs {config.warmup_epochs}: count it in_steps first")
    if warmup > total_steps:
        raise ValueError(f"warm-up of {warmup} steps is longer than the run, {total_steps}")
    if config.schedule.startswith("hf_"):
        return _lr_of_hf(step, config, warmup, total_steps)
    if step < warmup:
        # a warm-up of one step is its start
        return config.lr_start + (config.lr - config.lr_start) * step / max(warmup - 1, 1)
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "milestones":
        return _lr_by_milestones(step, config)
    progress = min((step - warmup) / max(total_steps - warmup, 1), 1.0)
    return config.lr_end + (config.lr - config.lr_end) * (1 + math.cos(math.pi * progress)) / 2


def _lr_of_hf(step: int, config: OptimConfig, warmup: int, total_steps: int) -> float:
    """Hugging Face's schedules, which Egoinstructor trains with (its spec, section 5)."""
    if step < warmup:
        return config.lr * step / max(1, warmup)
    if config.schedule == "hf_constant":
        return config.lr
    rest = max(1, total_steps - warmup)
    if config.schedule == "hf_linear":
        return config.lr * max(0.0, (total_steps - step) / rest)
    return config.lr * max(0.0, (1 + math.cos(math.pi * (step - warmup) / rest)) / 2)


def _lr_by_milestones(step: int, config: OptimConfig) -> float:
    if not config.steps_per_epoch:
        raise ValueError(f"milestones {config.milestones}: count them in_steps first")
    start = config.warmup_steps if config.milestones_after_warmup else 0
    finished = (step - start) // config.steps_per_epoch
    base = config.lr
    if finished and config.legacy_lr_after_epoch1 is not None:
        base = config.legacy_lr_after_epoch1
    return base * config.milestone_factor ** sum(m <= finished for m in config.milestones)


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Give every parameter group this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr
