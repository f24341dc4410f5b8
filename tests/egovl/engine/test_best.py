from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from egovl.engine.checkpoint import committed
from egovl.engine.configs import OptimConfig, TrainerConfig
from egovl.engine.evaluator import Evaluation
from egovl.engine.folder import RunFolder
from egovl.engine.signals import StopRequest
from egovl.engine.trainer import Trainer, TrainPlan
from tests.egovl.engine.toy_run import Toy, rows_of


class Scored(Toy):
    """Reports what it is told to, one value an evaluation."""

    def __init__(self, values: list[float]) -> None:
        super().__init__(None, None, "file")
        self.values = values

    def score(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        return {"accuracy": self.values.pop(0)}


def fit(folder: Path, values: list[float], steps: int, attempt: int = 1, **more: Any) -> RunFolder:
    toy = Scored(values)
    model = nn.Sequential(nn.Linear(16, 1))
    plan = TrainPlan(
        task=toy,
        model=model,
        batches=lambda start: iter([rows_of(torch.arange(4))] * (steps + 1)),
        global_batch=4,
        total_steps=steps,
        evaluations=[Evaluation("toy", toy, [rows_of(torch.arange(3))])],
        seed=0,
    )
    options = {"eval_every": 1, "keep_checkpoints": 1, "save_every": 1} | more
    config = TrainerConfig(steps=steps, precision="fp32", **options)
    run = RunFolder(folder, attempt)
    Trainer(plan, OptimConfig(), config, run, StopRequest(), torch.device("cpu")).fit()
    return run


def test_the_best_checkpoint_outlives_newer_ones(tmp_path: Path) -> None:
    run = fit(tmp_path, [1.0, 5.0, 5.0, 2.0, 4.0], 5, monitor="max toy/accuracy")
    assert json.loads(run.best.read_text()) == {"metric": "toy/accuracy", "value": 5.0, "step": 3}
    assert committed(run.checkpoints)[0] == [5, 3]


def test_a_best_step_is_saved_though_no_save_was_due(tmp_path: Path) -> None:
    run = fit(tmp_path, [1.0, 5.0, 2.0], 3, monitor="max toy/accuracy", save_every=None)
    assert committed(run.checkpoints)[0] == [3, 2]


def test_a_resumed_run_remembers_the_best(tmp_path: Path) -> None:
    fit(tmp_path, [1.0, 5.0, 2.0], 3, monitor="max toy/accuracy")
    # the resume looks again at the last step, which a stop may have left out
    run = fit(tmp_path, [2.0, 4.0, 3.0], 5, monitor="max toy/accuracy")
    assert json.loads(run.best.read_text())["step"] == 2
    assert committed(run.checkpoints)[0] == [5, 2]


def test_nothing_is_marked_without_a_monitor(tmp_path: Path) -> None:
    run = fit(tmp_path, [1.0, 5.0], 2)
    assert not run.best.exists()
    assert committed(run.checkpoints)[0] == [2]


def test_a_wrong_rule_is_refused_when_the_config_is_read() -> None:
    with pytest.raises(ValueError, match="monitor 'best': must be"):
        TrainerConfig(steps=1, monitor="best")
