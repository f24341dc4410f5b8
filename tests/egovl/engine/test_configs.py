from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from egovl.engine.configs import OptimConfig, TrainerConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0.0}, "OptimConfig.lr is 0.0: must be above 0"),
        ({"name": "adam"}, "name is adam: must be one of adamw, sgd"),
        ({"schedule": "step"}, "schedule is step"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"eps": 0.0}, "eps"),
        ({"momentum": 1.0}, "momentum"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1: must be 0 or more"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"lr_end": -1e-5}, "lr_end"),
        ({"clip_grad_norm": 0.0}, "clip_grad_norm"),
        ({"warmup_steps": 3, "warmup_epochs": 1.0}, "warmup_steps 3, warmup_epochs 1.0"),
    ],
)
def test_optimizer_settings_that_make_no_sense_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        OptimConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "exactly one"),
        ({"steps": 5, "epochs": 1.0}, "steps is 5 and epochs is 1.0"),
        ({"steps": 0}, "TrainerConfig.steps is 0: must be above 0"),
        ({"epochs": -1.0}, "epochs is -1.0"),
        ({"steps": 5, "log_every": 0}, "log_every is 0: must be 1 or more"),
        ({"steps": 5, "eval_every": 0}, "eval_every"),
        ({"steps": 5, "save_every": -2}, "save_every"),
        ({"steps": 5, "save_every_minutes": 0.0}, "save_every_minutes"),
        ({"steps": 5, "keep_checkpoints": 0}, "keep_checkpoints"),
        ({"steps": 5, "accumulate": 0}, "accumulate"),
        ({"steps": 5, "precision": "fp8"}, "precision is fp8: must be fp32, bf16 or fp16"),
    ],
)
def test_trainer_settings_that_make_no_sense_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        TrainerConfig(**settings)


def test_sensible_settings_are_accepted() -> None:
    assert TrainerConfig(epochs=0.5).steps is None
    assert TrainerConfig(steps=3, save_every=1, save_every_minutes=0.5).save_every == 1
    assert OptimConfig(clip_grad_norm=1.0, warmup_epochs=1).warmup_steps == 0


def test_reading_the_settings_does_not_load_torch() -> None:
    code = "import sys, egovl.engine.configs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_gradients_are_clipped_in_one_way_only() -> None:
    with pytest.raises(ValueError, match=r"clip_grad_value is 1\.0: must be null with"):
        OptimConfig(clip_grad_norm=1.0, clip_grad_value=1.0)
    with pytest.raises(ValueError, match="clip_grad_value is 0: must be above 0"):
        OptimConfig(clip_grad_value=0)
