from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from egovl.engine.average import WeightAverage
from egovl.engine.checkpoint import Checkpointer, CheckpointError, TrainState, read_weights
from egovl.engine.configs import TrainerConfig
from egovl.engine.folder import RunFolder


def moved(module: nn.Linear, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for param in module.parameters():
            param.add_(torch.randn(param.shape, generator=generator))


def test_an_average_follows_by_its_decay() -> None:
    module = nn.Linear(3, 2)
    expected = {name: param.detach().clone() for name, param in module.named_parameters()}
    average = WeightAverage(module, 0.9)
    for step in range(5):
        moved(module, step)
        average.update(module)
        for name, param in module.named_parameters():
            expected[name] = 0.9 * expected[name] + 0.1 * param.detach()
    for name, tensor in expected.items():
        torch.testing.assert_close(average.tensors[name], tensor)


def test_a_model_has_the_average_inside_the_block_only() -> None:
    module = nn.Linear(3, 2)
    average = WeightAverage(module, 0.5)
    moved(module, 0)
    own = module.weight.detach().clone()
    with average.applied(module):
        assert torch.equal(module.weight, average.tensors["weight"])
    assert torch.equal(module.weight, own)


def test_buffers_are_copied_and_a_given_start_is_taken() -> None:
    module = nn.BatchNorm1d(2)
    start = {name: torch.zeros_like(tensor) for name, tensor in module.state_dict().items()}
    average = WeightAverage(module, 0.9, start)
    assert average.tensors["weight"].tolist() == [0.0, 0.0]
    module.running_mean.fill_(3.0)  # type: ignore[union-attr]
    average.update(module)
    assert average.tensors["running_mean"].tolist() == [3.0, 3.0]
    assert average.tensors["weight"].tolist() == pytest.approx([0.1, 0.1])


def test_a_checkpoint_restores_the_average_bit_for_bit(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, 1)
    module = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(module.parameters())
    saver = Checkpointer(folder)
    saver.average = WeightAverage(module, 0.9)
    moved(module, 0)
    saver.average.update(module)
    saver.save(TrainState(step=1, samples=4), module, optimizer, wait=True)
    other = nn.Linear(3, 2)
    loader = Checkpointer(folder)
    loader.average = WeightAverage(other, 0.9)
    loader.load_latest(other, torch.optim.AdamW(other.parameters()))
    for name, tensor in saver.average.tensors.items():
        assert torch.equal(loader.average.tensors[name], tensor)
        assert not torch.equal(tensor, module.state_dict()[name])
    stored = read_weights(tmp_path / "ckpt" / "step-1", averaged=True)
    assert torch.equal(stored["weight"], saver.average.tensors["weight"])


def test_a_checkpoint_without_an_average_lets_it_begin_at_the_weights(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, module = RunFolder(tmp_path, 1), nn.Linear(3, 2)
    Checkpointer(folder).save(
        TrainState(step=1, samples=4), module, torch.optim.AdamW(module.parameters()), wait=True
    )
    other = nn.Linear(3, 2)
    loader = Checkpointer(folder)
    loader.average = WeightAverage(other, 0.9)
    loader.load_latest(other, torch.optim.AdamW(other.parameters()))
    assert torch.equal(loader.average.tensors["weight"], module.weight)
    assert "has no average of weights" in caplog.text
    with pytest.raises(CheckpointError, match="no average of weights"):
        read_weights(tmp_path / "ckpt" / "step-1", averaged=True)


def test_an_option_of_the_average_without_one_is_refused() -> None:
    with pytest.raises(ValueError, match="evaluate_ema"):
        TrainerConfig(steps=1, evaluate_ema=True)
    with pytest.raises(ValueError, match="ema_decay"):
        TrainerConfig(steps=1, ema_decay=1.0)
